"""The adjoint moves a start until its path ends at a point: in the deck's code, not by its slide.

As its slide has the toy problem, 201 updates take the loss from 0.215 to 0.174 only; as its code
and its pictures have it, with W transposed, from 0.463 to 0.001.

h' = W h over t in [0, 25], W = [[-0.1, 1], [-0.2, -0.1]]: find h(0) such that h(25) = (0, 1/2),
from h(0) = (1, 0). The loss is the squared distance; the adjoint a(25) = 2 (h(25) - (0, 1/2)) goes
back by a' = -a W with the same solver, and h(0) moves against a(0): momentum 0.95, rate 0.01, 201
updates, RK4 on 200 equally spaced times. All in float64, both rows side by side in one solve.

Rows, which have different answers:

- `row`: h a row vector, h' = h W, as the deck's code computes and its pictures show.
- `column`: h a column vector, h' = W h, as the formula on its slide says.

Metrics:

- `h25_1`, `h25_2`, `loss`, `gradient_1`, `gradient_2`: end, loss and dL/dh(0) from (1, 0), and the
  `singular_1`, `singular_2` values of exp(25 W), all by dopri8 at 1e-12.
- `optimum_1`, `optimum_2`: the one start with no loss, found as the deck's note says, by solving
  backwards from the target.
- `from_expm`: largest relative difference of that gradient from the matrix exponential's (SciPy).
- `rk4_error`: the same for the gradient on the grid of 200 times.
- `from_suite`, `from_direct`: largest relative difference of a(0) on the grid from the suite's
  adjoint and from back-propagation. For a linear equation RK4 backwards is RK4 transposed: both
  differ by rounding alone.
- `loss_<n>`, `h0_1_<n>`, `h0_2_<n>`: loss and start before update n, for every fifth one; `h0_1`,
  `h0_2`: the start after update 200, the last.

The figures draw the starts and losses of the rows; only the path from a start, and the adjoint
back along it, are solved again.

Why it is slow: the loss is as curved as the squares of the singular values, and one of those is 24
times the other, so h(0) comes near along one direction long before it does along the other.

Deviations:

1. The slide gives dt = 1/200; the code's grid, taken here, has 200 points and dt = 25/199.
2. The slide's formula and the code have W transposed; both are run.
"""

from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    Values = dict[tuple[str, str], float]

PROTOCOL = 1
TRAINS = False
START = (1.0, 0.0)
RATE, MOMENTUM = 0.01, 0.95
SHOWN = (0, 50, 100, 150, 200)
UPDATES = 201
EVERY = 5  # updates from one kept loss and start to the next
ROWS = ("row", "column")
NAMES = {"row": "row vectors, h′ = h W (the deck's code)", "column": "column vectors, h′ = W h"}
PROFILES = {name: Profile({}, 1, 0.3) for name in ("smoke", "quick", "short", "paper")}


