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

Deviations: those of `table2`; one seed, so no verdict rests on this.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reproduce import fits, series_protocol
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
MINUTES = {"smoke": 1.0, "quick": 4.0, "short": 40.0, "paper": None}
# A sweep is wide and need not be deep: a third of the updates that `table2` has.
TRAINED = {**series_protocol.OVERRIDES, "short": series_protocol.OVERRIDES["quick"]}
PROFILES = {
    name: Profile(given, seeds=1, minutes=MINUTES[name]) for name, given in TRAINED.items()
}


def run(ctx: Context) -> list[Record]:
    """Train every variant; write its rows as soon as each training ends."""
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
    ]
    return fits.run(
        ctx, "table2_sweep", PROTOCOL, work, _measure, _unit, series_protocol.FIXED, keep=False
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per variant: error of each network, in brackets within the span, and the ratio."""
    import pandas as pd

    values = {(r.row, r.metric): r.value for r in records if r.status == "ok"}
    lines: dict[str, dict[str, str]] = {}
    for variant in VARIANTS:
        errors = {n: values.get((f"{variant}-{n}", "rmse"), math.nan) for n in READINGS}
        spans = {n: values.get((f"{variant}-{n}", "rmse_span"), math.nan) for n in READINGS}
        line = {n: f"{e:.3f} [{spans[n]:.3f}]" for n, e in errors.items() if math.isfinite(e)}
        ratio = errors["rnn"] / errors["latent_ode"]
        if math.isfinite(ratio):
            line["rnn over latent_ode"] = f"{ratio:.2f}"
        if line:
            lines[variant] = line
    return pd.DataFrame.from_dict(lines, orient="index")


def plot(records: list[Record]) -> "Figure":
    """Errors beyond the span of all networks in every variant, and the paper's."""
    from reproduce import paper, plotting

    values = {r.row: r.value for r in records if (r.metric, r.status) == ("rmse", "ok")}
    shown = [v for v in VARIANTS if any(row.startswith(f"{v}-") for row in values)]
    with plotting.style():
        figure, axes = plotting.subplots(size=(10.0, 0.4 * len(shown) + 2.0))
        for level, network in enumerate(READINGS):
            style: dict[str, Any] = {**plotting.method_style(network), "markersize": 10}
            found = {
                place: values[f"{variant}-{network}"]
                for place, variant in enumerate(shown)
                if f"{variant}-{network}" in values
            }
            # On levels of their own, equal errors do not hide each other.
            heights = [place + 0.16 * (level % 4 - 1.5) for place in found]
            axes.plot(list(found.values()), heights, linestyle="none", **style)
        for network in BOTH:
            colour = plotting.method_style(network)["color"]
            look = {
                **plotting.PAPER_STYLE,
                "color": colour,
                "label": f"{plotting.NAMES[network]}, paper",
            }
            rows = {"base": POINTS, "points_50": 50, "points_100": 100}
            published = {
                shown.index(variant): paper.number("table2", f"{network}_{points}", "rmse").value
                for variant, points in rows.items()
                if variant in shown
            }
            axes.plot(list(published.values()), list(published), **look)
        axes.set_xscale("log")
        plotting.plain_ticks(axes.xaxis)
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_yticks(range(len(shown)), shown)
        axes.set_xlabel("RMSE on 100 future times, one seed")
        axes.legend(fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5))
        base = next((r.budget for r in records if r.row.startswith("base-")), records[0].budget)
        figure.suptitle(f"base: {base}", fontsize=12)
    return figure


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
