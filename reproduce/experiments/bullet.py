"""Both gradients find the velocity with which a bullet hits its target (the deck's example #2).

A bullet starts at the origin with velocity v₀ and flies for 1.5 under gravity and a drag that is
linear in its velocity: r' = v, v' = (0, -10) - 2 v, state (x, y, vx, vy). The loss is the squared
distance of the end from (2, 0); v₀ alone is changed, from (10, 10), by 100 updates of RMSProp at
0.02 with momentum 0.9, on RK4 over 100 equally spaced times. All in float64, without units.

Rows:

- `direct`, `adjoint`: v₀ found by back-propagation through RK4, and by the adjoint.
- `direct_torch`: `direct` with torch's RMSProp instead of TensorFlow's.
- `reference`: nothing optimised; what has a closed form, by dopri8 at 1e-12.

Metrics of the optimised rows:

- `loss_0`, `loss_40`, `loss_100`: after so many updates.
- `v0_1`, `v0_2`, `to_optimum`: v₀ after the last, and its distance from the best one.
- `gradient_difference`: largest relative difference between both gradients at every tenth v₀ of
  the row. The equation is linear in its state, for which RK4 backwards is RK4 transposed: they
  differ by rounding alone, and so do the losses.

Metrics of `reference`: `end_1`, `end_2`, `loss`, `apex_1`, `apex_2` from (10, 10); the best
velocity `v0_1`, `v0_2`, by one step of Newton's method, since the end is linear in v₀; its
`best_apex_1`, `best_apex_2`; and `rk4_error`, how far RK4 on the grid misses the end.

Beside the figure stands the flight after every fourth update as a movie (GIF).

Deviations:

1. RMSProp is TensorFlow's, as the deck's code ran it: the mean square begins at 1 and decays by
   0.9, and 1e-10 is added under the root. Torch's begins at 0 and decays by 0.99, so that its
   first update is ten times as large as the rate; `direct_torch` shows what that does.
2. The drag is linear, as in the code that the deck's pictures come from, which divides by |v| in
   a comment only.
"""

from collections.abc import Callable, Iterable
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

    Update = Callable[[Tensor, Tensor], Tensor]

PROTOCOL = 1
TRAINS = False
FIRST, TARGET = (10.0, 10.0), (2.0, 0.0)
GRAVITY, DRAG = 10.0, 2.0
END, POINTS = 1.5, 100
RATE, MOMENTUM = 0.02, 0.9
UPDATES = 100
NOTED = (0, 40, 100)
DRAWN = (0, 10, 20, 30, 100)
EVERY = 4  # updates from one frame of the movie to the next
ROWS = ("direct", "adjoint", "direct_torch")
LINES = {"direct": "-", "adjoint": (0, (1, 1.5)), "direct_torch": "--"}
PROFILES = {name: Profile({}, 1, 0.6) for name in ("smoke", "quick", "short", "paper")}