def run(ctx: Context) -> list[Record]:
    """Find both starts; the rows are written at the end."""
    from reproduce import toy_paths
    from reproduce.progress import track

    start = toy_paths.both(START)
    course = toy_paths.descend(start, RATE, MOMENTUM, track(range(UPDATES), "updates"))
    checks = _checks()
    values: dict[str, dict[str, float]] = {}
    for k, row in enumerate(ROWS):
        values[row] = _exact(k) | checks[k]
        for n in range(0, UPDATES, EVERY):
            values[row][f"loss_{n}"] = float(course.losses[n, k])
            values[row] |= {f"h0_{i + 1}_{n}": float(course.starts[n, k, i]) for i in (0, 1)}
        values[row] |= {f"h0_{i + 1}": float(course.starts[-1, k, i]) for i in (0, 1)}
    points = toy_paths.POINTS
    settings = {"rate": RATE, "momentum": MOMENTUM, "points": points, "device": "cpu"}
    budget = f"{UPDATES} updates, RK4 on {points} times"
    return ctx.keep(
        "adjoint_toy", PROTOCOL, values, settings, budget=budget, unit=lambda metric: ""
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per metric, one column per reading; of the course, the updates that are drawn."""
    from reproduce.records import to_frame

    def shown(metric: str) -> bool:
        course = metric.startswith(("loss_", "h0_1_", "h0_2_"))
        return not course or int(metric.rpartition("_")[2]) in SHOWN

    frame = to_frame([r for r in records if shown(r.metric)])
    return frame.pivot_table(index="metric", columns="row", values="value", sort=False)


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return paths and adjoints at five updates for either convention, and the losses."""
    values = {(r.row, r.metric): r.value for r in records}
    found: dict[str, Figure] = {}
    for k, row in enumerate(ROWS):
        found["" if row == "row" else row] = _portraits(values, k)
    return found | {"loss": _losses(values)}


def _exact(k: int) -> dict[str, float]:
    """Return what is known in closed form, as a solve at a tolerance of 1e-12 has it."""
    import torch

    from reproduce.references import relative, tight
    from reproduce.toy_paths import TARGET, back, both, grid, slopes

    forth = grid()[[0, -1]]
    end = tight(slopes, both(START), forth)[-1]
    gradient = tight(back, 2 * (end - both(TARGET)), forth.flip(0))[-1]
    optimum = tight(slopes, both(TARGET), forth.flip(0))[-1]
    units = torch.eye(2, dtype=torch.float64)
    columns = [tight(slopes, unit.expand(2, 2), forth)[-1, k] for unit in units]
    singular = torch.linalg.svdvals(torch.stack(columns, dim=1))
    pairs = {"h25": end[k], "gradient": gradient[k], "optimum": optimum[k], "singular": singular}
    values = {f"{name}_{i + 1}": float(pair[i]) for name, pair in pairs.items() for i in (0, 1)}
    loss = float((end - both(TARGET))[k].square().sum())
    return values | {"loss": loss, "from_expm": relative(gradient[k], _by_expm(k))}


def _by_expm(k: int) -> "Tensor":
    """Return dL/dh(0) at the start by SciPy's matrix exponential."""
    import scipy.linalg
    import torch

    from reproduce.toy_paths import END, TARGET, both, matrices

    moved = torch.from_numpy(scipy.linalg.expm(END * matrices()[k].numpy()))
    return 2 * (moved @ both(START)[k] - both(TARGET)[k]) @ moved


def _checks() -> list[dict[str, float]]:
    """Compare a(0) on the grid at the start with what else there is for a gradient, by row."""
    from lightning_modules.solvers import SolverSettings
    from reproduce.references import relative
    from reproduce.toy_paths import TARGET, adjoints, both, paths

    ours = adjoints(paths(both(START))[-1])[-1]
    values = [{"rk4_error": relative(one, _by_expm(k))} for k, one in enumerate(ours)]
    for name, gradient in (("from_suite", "adjoint"), ("from_direct", "direct")):
        h0 = both(START).requires_grad_()
        settings = SolverSettings("native", "rk4", gradient=gradient)  # type: ignore[arg-type]
        (paths(h0, settings)[-1] - both(TARGET)).square().sum().backward()
        assert h0.grad is not None
        for of_row, one, other in zip(values, ours, h0.grad, strict=True):
            of_row[name] = relative(one, other)
    return values


def _start(values: "Values", row: str, n: int) -> "Tensor":
    """Return h(0) of a row before an update, ``(2,)``."""
    import torch

    return torch.tensor([values[row, f"h0_{i}_{n}"] for i in (1, 2)], dtype=torch.float64)


def _portraits(values: "Values", k: int) -> "Figure":
    """Show the path to the target and the adjoint on its way back, at five updates."""
    from reproduce import plotting
    from reproduce.toy_paths import adjoints, paths

    row = ROWS[k]
    with plotting.style():
        figure, axes = plotting.slide(2, len(SHOWN), sharey="row", sharex="row")
        for (top, bottom), n in zip(axes.T, SHOWN, strict=True):
            path = paths(_start(values, row, n).expand(2, 2))
            _path(top, path[:, k])
            top.set_title(f"update {n}\nloss {values[row, f'loss_{n}']:.4f}", fontsize=14)
            top.set_xlabel("h₁")
            _adjoint(bottom, adjoints(path[-1])[:, k])
        axes[0, 0].set_ylabel("h₂")
        axes[1, 0].set_ylabel("adjoint a")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        more = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles + more[0], labels + more[1], loc="outside lower center", ncols=6)
        figure.suptitle(f"From h(0) to (0, ½) at t = 25: {NAMES[row]}")
    return figure


