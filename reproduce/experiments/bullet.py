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

- `loss_<n>`: after n updates, for every second one.
- `v0_1_<n>`, `v0_2_<n>`: v₀ after n updates, for every fourth one; `to_optimum`: distance of the
  last from the best one.
- `gradient_difference`: largest relative difference between both gradients at every tenth v₀ of
  the row. The equation is linear in its state, for which RK4 backwards is RK4 transposed: they
  differ by rounding alone, and so do the losses.
- `backward_evaluations`: of the right-hand side in a backward solve, the same for each update: the
  adjoint has one, of 99 steps of RK4; back-propagation has none.

Metrics of `reference`: `end_1`, `end_2`, `loss`, `apex_1`, `apex_2` from (10, 10); the best
velocity `v0_1`, `v0_2`, by one step of Newton's method, since the end is linear in v₀; its
`best_apex_1`, `best_apex_2`; and `rk4_error`, how far RK4 on the grid misses the end.

The figure and a movie (GIF) of the flight after every fourth update show the losses and the v₀ of
the rows; only the flight from a v₀ is solved again.

Deviations:

1. RMSProp is TensorFlow's, as the deck's code ran it: the mean square begins at 1 and decays by
   0.9, and 1e-10 is added under the root. Torch's begins at 0 and decays by 0.99, so that its
   first update is ten times as large as the rate; `direct_torch` shows what that does.
2. The drag is linear, as in the code that the deck's pictures come from, which divides by |v| in
   a comment only.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from lightning_modules.solvers.base import Gradient

    Values = dict[tuple[str, str], float]

PROTOCOL = 1
TRAINS = False
FIRST = (10.0, 10.0)
RATE, MOMENTUM = 0.02, 0.9
UPDATES = 100
EVERY, EVERY_FLIGHT = 2, 4  # updates from one kept loss, and one kept v₀, to the next
DRAWN = (0, 12, 20, 32, 100)
GRADIENTS: "dict[str, Gradient]" = {
    "direct": "direct",
    "adjoint": "adjoint",
    "direct_torch": "direct",
}
LINES = {"direct": "-", "adjoint": (0, (1, 1.5)), "direct_torch": "--"}
PROFILES = {name: Profile({}, 1, 0.6) for name in ("smoke", "quick", "short", "paper")}


