"""What moves the errors of Table 2: data, likelihood, training, tolerance, protocol of the RNN.

The paper publishes neither scale, noise nor course of its spirals, no updates, rate or batch, and
does not say what its RMSE averages over. Each row changes one thing in the protocol that `table2`
has under the same profile, with n = 30 of 100 points, and trains what it may concern anew.

Rows:

- `base`: as in `table2`; besides `rnn_gap` and `rnn_blind`, which takes one step an observation
  and is not told the gaps, so that beyond the span it does not know how far a step goes;
- `points_50`, `points_100`: `rnn_blind` with the paper's other numbers of points, since a network
  that is not told the gaps is a reading of the paper's RNN row; with all 100 it equals `rnn`;
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
- `full_batch`: 2,000 updates on all trajectories at a constant rate of 0.01, as there;
- `shorter`, `longer`: a tenth of the updates and four times as many;
- `tight`: float64 at tolerance 1.5e-8.

Metrics: `<network>_rmse`, `<network>_rmse_span` and `<network>_rmse_median` as in `table2`;
`<network>_rmse_noisy`, what the error would be against observations with noise instead of the
truth, and `<network>_distance`, over trajectories and times alone, √2 times that over coordinates
too; `ratio`, the RNN's `rmse` over the latent ODE's.

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


def _noise(std: float) -> dict[str, Any]:
    return {"data.noise": std, "model.noise_std": std}


VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "base": (("rnn", "rnn_gap", "rnn_blind", "latent_ode"), {}),
    "points_50": (("rnn_blind",), {"data.points": 50}),
    "points_100": (("rnn_blind",), {"data.points": 100}),
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
    "full_batch": (
        BOTH,
        {"data.batch_size": 1000, "data.steps": 100, "model.schedule.name": "constant"},
    ),
    "shorter": (BOTH, {}),  # see `FACTORS`
    "longer": (BOTH, {}),
    "tight": (
        LATENT,
        {"model.solver.rtol": 1.5e-8, "model.solver.atol": 1.5e-8, "trainer.precision": "64-true"},
    ),
}
FACTORS = {"shorter": 0.1, "longer": 4}  # of the updates
SHORTENED = {"smoke": ("base", "example", "tight"), "quick": ("base", "example", "longer")}
MINUTES = {"smoke": 1.0, "quick": 4.0, "short": 25.0, "paper": None}
PROFILES = {
    name: Profile(given, seeds=1, minutes=MINUTES[name])
    for name, given in series_protocol.OVERRIDES.items()
}


def run(ctx: Context) -> list[Record]:
    """Train every variant; write its rows as soon as each training ends."""
    chosen = SHORTENED.get(ctx.profile, tuple(VARIANTS))
    work = [
        Fit(
            name=f"{variant}-{network}",
            row=variant,
            metric=f"{network}_rmse",
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
    """One line per variant: errors of each network, beyond and within the span, and the ratio."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.status == "ok"])
    wide = frame.pivot_table(index="row", columns="metric", values="value", aggfunc="mean")
    shown = [
        f"{network}_{metric}"
        for network in ("latent_ode", "rnn", "rnn_gap", "rnn_blind")
        for metric in ("rmse", "rmse_median", "rmse_span")
    ]
    wide = wide.reindex(index=[row for row in VARIANTS if row in wide.index])
    return wide[[column for column in (*shown, "ratio") if column in wide]]


def plot(records: list[Record]) -> "Figure":
    """Errors beyond the span of both networks in every variant, and the paper's."""
    from reproduce import paper, plotting

    rows = [row for row in VARIANTS if any(r.row == row for r in records)]
    published = {
        number.row: number.value
        for number in paper.numbers("table2")
        if number.metric == f"rmse_{POINTS}" and isinstance(number.value, float)
    }
    with plotting.style():
        figure, axes = plotting.subplots(size=(9.0, 0.42 * len(rows) + 2.0))
        for network in ("latent_ode", "rnn", "rnn_gap", "rnn_blind"):
            style: dict[str, Any] = {**plotting.method_style(network), "markersize": 10}
            found = {
                rows.index(r.row): r.value
                for r in records
                if r.metric == f"{network}_rmse" and r.status == "ok"
            }
            axes.plot(list(found.values()), list(found), linestyle="none", **style)
            if network in published:
                look = {"color": style["color"], "linestyle": "--", "linewidth": 1.2}
                name = f"{style['label']}, paper"
                axes.axvline(published[network], label=name, **look)
        for number in paper.numbers("table2"):
            row = number.metric.replace("rmse", "points")
            if number.row == "rnn" and row in rows:
                axes.plot(number.value, rows.index(row), **plotting.PAPER_STYLE)
        axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.set_xlabel(f"RMSE on 100 future times, {POINTS} of 100 points observed")
        axes.legend(fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5))
        base = next((r.budget for r in records if r.row == "base"), records[0].budget)
        figure.suptitle(base, fontsize=12)
    return figure


def _overrides(profile: str, variant: str, network: str) -> dict[str, Any]:
    given = {**series_protocol.overrides(profile, network), "data.points": POINTS}
    changes = VARIANTS[variant][1]
    if profile == "smoke":  # as small as the others, whatever is varied
        changes = {k: v for k, v in changes.items() if k not in ("data.batch_size", "data.steps")}
    if variant in FACTORS:
        steps = FACTORS[variant] * given.get("data.steps", 100)
        changes = {"data.steps": max(1, round(steps))}
    return {**given, **changes}


def _measure(fit: Fit, result: "Result", records: Sequence[Record]) -> dict[str, float]:
    network = result.job.resolved["model"]["init_args"]["network"]
    test = {name: result.metrics[f"test/{name}"] for name in ("rmse", "rmse_span", "rmse_median")}
    noise = result.job.resolved["data"]["init_args"]["noise"]
    test["rmse_noisy"] = math.hypot(test["rmse"], noise)
    test["distance"] = math.sqrt(2) * test["rmse"]
    found = {f"{network}_{name}": value for name, value in test.items()}
    others = [
        r.value
        for r in records
        if (r.row, r.seed, r.metric, r.status) == (fit.row, fit.seed, "rnn_rmse", "ok")
    ]
    if network == "latent_ode" and others:
        found["ratio"] = others[0] / test["rmse"]
    return found


def _unit(metric: str) -> str:
    return ""