def _path(axes: "Axes", path: "Tensor") -> None:
    from reproduce.plotting import OKABE_ITO as COLOUR
    from reproduce.toy_paths import TARGET

    axes.plot(*path.T.numpy(), color=COLOUR["blue"], label="path")
    axes.plot(*path[0].numpy(), "s", color=COLOUR["black"], markersize=7, label="h(0)")
    # A ring around the cross, so that both are seen where the end is at the target.
    cross: dict[str, Any] = {"color": COLOUR["black"], "markersize": 20, "markeredgewidth": 1.5}
    axes.plot(*TARGET, "+", **cross, label="target", zorder=3)
    ring: dict[str, Any] = {"color": COLOUR["vermillion"], "markersize": 10, "markeredgewidth": 3}
    axes.plot(*path[-1].numpy(), "o", **ring, markerfacecolor="none", label="h(25)", zorder=4)
    axes.margins(0.12)  # a mark at the edge is not cut


def _adjoint(axes: "Axes", a: "Tensor") -> None:
    from reproduce.plotting import OKABE_ITO as COLOUR
    from reproduce.toy_paths import grid

    times = grid().flip(0)
    axes.plot(times, a[:, 0], color=COLOUR["black"], label="a₁")
    axes.plot(times, a[:, 1], "--", color=COLOUR["vermillion"], label="a₂")
    axes.set_xlabel("t")


def _losses(values: "Values") -> "Figure":
    """Show the losses, and how far h(0) is along the two directions that the loss tells apart."""
    import torch

    from reproduce import plotting
    from reproduce.plotting import OKABE_ITO as COLOUR
    from reproduce.toy_paths import END, matrices

    kept = range(0, UPDATES, EVERY)
    looks = {"row": (COLOUR["blue"], "-"), "column": (COLOUR["vermillion"], "--")}
    with plotting.style():
        figure, (left, right) = plotting.slide(1, 2)
        for k, row in enumerate(ROWS):
            colour, line = looks[row]
            losses = [values[row, f"loss_{n}"] for n in kept]
            left.plot(kept, losses, line, color=colour, label=NAMES[row])
            optimum = torch.tensor([values[row, f"optimum_{i}"] for i in (1, 2)])
            _, singular, directions = torch.linalg.svd(torch.matrix_exp(END * matrices()[k]))
            starts = torch.stack([_start(values, row, n) for n in kept])
            missed = (starts - optimum) @ directions.T
            for i, width in enumerate((2.5, 1.2)):
                label = f"{row}, σ = {float(singular[i]):.4f}"
                look = {"color": colour, "linewidth": width, "label": label}
                right.plot(kept, missed[:, i].abs(), line, **look)
        left.set_ylabel("loss")
        left.set_title("squared distance of h(25) from (0, ½)")
        right.set_ylabel("|h(0) - optimum| along a singular direction")
        curved = " and ".join(f"{2 * float(value) ** 2:.2g}" for value in singular)
        right.set_title(f"curvature of the loss, 2σ²: {curved}")
        for axes in (left, right):
            axes.set_xlabel("update")
            axes.set_yscale("log")
            axes.legend()
    return figure
