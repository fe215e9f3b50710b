"""Does a latent ODE extrapolate irregular spirals better than a recurrent network (Table 2)?

1,000 two-dimensional spirals, half of them clockwise, each observed with noise at n = 30, 50 or
100 of 100 equally spaced times; errors are root mean squares over the 100 times that follow, of
500 other spirals, against their noise-free truth, over trajectories, times and coordinates.

Rows, for each n:

- `rnn_<n>`: 25 units, told nothing about gaps; one step for each of the 100 times, given the
  observation where there is one and else its own mean; trained on the Gaussian log-likelihood of
  the next observation; beyond the span it is fed its own mean.
- `rnn_gap_<n>`: 25 units, one step an observation, told the time to the next; beyond the span it
  takes steps of one grid time, shorter than most that it was trained with at n = 30 and 50. The
  paper trains both and does not say which of them it prints.
- `latent_ode_<n>`: recognition network of 25 units backwards in time, latent state of 4, field
  with one hidden layer of 20, decoder with one of 20; trained on the evidence lower bound.

- `advantage_<n>`: the better recurrent network's `rmse` over the latent ODE's, same seed
  (`advantage`), once all three have ended.

Metrics: `rmse` as above; `rmse_span`, the same within the observed span, each series from behind
its first observation (recurrent networks predict there one step ahead, the latent ODE smooths);
`rmse_median`, the median over trajectories of their own errors. Of `latent_ode_30`:
`probe_accuracy`, the part of the test spirals whose direction a linear probe on z0 tells, and
`direction_flips`, how often the decoded direction changes on the line from the mean z0 of one
direction to that of the other (21 points).

What the paper leaves open, and deviations:

1. The spirals: r = 0.3 θ wound inwards as in its Figure 8, two kinds that are mirror images, times
   a scale of 0.3, observed over 3.7 radians; noise 0.1. The authors' later code winds outwards and
   cannot give the paper's values; `table2_sweep` has it, other noise, scales and protocols.
2. Likelihoods have the noise's own standard deviation.
3. What `rnn` is given where nothing was observed is not stated; `table2_sweep` has other readings.
4. `paper`: 2,000 updates on all trajectories at once, Adam 0.01, as in the authors' later code;
   float64 at the paper's tolerance 1.5e-8, gradients by direct back-propagation.
5. `short` and `quick`: batches of 100, one cycle up to Adam 0.01, gradients clipped to a length of
   100, float32 at 1e-5. In trials with another seed, many small updates took a latent ODE further
   than few large ones in the same time; the recurrent networks get as many.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reproduce import fits, own_rows, restored, series_protocol
from reproduce.context import Context, Profile
from reproduce.fits import Fit
from reproduce.jobs import BadSettings, configuration
from reproduce.records import Record
from reproduce.trials import Contract

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reproduce.jobs import Result

PROTOCOL = 1
BASE = "latent_ode.yaml"  # of which a user's own row has trainer and data
CONTRACT = Contract(
    ("test/rmse",),
    "A model of this table is a LightningModule that takes the batches of datamodules.Spirals and "
    "logs test/rmse, the root mean square error at the future times.",
)
TRAINS = True
NETWORKS = ("rnn", "rnn_gap", "latent_ode")
POINTS = (30, 50, 100)
PROBED = "latent_ode_30"
MINUTES = {"smoke": 1.0, "quick": 6.5, "short": 14.0, "paper": None}
SEEDS = {"smoke": 1, "quick": 1, "short": 5, "paper": 5}
PROFILES = {
    name: Profile(given, SEEDS[name], MINUTES[name])
    for name, given in series_protocol.OVERRIDES.items()
}


def run(ctx: Context) -> list[Record]:
    """Train all networks with every number of points, seed by seed."""
    work = [
        Fit(
            row=f"{network}_{points}",
            metric="rmse",
            config=series_protocol.CONFIGS[network],
            seed=seed,
            overrides={
                **series_protocol.overrides(ctx.profile, network),
                "data.points": points,
            },
        )
        for seed in ctx.seeds
        for points in POINTS
        for network in NETWORKS
    ]
    work += _own(ctx)
    fixed = series_protocol.FIXED
    records = fits.run(ctx, "table2", PROTOCOL, work, _measure, _unit, fixed, contract=CONTRACT)
    return [*records, *_advantages(ctx, records)]


def _own(ctx: Context) -> list[Fit]:
    """Return the trainings of the user's own rows, one for every number of points."""
    base = configuration(BASE)
    try:
        rows = [own_rows.placed(row, base) for row in ctx.own]
    except ValueError as error:
        raise BadSettings(f"table2, {error}") from error
    return [
        Fit(
            row=f"{row.name}_{points}",
            metric="rmse",
            config=BASE,
            seed=seed,
            overrides={
                **row.applying(series_protocol.OVERRIDES[ctx.profile]),
                "data.points": points,
            },
            own=row,
        )
        for seed in ctx.seeds
        for points in POINTS
        for row in rows
    ]


