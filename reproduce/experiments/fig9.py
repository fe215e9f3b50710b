"""Does moving the initial state of a latent ODE turn a spiral's direction over (Figure 9)?

Nothing is trained: the network is that of `table2` with 30 of 100 points, of its lowest seed. The
figure decodes paths from initial states on two lines: between the mean z0 of counter-clockwise and
that of clockwise test spirals, which need be no spiral's, and between the z0 of two real spirals,
the first of each direction in the test. As the paper does, it also moves a single coordinate of z0
along a line while the others stay in the middle.

Rows: `line` for all coordinates between the means, `coordinate_1` to `coordinate_4` for each
alone; `pair` and `pair_coordinate_1` to `pair_coordinate_4` between the two spirals. Metrics:
`turning_<k>`, the angle in radians by which the velocity turns over the observed span at step k of
21, above 0 counter-clockwise, and `flips`, how often its sign changes along the steps. Row
`pairs`, for the first spirals of each direction, the second ones and so on: `count` of such pairs,
`ends_right`, in what part of them both ends turn as the spirals do, and `flips_once`, in what part
the direction changes exactly once.

Deviations: the paper does not say which coordinate it moves, nor from where to where. Claim C20
asks for one flip between the means, under every seed of `table2`.
"""

from statistics import fmean
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from datamodules import Spirals
    from lightning_modules import TrajectoryModel

PROTOCOL = 1
TRAINS = False
NETWORK = "latent_ode_30"
PANELS = 7
LINES = {"line": "two means", "pair": "two spirals"}  # rows, and what the line is between
LOOKS = (("orange", "s"), ("green", "^"), ("purple", "v"), ("black", "X"))
PROFILES = {
    name: Profile({}, seeds=1, minutes=0.2) for name in ("smoke", "quick", "short", "paper")
}


def run(ctx: Context) -> list[Record]:
    """Decode all lines; write their rows at once."""
    from reproduce import latent_space, trained_series

    model, facts = trained_series.of_table_2(NETWORK, [ctx.out], ctx.profile)
    data = trained_series.spirals(facts)
    values = {}
    for row, states in _states(model, data).items():
        turned = latent_space.decoded_turning(model, data, states)
        values[row] = {f"turning_{k}": float(angle) for k, angle in enumerate(turned)}
        values[row]["flips"] = latent_space.flips(turned)
    values["pairs"] = _of_pairs(model, data)
    return ctx.keep(
        "fig9",
        PROTOCOL,
        values,
        {"run": facts["run"]},
        budget=facts["budget"],
        unit=lambda metric: "rad" if metric.startswith("turning") else "",
        seed=facts["seed"],
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per line: turning at both ends and in the middle, and flips; then of all pairs."""
    from reproduce.latent_space import STEPS
    from reproduce.records import to_frame

    wide = to_frame(records).pivot_table(index="row", columns="metric", values="value")
    turnings = [f"turning_{k}" for k in (0, STEPS // 2, STEPS - 1)]
    return wide.reindex(columns=[*turnings, "flips", "count", "ends_right", "flips_once"])


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return paths along both lines, coloured by time, the spirals' own behind, and their turning.

    The coordinate that is shown alone is the one that turns a path over once, or else turns it
    most.
    """
    from reproduce import plotting, trained_series

    model, facts = trained_series.of_table_2(NETWORK, [folder.parent], records[0].profile)
    data = trained_series.spirals(facts)
    states = _states(model, data)
    turned = {row: _course(records, row) for row in states}
    flips = {r.row: int(r.value) for r in records if r.metric == "flips"}
    shown = [row for line in LINES for row in (line, _alone(line, turned, flips))]
    with plotting.style():
        figure, axes = plotting.subplots(5, PANELS, size=(1.9, 2.1))
        for panels, row in zip(axes, shown, strict=False):
            _draw_paths(panels, model, data, states[row])
            told = f"{LINES[_line_of(row)]},\n{_name(row)}:\n{_flips(flips[row])}"
            panels[0].set_ylabel(told, fontsize=11)
        for panel, step in zip(axes[0], _steps(), strict=True):
            panel.set_title(f"{step / (len(states['line']) - 1):.2f}", fontsize=12)
        for panel, which in zip(axes[shown.index("pair")][[0, -1]], (False, True), strict=True):
            _, _, _, _, truth, clockwise = data.fixed("test")
            spiral = truth[int((clockwise == which).nonzero()[0]), : data.grid]
            panel.plot(*spiral.T.numpy(), color="#999999", linewidth=5, alpha=0.5, zorder=0)
        grid = axes[4][0].get_gridspec()
        for blank in axes[4]:
            blank.remove()
        left = figure.add_subplot(grid[4, :3])
        right = figure.add_subplot(grid[4, 4:], sharey=left)
        for below, line in zip((left, right), LINES, strict=True):
            _draw_turning(below, turned, line)
        left.set_ylabel("turning (rad)", fontsize=12)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=11)
        figure.suptitle(f"{_told(records)}\n{records[0].budget}", fontsize=12)
    return {"": figure}