def run(ctx: Context) -> list[Record]:
    """Optimise every row; each is written as soon as it is found."""
    from reproduce.progress import track

    settings = {"rate": RATE, "momentum": MOMENTUM, "points": POINTS, "device": "cpu"}
    budget = f"{UPDATES} updates, RK4 on {POINTS} times"
    best = _best()
    records: list[Record] = []
    for row in ("reference", *ROWS):
        if row == "reference":
            values = _reference()
        else:
            course = _course(row, track(range(UPDATES), f"updates, {row}"))
            values = _found(course, best)
        records += ctx.keep(
            "bullet", PROTOCOL, {row: values}, settings, budget=budget, unit=lambda metric: ""
        )
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per metric, one column per row."""
    from reproduce.records import to_frame

    frame = to_frame(records)
    return frame.pivot_table(index="metric", columns="row", values="value", sort=False)


def plot(records: list[Record]) -> "Figure":
    """Flights over the optimisation, and the losses."""
    from reproduce import plotting

    courses = {row: _redone(row) for row in ROWS}
    with plotting.style():
        figure, (left, right) = plotting.slide(1, 2)
        for place, n in enumerate(DRAWN):
            _flight(
                left, _states(courses["direct"][n]), f"{n}", 0.25 + 0.75 * place / (len(DRAWN) - 1)
            )
        _scene(left)
        left.set_title("flight after 0 to 100 updates, direct")
        for row, course in courses.items():
            look: dict[str, Any] = {**_look(row), "marker": "", "linewidth": 2.5}
            right.plot([float(_missed(v0).square().sum()) for v0 in course], **look)
        right.set_yscale("log")
        right.set_xlabel("update")
        right.set_ylabel("squared distance from the target")
        right.set_title("loss")
        right.legend()
    return figure


def movie(records: list[Record], folder: "Path") -> list["Figure"]:
    """Return the flight after every few updates, with those before it."""
    from reproduce import plotting

    course, frames = _redone("direct"), []
    flights = [_states(v0) for v0 in course[::EVERY]]
    for place, flight in enumerate(flights):
        n = EVERY * place
        with plotting.style():
            figure, axes = plotting.slide()
            figure.set_size_inches(8.0, 4.5)
            for earlier in flights[:place]:
                _flight(axes, earlier, "", 0.15)
            _flight(axes, flight, "", 1.0)
            _scene(axes)
            axes.set_title(f"after {n} updates: loss {_loss(course[n]):.2g}")
        frames.append(figure)
    return frames


def _look(row: str) -> dict[str, Any]:
    from reproduce import plotting

    if row == "direct_torch":
        colour = plotting.OKABE_ITO["blue"]
        return {"color": colour, "linestyle": LINES[row], "label": "direct, torch's RMSProp"}
    return {**plotting.method_style(row), "linestyle": LINES[row]}


def _vector(*values: float) -> "Tensor":
    import torch

    return torch.tensor(values, dtype=torch.float64)


@cache
def _equation() -> "tuple[Tensor, Tensor]":
    """Return A and b of s' = A s + b for the state (x, y, vx, vy)."""
    import torch

    a = torch.zeros(4, 4, dtype=torch.float64)
    a[0, 2] = a[1, 3] = 1.0
    a[2, 2] = a[3, 3] = -DRAG
    return a, _vector(0.0, 0.0, 0.0, -GRAVITY)


def _slopes(t: "Tensor", s: "Tensor") -> "Tensor":
    """Return s' of states ``(4,)``."""
    a, b = _equation()
    return a @ s + b


def _states(v0: "Tensor", gradient: str = "direct") -> "Tensor":
    """Return the states on the grid by RK4, ``(time, 4)``, with one of the gradients."""
    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    times = torch.linspace(0, END, POINTS, dtype=torch.float64)
    settings = SolverSettings("native", "rk4", gradient=gradient)  # type: ignore[arg-type]
    return odeint(_slopes, torch.cat([_vector(0.0, 0.0), v0]), times, settings).ys


def _gradient(v0: "Tensor", gradient: str) -> "Tensor":
    """Return dL/dv₀."""
    v0 = v0.detach().requires_grad_()
    (_states(v0, gradient)[-1, :2] - _vector(*TARGET)).square().sum().backward()
    assert v0.grad is not None
    return v0.grad


def _loss(v0: "Tensor") -> float:
    """Return the loss by RK4."""
    import torch

    with torch.no_grad():
        return float((_states(v0)[-1, :2] - _vector(*TARGET)).square().sum())


def tensorflows_rmsprop() -> "Update":
    """Return what takes v₀ and its gradient to the next v₀, as ``tf.train.RMSPropOptimizer``.

    Source: TensorFlow 1's documentation and defaults: mean square from 1, decay 0.9, epsilon
    1e-10 under the root; the rate is within the momentum.
    """
    mean_square, velocity = _vector(1.0, 1.0), _vector(0.0, 0.0)

    def update(v0: "Tensor", gradient: "Tensor") -> "Tensor":
        nonlocal mean_square, velocity
        mean_square = 0.9 * mean_square + 0.1 * gradient.square()
        velocity = MOMENTUM * velocity + RATE * gradient / (mean_square + 1e-10).sqrt()
        return v0 - velocity

    return update


def torchs_rmsprop() -> "Update":
    """Return the same by ``torch.optim.RMSprop``."""
    import torch

    held = torch.nn.Parameter(_vector(0.0, 0.0))
    optimizer = torch.optim.RMSprop([held], lr=RATE, momentum=MOMENTUM)

    def update(v0: "Tensor", gradient: "Tensor") -> "Tensor":
        held.data, held.grad = v0.clone(), gradient
        optimizer.step()
        return held.detach().clone()

    return update


def _descend(
    row: str, gradient: "Callable[[Tensor], Tensor]", updates: Iterable[int]
) -> "list[Tensor]":
    """Return v₀ before every update and after the last."""
    update = torchs_rmsprop() if row == "direct_torch" else tensorflows_rmsprop()
    course = [_vector(*FIRST)]
    for _ in updates:
        course.append(update(course[-1], gradient(course[-1])))
    return course