def run(ctx: Context) -> list[Record]:
    """Optimise every row; each is written as soon as it is found."""
    from reproduce import bullet_flights
    from reproduce.progress import track

    points = bullet_flights.POINTS
    settings = {"rate": RATE, "momentum": MOMENTUM, "points": points, "device": "cpu"}
    budget = f"{UPDATES} updates, RK4 on {points} times"
    records: list[Record] = []
    for row in ("reference", *GRADIENTS):
        if row == "reference":
            values = _reference()
        else:
            values = _found(row, track(range(UPDATES), f"updates, {row}"))
        records += ctx.keep(
            "bullet", PROTOCOL, {row: values}, settings, budget=budget, unit=lambda metric: ""
        )
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per metric, one column per row; of the course, what every twentieth update gave."""
    from reproduce.records import to_frame

    def shown(metric: str) -> bool:
        course = metric.startswith(("loss_", "v0_1_", "v0_2_"))
        return not course or int(metric.rpartition("_")[2]) % 20 == 0

    frame = to_frame([r for r in records if shown(r.metric)])
    return frame.pivot_table(index="metric", columns="row", values="value", sort=False)


def plot(records: list[Record]) -> "Figure":
    """Flights over the optimisation, and the losses."""
    from reproduce import plotting

    values = {(r.row, r.metric): r.value for r in records}
    with plotting.style():
        figure, (left, right) = plotting.slide(1, 2)
        for place, n in enumerate(DRAWN):
            _flight(left, _v0(values, "adjoint", n), f"{n}", 0.5 + 0.5 * place / (len(DRAWN) - 1))
        _scene(left)
        left.set_title(f"flight after 0 to {DRAWN[-1]} updates, adjoint")
        for row in GRADIENTS:
            look: dict[str, Any] = {**_look(row), "marker": "", "linewidth": 2.5}
            kept = range(0, UPDATES + 1, EVERY)
            right.plot(kept, [values[row, f"loss_{n}"] for n in kept], **look)
        right.set_yscale("log")
        right.set_xlabel("update")
        right.set_ylabel("squared distance from the target")
        right.set_title("loss")
        right.legend()
    return figure


def movie(records: list[Record], folder: "Path") -> list["Figure"]:
    """Return the flight after every few updates of `adjoint`, with those before it."""
    from reproduce import plotting

    values = {(r.row, r.metric): r.value for r in records}
    kept, frames = range(0, UPDATES + 1, EVERY_FLIGHT), []
    for place, n in enumerate(kept):
        with plotting.style():
            figure, axes = plotting.slide()
            for earlier in kept[:place]:
                _flight(axes, _v0(values, "adjoint", earlier), "", 0.25)
            _flight(axes, _v0(values, "adjoint", n), "", 1.0)
            _scene(axes)
            axes.set_title(f"after {n} updates: loss {values['adjoint', f'loss_{n}']:.2g}")
        frames.append(figure)
    return frames


def _look(row: str) -> dict[str, Any]:
    from reproduce import plotting

    if row == "direct_torch":
        colour = plotting.OKABE_ITO["blue"]
        return {"color": colour, "linestyle": LINES[row], "label": "direct, torch's RMSProp"}
    return {**plotting.method_style(row), "linestyle": LINES[row]}


def _v0(values: "Values", row: str, n: int) -> "Tensor":
    """Return the v₀ that a row has after some updates."""
    from reproduce.bullet_flights import vector

    return vector(*(values[row, f"v0_{i}_{n}"] for i in (1, 2)))


def _descend(
    row: str, gradient: "Callable[[Tensor], Tensor]", updates: Iterable[int]
) -> "list[Tensor]":
    """Return v₀ before every update and after the last."""
    from reproduce import rmsprop
    from reproduce.bullet_flights import vector

    rule = rmsprop.torchs if row == "direct_torch" else rmsprop.tensorflows
    update, course = rule(RATE, MOMENTUM), [vector(*FIRST)]
    for _ in updates:
        course.append(update(course[-1], gradient(course[-1])))
    return course


def _found(row: str, updates: Iterable[int]) -> dict[str, float]:
    """Optimise a row by its own gradient; return its course, and how far both are along it."""
    from lightning_modules.solvers import collect_stats
    from reproduce import bullet_flights
    from reproduce.references import relative

    with collect_stats() as solves:
        course = _descend(row, lambda v0: bullet_flights.gradient_of(v0, GRADIENTS[row]), updates)
    (evaluations,) = {solve.nfe_backward for solve in solves}
    kept = {n: course[n] for n in range(0, len(course), EVERY_FLIGHT)}
    values = {f"loss_{n}": bullet_flights.loss_of(course[n]) for n in range(0, len(course), EVERY)}
    values |= {f"v0_{i + 1}_{n}": float(v0[i]) for n, v0 in kept.items() for i in (0, 1)}
    apart = [
        relative(*(bullet_flights.gradient_of(v0, kind) for kind in ("adjoint", "direct")))
        for v0 in course[::10]
    ]
    return values | {
        "to_optimum": float((course[-1] - bullet_flights.best(course[0])).norm()),
        "gradient_difference": max(apart),
        "backward_evaluations": evaluations,
    }


def _reference() -> dict[str, float]:
    """Return what has a closed form, as a solver finds it."""
    from reproduce import bullet_flights as flights

    first = flights.vector(*FIRST)
    best, end = flights.best(first), flights.at(first, flights.END)
    apex, best_apex = flights.apex(first), flights.apex(best)
    pairs = {"end": end, "apex": apex, "v0": best, "best_apex": best_apex}
    values = {f"{name}_{i + 1}": float(pair[i]) for name, pair in pairs.items() for i in (0, 1)}
    missed = float((flights.states(first)[-1, :2] - end[:2]).norm())
    return values | {"loss": float(flights.squared_miss(end)), "rk4_error": missed}


def _flight(axes: "Axes", v0: "Tensor", name: str, weight: float) -> None:
    """Show the flight from a v₀, the later the darker, and its number at its highest point."""
    from reproduce import bullet_flights
    from reproduce.plotting import OKABE_ITO as COLOUR

    x, y = bullet_flights.states(v0)[:, :2].T.numpy()
    axes.plot(x, y, color=COLOUR["blue"], alpha=weight)
    axes.plot(x[-1], y[-1], "o", color=COLOUR["blue"], alpha=weight, markersize=6)
    if name:
        top = y.argmax()
        axes.annotate(name, (x[top], y[top]), (0, 4), textcoords="offset points", ha="center")


def _scene(axes: "Axes") -> None:
    from reproduce.bullet_flights import TARGET
    from reproduce.plotting import OKABE_ITO as COLOUR

    axes.plot(0, 0, "s", color=COLOUR["black"], markersize=9)
    cross: dict[str, Any] = {"color": COLOUR["black"], "markeredgewidth": 3}
    axes.plot(*TARGET, "+", markersize=16, **cross, label="target")
    axes.set_xlim(-0.2, 5.0)
    axes.set_ylim(-0.7, 3.0)
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    axes.legend(loc="upper right")