def _draw_paths(
    panels: "Sequence[Axes]", model: "TrajectoryModel", data: "Spirals", states: "Tensor"
) -> None:
    """Draw some of the paths that start from states, each in a panel, all on one scale."""
    import torch

    times = data.times[: data.grid]
    with torch.no_grad():
        paths = model.decode(states, times)
    half = 1.2 * float(paths.abs().max())
    for panel, k in zip(panels, _steps(), strict=True):
        x, y = paths[k].T.numpy()
        panel.scatter(x, y, c=times, cmap="plasma", s=6)
        panel.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[])
        panel.set_aspect("equal")
        panel.grid(False)
        panel.spines[:].set(visible=True, color="#999999", linewidth=0.8)


def _draw_turning(axes: "Axes", turned: "Mapping[str, Sequence[float]]", line: str) -> None:
    from reproduce.plotting import OKABE_ITO

    for row, course in turned.items():
        if _line_of(row) != line:
            continue
        colour, mark = ("blue", "o") if row == line else LOOKS[int(row[-1]) - 1]
        look: dict[str, Any] = {"color": OKABE_ITO[colour], "marker": mark, "markersize": 4}
        places = [k / (len(course) - 1) for k in range(len(course))]
        axes.plot(places, course, label=_name(row), linewidth=3 if row == line else 1, **look)
    axes.axhline(0, color="#555555", linewidth=1)
    axes.set_title(f"between {LINES[line]}", fontsize=12)
    axes.set_xlabel("from counter-clockwise (0) to clockwise (1)", fontsize=11)


def _steps() -> list[int]:
    """Return which steps of a line have a panel."""
    from reproduce.latent_space import STEPS

    return [round(k * (STEPS - 1) / (PANELS - 1)) for k in range(PANELS)]


def _course(records: list[Record], row: str) -> list[float]:
    """Return the turnings of a row from step to step."""
    found = {
        int(r.metric.removeprefix("turning_")): r.value
        for r in records
        if r.row == row and r.metric.startswith("turning_")
    }
    return [found[k] for k in sorted(found)]


def _alone(line: str, turned: "Mapping[str, Sequence[float]]", flips: "Mapping[str, int]") -> str:
    """Return the row of the coordinate that turns a path over once, or else turns it most."""
    others = [row for row in turned if _line_of(row) == line and row != line]
    return max(others, key=lambda row: (flips[row] == 1, max(turned[row]) - min(turned[row])))


def _told(records: list[Record]) -> str:
    """Say how the figure is read, and how often the direction flips between all pairs."""
    pairs = {r.metric: r.value for r in records if r.row == "pairs"}
    return (
        "Decoded paths, dark to light in time, grey: the spirals themselves. All of z0 flips "
        f"exactly once between {100 * pairs['flips_once']:.0f} % of {pairs['count']:.0f} pairs."
    )


def _flips(count: int) -> str:
    return f"{count} flip{'' if count == 1 else 's'}"


def _line_of(row: str) -> str:
    return "pair" if row.startswith("pair") else "line"


def _name(row: str) -> str:
    return "all of z0" if row in LINES else row.removeprefix("pair_").replace("_", " ")


def _states(model: "TrajectoryModel", data: "Spirals") -> "dict[str, Tensor]":
    """Return the initial states of every row, ``(steps, latent)``."""
    from reproduce import latent_space

    means, pair = latent_space.line(model, data), next(latent_space.pairs(model, data))
    found = {}
    for row, prefix, states in (("line", "", means), ("pair", "pair_", pair)):
        found[row] = states
        for i in range(states.shape[1]):
            found[f"{prefix}coordinate_{i + 1}"] = latent_space.alone(states, i)
    return found


def _of_pairs(model: "TrajectoryModel", data: "Spirals") -> dict[str, float]:
    """Return how many pairs of spirals there are, and what becomes of their directions."""
    from reproduce import latent_space

    turned = [
        latent_space.decoded_turning(model, data, states)
        for states in latent_space.pairs(model, data)
    ]
    return {
        "count": len(turned),
        "ends_right": fmean(bool(t[0] > 0) and bool(t[-1] < 0) for t in turned),
        "flips_once": fmean(latent_space.flips(t) == 1 for t in turned),
    }
