"""The adjoint's gradient finds where a path must start to end at a point (the deck's toy problem).

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
- `loss_<n>`: the loss before update n; `h0_1`, `h0_2`: the start after update 200, the last.

Why it is slow: the loss is as curved as the squares of the singular values, and one of those is 24
times the other, so h(0) comes near along one direction long before it does along the other.

Deviations:

1. The slide gives dt = 1/200; the code's grid, taken here, has 200 points and dt = 25/199.
2. The slide's formula and the code have W transposed; both are run.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from lightning_modules.solvers import SolverSettings

PROTOCOL = 1
TRAINS = False
W = ((-0.1, 1.0), (-0.2, -0.1))
START, TARGET = (1.0, 0.0), (0.0, 0.5)
END, POINTS = 25.0, 200
RATE, MOMENTUM = 0.01, 0.95
SHOWN = (0, 50, 100, 150, 200)
UPDATES = 201
ROWS = ("row", "column")
NAMES = {"row": "row vectors, h′ = h W (the deck's code)", "column": "column vectors, h′ = W h"}
PROFILES = {name: Profile({}, 1, 0.3) for name in ("smoke", "quick", "short", "paper")}


@dataclass(frozen=True)
class Course:
    """The optimisation of both rows.

    Args:
        starts: h(0) before every update and after the last, ``(updates + 1, row, 2)``.
        losses: Loss before every update, ``(updates, row)``.
    """

    starts: "Tensor"
    losses: "Tensor"


def run(ctx: Context) -> list[Record]:
    """Find both starts; the rows are written at the end."""
    import torch

    from reproduce.progress import track

    h0, velocity = _both(START), torch.zeros(2, 2, dtype=torch.float64)
    starts, losses = [h0], []
    for _ in track(range(UPDATES), "updates"):
        path = _paths(h0)
        losses.append((path[-1] - _both(TARGET)).square().sum(dim=-1))
        velocity = MOMENTUM * velocity + _adjoints(path[-1])[-1]
        h0 = h0 - RATE * velocity
        starts.append(h0)
    course = Course(torch.stack(starts), torch.stack(losses))
    checks = _checks()
    values = {row: _exact(k) | checks[k] | _along(course, k) for k, row in enumerate(ROWS)}
    settings = {"rate": RATE, "momentum": MOMENTUM, "points": POINTS, "device": "cpu"}
    budget = f"{UPDATES} updates, RK4 on {POINTS} times"
    return ctx.keep(
        "adjoint_toy", PROTOCOL, values, settings, budget=budget, unit=lambda metric: ""
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per metric, one column per convention."""
    from reproduce.records import to_frame

    frame = to_frame(records)
    return frame.pivot_table(index="metric", columns="row", values="value", sort=False)


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return paths and adjoints at five updates for either convention, and the losses."""
    course = _redone()
    found: dict[str, Figure] = {}
    for k, row in enumerate(ROWS):
        found["" if row == "row" else row] = _portraits(course, k)
    return found | {"loss": _losses(course, records)}


def _both(vector: tuple[float, float]) -> "Tensor":
    """Return the same vector for both rows, ``(row, 2)``."""
    import torch

    return torch.tensor([vector, vector], dtype=torch.float64)


@cache
def _matrices() -> "Tensor":
    """Return M of h' = M h for both rows, ``(row, 2, 2)``: W transposed, and W."""
    import torch

    w = torch.tensor(W, dtype=torch.float64)
    return torch.stack([w.T, w])


def _slopes(t: "Tensor", h: "Tensor") -> "Tensor":
    """Return h' = M h of states ``(row, 2)``."""
    return (_matrices() @ h.unsqueeze(-1)).squeeze(-1)


def _grid() -> "Tensor":
    import torch

    return torch.linspace(0, END, POINTS, dtype=torch.float64)