def _course(row: str, updates: Iterable[int]) -> "list[Tensor]":
    """Optimise a row by its own gradient."""
    kind = row.partition("_")[0]
    return _descend(row, lambda v0: _gradient(v0, kind), updates)


@cache
def _grid_map() -> "tuple[Tensor, Tensor]":
    """Return M and c of M v₀ + c, by how much RK4 on the grid misses the target."""
    import torch

    with torch.no_grad():
        still = _states(_vector(0.0, 0.0))[-1, :2]
        units = torch.eye(2, dtype=torch.float64)
        moved = torch.stack([_states(unit)[-1, :2] - still for unit in units], dim=1)
    return moved, still - _vector(*TARGET)


def _missed(v0: "Tensor") -> "Tensor":
    moved, still = _grid_map()
    return moved @ v0 + still


def _redone(row: str) -> "list[Tensor]":
    """Return the optimisation again, at once."""
    return _descend(row, lambda v0: 2 * _missed(v0) @ _grid_map()[0], range(UPDATES))


def _found(course: "list[Tensor]", best: "Tensor") -> dict[str, float]:
    """Return what became of an optimisation, and how far both gradients are along it."""
    values = {f"loss_{n}": _loss(course[n]) for n in NOTED}
    values |= {f"v0_{i + 1}": float(course[-1][i]) for i in (0, 1)}
    apart = []
    for v0 in course[::10]:
        direct, adjoint = _gradient(v0, "direct"), _gradient(v0, "adjoint")
        apart.append(float((direct - adjoint).abs().max() / direct.abs().max()))
    to_optimum = float((course[-1] - best).norm())
    return values | {"to_optimum": to_optimum, "gradient_difference": max(apart)}


def _at(v0: "Tensor", t: float) -> "Tensor":
    """Return the state at a time, by dopri8 at 1e-12."""
    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    tight = SolverSettings("native", "dopri8", rtol=1e-12, atol=1e-12)
    start = torch.cat([_vector(0.0, 0.0), v0])
    return odeint(_slopes, start, _vector(0.0, t), tight).ys[-1]


def _best() -> "Tensor":
    """Return the v₀ that hits: one step of Newton's method, with the Jacobian by autograd."""
    import torch

    v0 = _vector(*FIRST)
    jacobian = torch.autograd.functional.jacobian(lambda v: _at(v, END)[:2], v0)
    return v0 - torch.linalg.solve(jacobian, _at(v0, END)[:2] - _vector(*TARGET))


def _apex(v0: "Tensor") -> "Tensor":
    """Return the highest point, where Newton's method finds that the bullet rises no more."""
    t = 0.5
    for _ in range(8):
        state = _at(v0, t)
        t -= float(state[3] / _slopes(state[0], state)[3])
    return _at(v0, t)[:2]


def _reference() -> dict[str, float]:
    """Return what has a closed form, as a solver finds it."""
    first, best = _vector(*FIRST), _best()
    end = _at(first, END)[:2]
    pairs = {"end": end, "apex": _apex(first), "v0": best, "best_apex": _apex(best)}
    values = {f"{name}_{i + 1}": float(pair[i]) for name, pair in pairs.items() for i in (0, 1)}
    missed = float((_states(first)[-1, :2] - end).norm())
    return values | {
        "loss": float((end - _vector(*TARGET)).square().sum()),
        "rk4_error": missed,
    }


def _flight(axes: "Axes", states: "Tensor", name: str, weight: float) -> None:
    """Show a flight, the later the darker, and its number at its highest point."""
    from reproduce.plotting import OKABE_ITO as COLOUR

    x, y = states[:, :2].T.numpy()
    axes.plot(x, y, color=COLOUR["blue"], alpha=weight)
    axes.plot(x[-1], y[-1], "o", color=COLOUR["blue"], alpha=weight, markersize=6)
    if name:
        top = y.argmax()
        axes.annotate(name, (x[top], y[top]), (0, 4), textcoords="offset points", ha="center")


def _scene(axes: "Axes") -> None:
    from reproduce.plotting import OKABE_ITO as COLOUR

    axes.plot(0, 0, "s", color=COLOUR["black"], markersize=9)
    cross: dict[str, Any] = {"color": COLOUR["black"], "markeredgewidth": 3}
    axes.plot(*TARGET, "+", markersize=16, **cross, label="target")
    axes.set_xlim(-0.2, 5.0)
    axes.set_ylim(-0.7, 3.0)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.legend(loc="upper right")
