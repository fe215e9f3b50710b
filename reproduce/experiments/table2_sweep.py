"""What moves the errors of Table 2: data, likelihood, training, tolerance, protocol of the RNN.

The paper publishes neither scale, noise nor course of its spirals, no updates, rate or batch, and
does not say what its RMSE averages over. Each variant changes one thing in the protocol that
`table2` has under the same profile (under `short` with a third of its updates, 2,000), with n = 30
of 100 points, and trains the networks that it may concern. A row is `<variant>-<network>`.

Variants:

- `base`, `points_50`, `points_100`: as in `table2`, with further readings of the RNN: what it is
  given at times without an observation (`rnn`: its own mean, `rnn_hold`: the last observation,
  `rnn_zero`: zero), whether it is told the gaps (`rnn_gap`), and is then fed its own mean beyond
  the span in paces of the mean gap rather than of one grid time (`rnn_paced`), or is not
  (`rnn_blind`, which takes one step an observation and does not know how far a step goes);
- `noise_0.03`, `noise_0.3`: less and more noise, in the likelihood too;
- `scale_1`: positions and noise times 1/0.3;
- `example`, `example_reversed`: the authors' later curves at their own scale and noise (1, 0.3),
  outwards as in their code; and run backwards, at ours (0.3, 0.1);
- `slow`, `fast`: half and one and a half times the angle between times;
- `narrow_starts`: no training trajectory starts where its future would leave the curve, so some
  test futures lie where nothing was observed;
- `sigma_0.3`, `sigma_learned`: standard deviation of the likelihood;
- `two_layers`, `units_100`: a field with two hidden layers, as in the authors' later code, or
  with one of 100 units;
- `unclipped`: gradients as long as they are;
- `full_batch`: 2,000 updates on all trajectories at a constant rate of 0.01, as there;
- `shorter`, `longer`: a tenth of the updates and three times as many;
- `tight`: float64 at tolerance 1.5e-8.

Metrics: `rmse`, `rmse_span` and `rmse_median` as in `table2`; `rmse_noisy`, what the error would
be against observations with noise instead of the truth, and `distance`, over trajectories and
times alone, √2 times that over coordinates too.

Seeds: all rows are trained with the first, those that might explain the paper's errors with all:
`base` (`rnn`, `rnn_hold`, `latent_ode`), `example_reversed`, `sigma_learned`, `two_layers` and
`units_100`. Their differences to `base` (of `rnn_hold`, to `base-rnn`) have Welch's 95 % interval;
one is shown where Holm's procedure over all of them, at 5 %, leaves it.

Deviations: those of `table2`; most rows have one seed, so no verdict rests on this.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reproduce import fits, series_protocol, sweep_results
from reproduce.context import Context, Profile
from reproduce.fits import Fit
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from reproduce.jobs import Result

PROTOCOL = 1
TRAINS = True
POINTS = 30
SPACING = 6 * math.pi / 499  # that of `datamodules.Spirals`
BOTH, LATENT = ("rnn", "latent_ode"), ("latent_ode",)
READINGS = ("rnn", "rnn_hold", "rnn_zero", "rnn_gap", "rnn_paced", "rnn_blind", "latent_ode")


def _noise(std: float) -> dict[str, Any]:
    return {"data.noise": std, "model.noise_std": std}


VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "base": (READINGS, {}),
    "points_50": (READINGS, {"data.points": 50}),
    "points_100": (("rnn", "rnn_gap", "latent_ode"), {"data.points": 100}),  # the same readings
    "noise_0.03": (BOTH, _noise(0.03)),
    "noise_0.3": (BOTH, _noise(0.3)),
    "scale_1": (BOTH, {**_noise(1 / 3), "data.scale": 1.0}),
    "example": (BOTH, {**_noise(0.3), "data.scale": 1.0, "data.shape": "example"}),
    "example_reversed": (BOTH, {"data.shape": "example_reversed"}),
    "slow": (BOTH, {"data.spacing": 0.5 * SPACING}),
    "fast": (BOTH, {"data.spacing": 1.5 * SPACING}),
    "narrow_starts": (BOTH, {"data.wide_starts": False}),
    "sigma_0.3": (LATENT, {"model.noise_std": 0.3}),
    "sigma_learned": (BOTH, {"model.noise_std": None}),
    "two_layers": (LATENT, {"model.layers": 2}),
    "units_100": (LATENT, {"model.units": 100}),
    "unclipped": (BOTH, {"trainer.gradient_clip_val": None}),
    "full_batch": (BOTH, {"data.batch_size": 1000, "model.schedule.name": "constant"}),
    "shorter": (BOTH, {}),  # see `FACTORS`
    "longer": (BOTH, {}),
    "tight": (
        LATENT,
        {"model.solver.rtol": 1.5e-8, "model.solver.atol": 1.5e-8, "trainer.precision": "64-true"},
    ),
}
FACTORS = {"shorter": 0.1, "longer": 3}  # of the updates
SHORTENED = {"smoke": ("base", "example", "tight"), "quick": ("base", "example", "longer")}
# Points of the variants beside which the paper has an error.
PUBLISHED = {"base": 30, "points_50": 50, "points_100": 100}
# Rows that the first seed alone would leave open: what might explain the paper's errors.
REPEATED = (
    *(f"{v}-{n}" for v in ("base", "example_reversed", "sigma_learned") for n in BOTH),
    "base-rnn_hold",
    "two_layers-latent_ode",
    "units_100-latent_ode",
)
SEEDS = {"smoke": 1, "quick": 1, "short": 3, "paper": 3}
# Of the repeated rows for one seed, and of all others for the first.
MINUTES = {"smoke": (1.0, 0.0), "quick": (4.0, 0.0), "short": (8.0, 32.0), "paper": (None, 0.0)}
# A sweep is wide and need not be deep: a third of the updates that `table2` has.
TRAINED = {**series_protocol.OVERRIDES, "short": series_protocol.OVERRIDES["quick"]}
PROFILES = {name: Profile(given, SEEDS[name], *MINUTES[name]) for name, given in TRAINED.items()}


def run(ctx: Context) -> list[Record]:
    """Train every variant with the first seed and some with all; write each training's rows."""
    chosen = SHORTENED.get(ctx.profile, tuple(VARIANTS))
    work = [
        Fit(
            row=f"{variant}-{network}",
            metric="rmse",
            config=series_protocol.CONFIGS[network],
            seed=seed,
            overrides=_overrides(ctx.profile, variant, network),
        )
        for seed in ctx.seeds
        for variant in chosen
        for network in VARIANTS[variant][0]
        if seed == ctx.seeds[0] or f"{variant}-{network}" in REPEATED
    ]
    return fits.run(
        ctx, "table2_sweep", PROTOCOL, work, _measure, _unit, series_protocol.FIXED, keep=False
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per variant: error of each network, in brackets within the span, and the ratio.

    Of several seeds the mean, half its 95 % interval and their number; and by how much errors
    differ from those that the variant changes, with Welch's 95 % interval.
    """
    import pandas as pd

    errors, spans = (sweep_results.values(records, name) for name in ("rmse", "rmse_span"))
    changed = sweep_results.differences(errors)
    lines: dict[str, dict[str, str]] = {}
    for variant, networks in _shown(errors).items():
        line = {}
        for network in networks:
            row = f"{variant}-{network}"
            line[network] = f"{sweep_results.spread(errors[row])} [{fmean(spans[row]):.3f}]"
        if set(BOTH) <= set(networks):
            means = [fmean(errors[f"{variant}-{network}"]) for network in BOTH]
            line["rnn over latent_ode"] = f"{means[0] / means[1]:.2f}"
        line |= {
            f"{network} against base": sweep_results.difference(changed[f"{variant}-{network}"])
            for network in networks
            if f"{variant}-{network}" in changed
        }
        lines[variant] = line
    return pd.DataFrame(list(lines.values()), index=list(lines))


def plot(records: list[Record]) -> "Figure":
    """Errors beyond the span of all networks in every variant, and the paper's.

    Of several seeds the mean, a dot a seed and 95 % intervals, and beside them the differences to
    the base.
    """
    from reproduce import plotting, sweep_panels

    errors = sweep_results.values(records, "rmse")
    at = sweep_panels.levels(_shown(errors))
    compares = bool(sweep_results.differences(errors))
    with plotting.style():
        size = (5.5 if compares else 10.0, 0.4 * at.end + 2.0)
        options = {"sharey": True, "width_ratios": (2, 1)} if compares else {}
        figure, axes = plotting.subplots(1, 1 + compares, size=size, **options)
        left, right = axes if compares else (axes, axes)
        sweep_panels.errors(left, errors, at, READINGS)
        for network in BOTH:
            named = (f"{variant}-{network}" for variant in PUBLISHED)
            rows = [row for row in named if row in errors]
            look = {
                **plotting.PAPER_STYLE,
                "color": plotting.method_style(network)["color"],
                "label": f"{plotting.NAMES[network]}, paper",
            }
            values = [_published(row) for row in rows]
            left.plot(values, [at.of_rows[row] for row in rows], **look)
        if compares:
            sweep_panels.changes(right, errors, at)
            right.set_xlabel("difference to base", fontsize=12)
        most = max(map(len, errors.values()))
        left.set_xlabel("RMSE on 100 future times", fontsize=12)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=10)
        seeds = "one seed" if most == 1 else f"lines: 95 % over {most} seeds, a dot each; else one"
        figure.suptitle(f"base: {_base_budget(records)}; {seeds}", fontsize=12)
    return figure


def findings(records: list[Record]) -> str:
    """Say which rows come near the paper's errors, and what is shown of a cause."""
    errors = sweep_results.values(records, "rmse")
    published = {row: _published(row) for row in errors}
    budget = _base_budget(records).partition(" of ")[0]
    return sweep_results.findings(errors, published, budget)


def _shown(errors: sweep_results.Values) -> dict[str, list[str]]:
    """Return which networks there are of every variant that there is."""
    found = {v: [n for n in READINGS if f"{v}-{n}" in errors] for v in VARIANTS}
    return {variant: networks for variant, networks in found.items() if networks}


def _published(row: str) -> float:
    """Return the paper's error for as many points as a row has, of its kind of network."""
    from reproduce import paper

    variant, _, network = row.partition("-")
    kind = network if network in LATENT else "rnn"
    return float(paper.number("table2", f"{kind}_{PUBLISHED.get(variant, POINTS)}", "rmse").value)


def _base_budget(records: list[Record]) -> str:
    return next((r.budget for r in records if r.row.startswith("base-")), records[0].budget)


def _overrides(profile: str, variant: str, network: str) -> dict[str, Any]:
    given = {**TRAINED[profile], "model.network": network, "data.points": POINTS}
    changes = VARIANTS[variant][1]
    if profile == "smoke":  # as small as the others, whatever is varied
        changes = {k: v for k, v in changes.items() if k != "data.batch_size"}
    if variant in FACTORS:
        steps = FACTORS[variant] * given.get("data.steps", 100)
        changes = {"data.steps": max(1, round(steps))}
    return {**given, **changes}


def _measure(fit: Fit, result: "Result", records: Sequence[Record]) -> dict[str, float]:
    found = {name: result.metrics[f"test/{name}"] for name in ("rmse", "rmse_span", "rmse_median")}
    noise = result.job.resolved["data"]["init_args"]["noise"]
    found["rmse_noisy"] = math.hypot(found["rmse"], noise)
    found["distance"] = math.sqrt(2) * found["rmse"]
    return found


def _unit(metric: str) -> str:
    return ""