def _back(t: "Tensor", a: "Tensor") -> "Tensor":
    """Return a' = -a M of adjoints ``(row, 2)``."""
    return -(a.unsqueeze(-2) @ _matrices()).squeeze(-2)


def _paths(h0: "Tensor", settings: "SolverSettings | None" = None) -> "Tensor":
    """Return h on the grid, ``(time, row, 2)``; by RK4 if nothing else is given."""
    from lightning_modules.solvers import SolverSettings, odeint

    return odeint(_slopes, h0, _grid(), settings or SolverSettings("native", "rk4")).ys


def _adjoints(end: "Tensor") -> "Tensor":
    """Return a(t) on the grid from t = 25 down to 0, ``(time, row, 2)``: the last is dL/dh(0)."""
    from lightning_modules.solvers import SolverSettings, odeint

    start = 2 * (end - _both(TARGET))
    return odeint(_back, start, _grid().flip(0), SolverSettings("native", "rk4")).ys


def _exact(k: int) -> dict[str, float]:
    """Return what is known in closed form, as a solve at a tolerance of 1e-12 has it."""
    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    tight = SolverSettings("native", "dopri8", rtol=1e-12, atol=1e-12)
    forth = _grid()[[0, -1]]
    missed = odeint(_slopes, _both(START), forth, tight).ys[-1] - _both(TARGET)
    gradient = odeint(_back, 2 * missed, forth.flip(0), tight).ys[-1]
    optimum = odeint(_slopes, _both(TARGET), forth.flip(0), tight).ys[-1]
    units = torch.eye(2, dtype=torch.float64)
    columns = [odeint(_slopes, unit.expand(2, 2), forth, tight).ys[-1, k] for unit in units]
    singular = torch.linalg.svdvals(torch.stack(columns, dim=1))
    end = missed + _both(TARGET)
    pairs = {"h25": end[k], "gradient": gradient[k], "optimum": optimum[k], "singular": singular}
    values = {f"{name}_{i + 1}": float(pair[i]) for name, pair in pairs.items() for i in (0, 1)}
    loss = float(missed[k].square().sum())
    return values | {"loss": loss, "from_expm": _relative(gradient[k], _by_expm(k))}


def _by_expm(k: int) -> "Tensor":
    """Return dL/dh(0) at the start by SciPy's matrix exponential."""
    import scipy.linalg
    import torch

    moved = torch.from_numpy(scipy.linalg.expm(END * _matrices()[k].numpy()))
    return 2 * (moved @ _both(START)[k] - _both(TARGET)[k]) @ moved


def _checks() -> list[dict[str, float]]:
    """Compare a(0) on the grid at the start with what else there is for a gradient, by row."""
    from lightning_modules.solvers import SolverSettings

    ours = _adjoints(_paths(_both(START))[-1])[-1]
    values = [{"rk4_error": _relative(one, _by_expm(k))} for k, one in enumerate(ours)]
    for name, gradient in (("from_suite", "adjoint"), ("from_direct", "direct")):
        h0 = _both(START).requires_grad_()
        settings = SolverSettings("native", "rk4", gradient=gradient)  # type: ignore[arg-type]
        (_paths(h0, settings)[-1] - _both(TARGET)).square().sum().backward()
        assert h0.grad is not None
        for of_row, one, other in zip(values, ours, h0.grad, strict=True):
            of_row[name] = _relative(one, other)
    return values


def _along(course: Course, k: int) -> dict[str, float]:
    """Return the losses that the deck shows, and where the start is at the end."""
    values = {f"loss_{n}": float(course.losses[n, k]) for n in SHOWN}
    return values | {f"h0_{i + 1}": float(course.starts[-1, k, i]) for i in (0, 1)}


def _relative(one: "Tensor", other: "Tensor") -> float:
    return float((one - other).abs().max() / other.abs().max())