def _networks(records: Sequence[Record]) -> list[str]:
    """Return the networks of the table, then those that a user has added to its records."""
    ends = {f"_{points}" for points in POINTS}
    names = [r.row.rpartition("_")[0] for r in records if f"_{r.row.rpartition('_')[2]}" in ends]
    return [name for name in dict.fromkeys([*NETWORKS, *names]) if name != "advantage"]


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per number of points: error of each network, mean over seeds and half its interval.

    In brackets the error within the observed span; behind them the ratio, and its range.
    """
    import pandas as pd

    lines: dict[str, dict[str, str]] = {}
    for points in POINTS:
        line = {}
        for network in _networks(records):
            row = f"{network}_{points}"
            found, span = (_mean(records, row, metric) for metric in ("rmse", "rmse_span"))
            if found:
                within = f" [{span[0]:.3f}]" if span else ""
                line[network] = f"{found[0]:.3f} ± {found[1]:.3f}{within}"
        ratios = [r.value for r in records if r.row == f"advantage_{points}"]
        if ratios:
            line["ratio"] = f"{fmean(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
        lines[f"{points}/100"] = line
    return pd.DataFrame.from_dict(lines, orient="index")


def plot(records: list[Record]) -> "Figure":
    """Errors and ratios against the number of points, a mark a seed, beside the paper's."""
    from reproduce import plotting

    with plotting.style():
        figure, (left, right) = plotting.subplots(1, 2, size=(7.0, 4.8))
        networks = _networks(records)
        for network, beside in zip(networks, _beside_the_paper(len(networks)), strict=True):
            _course(left, records, network, "rmse", beside)
        _course(right, records, "advantage", "advantage", 0.0)
        left.set_ylabel("RMSE on 100 future times")
        right.set_ylabel("better RNN's over latent ODE's", fontsize=12)
        right.axhline(1, color="#555555", linewidth=1)
        for axes, columns in ((left, 2), (right, 1)):
            axes.set_yscale("log")
            plotting.plain_ticks(axes.yaxis)
            plotting.slots(axes, [str(points) for points in POINTS])
            axes.set_xlabel(
                "observed points of 100; marks of one number side by side", fontsize=12
            )
            axes.legend(fontsize=10, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)
        seeds = len({r.seed for r in records})
        figure.suptitle(
            f"{records[0].budget}; {seeds} seed{'' if seeds == 1 else 's'}", fontsize=12
        )
    return figure


def _beside_the_paper(networks: int) -> list[float]:
    """Return where the networks stand in a slot, whose middle is left to the published values."""
    before = (networks + 1) // 2
    places = [*range(-before, 0), *range(1, networks - before + 1)]
    return [0.36 * place / before for place in places]