def _redone() -> Course:
    """Return the optimisation again, at once: RK4 on the grid is a matrix for each row."""
    import torch

    units = torch.eye(2, dtype=torch.float64)
    moved = torch.stack([_paths(unit.expand(2, 2))[-1] for unit in units], dim=-1)
    h0, velocity = _both(START), torch.zeros(2, 2, dtype=torch.float64)
    starts, losses = [h0], []
    for _ in range(UPDATES):
        missed = (moved @ h0.unsqueeze(-1)).squeeze(-1) - _both(TARGET)
        losses.append(missed.square().sum(dim=-1))
        velocity = MOMENTUM * velocity + 2 * (missed.unsqueeze(-2) @ moved).squeeze(-2)
        h0 = h0 - RATE * velocity
        starts.append(h0)
    return Course(torch.stack(starts), torch.stack(losses))


def _portraits(course: Course, k: int) -> "Figure":
    """Show the path to the target and the adjoint on its way back, at five updates."""
    from reproduce import plotting

    with plotting.style():
        figure, axes = plotting.slide(2, len(SHOWN), sharey="row", sharex="row")
        for (top, bottom), n in zip(axes.T, SHOWN, strict=True):
            path = _paths(course.starts[n])
            _path(top, path[:, k])
            top.set_title(f"update {n}\nloss {float(course.losses[n, k]):.4f}", fontsize=14)
            top.set_xlabel("h₁")
            _adjoint(bottom, _adjoints(path[-1])[:, k])
        axes[0, 0].set_ylabel("h₂")
        axes[1, 0].set_ylabel("adjoint a")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        more = axes[1, 0].get_legend_handles_labels()
        figure.legend(handles + more[0], labels + more[1], loc="outside lower center", ncols=6)
        figure.suptitle(f"From h(0) to (0, ½) at t = 25: {NAMES[ROWS[k]]}")
    return figure


def _path(axes: "Axes", path: "Tensor") -> None:
    from reproduce.plotting import OKABE_ITO as COLOUR

    axes.plot(*path.T.numpy(), color=COLOUR["blue"], label="path")
    axes.plot(*path[0].numpy(), "s", color=COLOUR["black"], markersize=7, label="h(0)")
    axes.plot(*path[-1].numpy(), "o", color=COLOUR["vermillion"], label="h(25)")
    cross: dict[str, Any] = {"color": COLOUR["black"], "markersize": 13, "markeredgewidth": 2}
    axes.plot(*TARGET, "+", **cross, label="target")


def _adjoint(axes: "Axes", a: "Tensor") -> None:
    from reproduce.plotting import OKABE_ITO as COLOUR

    times = _grid().flip(0)
    axes.plot(times, a[:, 0], color=COLOUR["orange"], label="a₁")
    axes.plot(times, a[:, 1], "--", color=COLOUR["purple"], label="a₂")
    axes.set_xlabel("t")


def _losses(course: Course, records: list[Record]) -> "Figure":
    """Show the losses, and how far h(0) is along the two directions that the loss tells apart."""
    import torch

    from reproduce import plotting
    from reproduce.plotting import OKABE_ITO as COLOUR

    values = {(r.row, r.metric): r.value for r in records}
    looks = {"row": (COLOUR["blue"], "-"), "column": (COLOUR["vermillion"], "--")}
    with plotting.style():
        figure, (left, right) = plotting.slide(1, 2)
        for k, row in enumerate(ROWS):
            colour, line = looks[row]
            left.plot(course.losses[:, k], line, color=colour, label=NAMES[row])
            optimum = torch.tensor([values[row, f"optimum_{i}"] for i in (1, 2)])
            _, singular, directions = torch.linalg.svd(torch.matrix_exp(END * _matrices()[k]))
            missed = (course.starts[:-1, k] - optimum) @ directions.T
            for i, width in enumerate((2.5, 1.2)):
                label = f"{row}, σ = {float(singular[i]):.4f}"
                look = {"color": colour, "linewidth": width, "label": label}
                right.plot(missed[:, i].abs(), line, **look)
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