def _course(axes: "Axes", records: list[Record], name: str, metric: str, shift: float) -> None:
    """Draw every seed, a line through the means and the published values, hollow, alike coloured.

    Args:
        axes: Where.
        records: The rows.
        name: What the rows are called before the number of points.
        metric: Their metric.
        shift: How far from the middle of the slot of a number of points.
    """
    from reproduce import paper, plotting

    style: dict[str, Any] = {**plotting.method_style(name), "markersize": 8}
    marks = [
        (slot, r.seed, r.value)
        for slot, points in enumerate(POINTS)
        for r in records
        if (r.row, r.metric, r.status) == (f"{name}_{points}", metric, "ok")
    ]
    if marks:
        seeds = sorted({seed for _, seed, _ in marks})
        beside = dict(zip(seeds, plotting.side_by_side(len(seeds), 0.17), strict=True))
        places = [slot + shift + beside[seed] for slot, seed, _ in marks]
        axes.plot(places, [v for *_, v in marks], linestyle="none", alpha=0.8, **style)
        means = {p: fmean(v for q, _, v in marks if q == p) for p, *_ in marks}
        middles = [slot + shift for slot in means]
        axes.plot(middles, list(means.values()), color=style["color"], linewidth=1.5)
    published = {
        slot: number.value
        for slot, points in enumerate(POINTS)
        for number in paper.numbers("table2")
        if (number.row, number.metric) == (f"{name}_{points}", metric)
    }
    if published:
        look = {**plotting.PAPER_STYLE, "color": style["color"], "linestyle": ":"}
        look["label"] = f"{style['label']}, paper"
        axes.plot(list(published), list(published.values()), **look)


def _measure(fit: Fit, result: "Result", records: Sequence[Record]) -> dict[str, float]:
    from reproduce import latent_space

    found = {
        name: result.metrics[f"test/{name}"]
        for name in ("rmse", "rmse_span", "rmse_median")
        if f"test/{name}" in result.metrics
    }
    found |= {
        "parameters": result.parameters,
        "train_seconds": result.cost["train_seconds"],
    }
    if fit.row.startswith("latent_ode"):
        found["train_nfe_forward"] = result.cost["train_nfe_forward"]
    if fit.row == PROBED:
        from datamodules import Spirals
        from lightning_modules import TrajectoryModel

        given = {**result.job.resolved["data"]["init_args"], "data_seed": fit.seed}
        model, data = restored.finished(result, TrajectoryModel), Spirals(**given)
        found["probe_accuracy"] = latent_space.probe_accuracy(model, data)
        turned = latent_space.turning_on_line(model, data)
        found["direction_flips"] = latent_space.flips(turned)
    return found


def _advantages(ctx: Context, records: Sequence[Record]) -> list[Record]:
    """Write how the better recurrent network compares, where all three networks have ended."""
    errors = {(r.row, r.seed): r for r in records if (r.metric, r.status) == ("rmse", "ok")}
    made: list[Record] = []
    for seed in ctx.seeds:
        for points in POINTS:
            found = [errors.get((f"{network}_{points}", seed)) for network in NETWORKS]
            ended = [row for row in found if row is not None]
            if len(ended) < len(NETWORKS):
                continue
            *recurrent, latent = ended
            ratio = min(r.value for r in recurrent) / latent.value
            made += ctx.keep(
                "table2",
                PROTOCOL,
                {f"advantage_{points}": {"advantage": ratio}},
                {r.row: r.run for r in (*recurrent, latent)},
                budget=latent.budget,
                unit=_unit,
                seed=seed,
            )
    return made


def _unit(metric: str) -> str:
    units = {"parameters": "parameters", "train_seconds": "s", "train_nfe_forward": "evaluations"}
    return units.get(metric, "")


def _mean(records: list[Record], row: str, metric: str) -> tuple[float, float] | None:
    """Return the mean over seeds and half its 95 % interval (0 for one seed)."""
    from reproduce import statistics

    values = [r.value for r in records if (r.row, r.metric, r.status) == (row, metric, "ok")]
    values = [value for value in values if math.isfinite(value)]
    if not values:
        return None
    interval = statistics.mean_interval(values)
    return interval.value, interval.high - interval.value if len(values) > 1 else 0.0
