"""Each method has its order; the deck's midpoint is Heun's, which decay alone cannot tell.

N' = -5 N, N(0) = 1 on [0, 1], the deck's radioactive decay, by Euler, Heun, midpoint and RK4 on
equal steps and by dopri5. Errors are the largest over the grid, against exp(-5 t).

The deck's `midpoint_step` averages the slopes at both ends: that is Heun's method (the explicit
trapezoid rule). On a linear equation with constant coefficients the two agree: here both multiply
the state by 1 - x + x²/2, x = 5 / steps, in a step. y' = exp(-y) sin t with y(0) = 0, which is
non-linear and depends on time, tells them apart: `<method>_nonlinear`; y = ln(2 - cos t).

Rows `euler`, `heun`, `midpoint`, `rk4`:

- `end_<n>`: N(1) after n steps, `error_<n>` the largest error; `evaluations_per_step`.
- `order`: minus the slope of log error over log steps, 40 to 640 of them, with its 95 % interval.
- `steps_for_1e-3`: fewest steps whose largest error is at most 1e-3 (claim D05).

Row `dopri5`: `error_<tolerance>` and `evaluations_<tolerance>`, absolute and relative tolerance
alike, its output on the 51 times of the 50 steps, between its own steps by interpolation.

Row `heun_midpoint`: `difference_decay` and `difference_nonlinear`, the largest difference of both
methods over all grids; `growth_error`, that of either from (1 - x + x²/2)^k on decay.

Deviations:

1. The deck draws `linspace(0, 1, 15)` as 15 steps and `linspace(0, 1, 50)` as 50; they are 14 and
   49, and are called so here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.progress import track
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from lightning_modules.solvers import SolverSettings, SolveStats

PROTOCOL = 1
TRAINS = False
RATE = 5.0
METHODS = ("euler", "heun", "midpoint", "rk4")
PROBLEMS = {"decay": "", "nonlinear": "_nonlinear"}  # and what its rows' names end with
DECK = (10, 14, 49, 50)  # steps on the deck's slides
SWEEP = (10, 20, 40, 80, 160, 320, 640)
FITTED = tuple(n for n in SWEEP if n >= 40)
TOLERANCES = tuple(f"1e-{k}" for k in range(2, 11))
TARGET = 1e-3
PROFILES = {
    name: Profile({}, seeds=1, minutes=0.1) for name in ("smoke", "quick", "short", "paper")
}


def run(ctx: Context) -> list[Record]:
    """Solve both problems by every method; all rows are written together."""
    values: dict[str, dict[str, float]] = {}
    work = [(problem, method) for problem in PROBLEMS for method in (*METHODS, "dopri5")]
    for problem, method in track(work, "decay"):
        row = method + PROBLEMS[problem]
        adaptive = method == "dopri5"
        values[row] = _adaptive(problem) if adaptive else _on_grids(problem, method)
        if problem == "decay" and method in ("euler", "heun", "rk4"):
            values[row]["steps_for_1e-3"] = fewest_steps(method)
    values["heun_midpoint"] = _told_apart()
    settings = {"rate": RATE, "steps": (*DECK, *SWEEP), "tolerances": TOLERANCES}
    return ctx.keep("decay", PROTOCOL, values, settings, budget="t in [0, 1]", unit=_unit)


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per method and problem: order with its interval, and steps for 1e-3."""
    import pandas as pd

    values = {(r.row, r.metric): r.value for r in records}
    metrics = ("error_10", "error_50", "order", "order_low", "order_high", "steps_for_1e-3")
    rows = [method + end for end in PROBLEMS.values() for method in METHODS]
    return pd.DataFrame(
        [[values.get((row, metric)) for metric in metrics] for row in rows], rows, metrics
    )


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return the paths of the deck with errors against steps, and errors against evaluations."""
    from reproduce import plotting

    with plotting.style():
        first, (left, right) = plotting.slide(1, 2)
        _draw_paths(left)
        _draw_orders(right, records)
        second, panels = plotting.slide(1, 2, sharey=True)
        titles = (
            "N' = −5 N: Heun and midpoint agree",
            "y' = exp(−y) sin t tells Heun from midpoint",
        )
        for axes, end, title in zip(panels, PROBLEMS.values(), titles, strict=True):
            _draw_costs(axes, records, end)
            axes.set_title(title)
        panels[0].set_ylabel("largest error over the grid")
        panels[0].legend()
    return {"": first, "evaluations": second}


def fewest_steps(method: str) -> int:
    """Return the fewest equal steps whose largest error on decay is at most 1e-3.

    More steps never make a larger error here, which a test shows from the growth factors.
    """
    high = 1
    while _largest_error("decay", method, high) > TARGET:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        if _largest_error("decay", method, middle) <= TARGET:
            high = middle
        else:
            low = middle
    return high


def solved(problem: str, settings: "SolverSettings", steps: int) -> "tuple[Tensor, SolveStats]":
    """Return the states on the grid of so many equal steps, ``(steps + 1,)``, and their cost."""
    import torch

    from lightning_modules.solvers import odeint

    def decay(t: "Tensor", y: "Tensor") -> "Tensor":
        return -RATE * y

    def nonlinear(t: "Tensor", y: "Tensor") -> "Tensor":
        return torch.exp(-y) * torch.sin(t)

    field, start = (decay, 1.0) if problem == "decay" else (nonlinear, 0.0)
    y0 = torch.tensor([start], dtype=torch.float64)
    solution = odeint(field, y0, grid(steps), settings)
    return solution.ys[:, 0], solution.stats


def grid(steps: int) -> "Tensor":
    """Return the times of so many equal steps, ``(steps + 1,)``."""
    import torch

    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def exact(problem: str, times: "Tensor") -> "Tensor":
    """Return the solution in closed form."""
    import torch

    return torch.exp(-RATE * times) if problem == "decay" else torch.log(2 - torch.cos(times))


def _fixed(method: str) -> "SolverSettings":
    from lightning_modules.solvers import SolverSettings

    return SolverSettings(backend="native", method=method)


def _largest_error(problem: str, method: str, steps: int) -> float:
    states, _ = solved(problem, _fixed(method), steps)
    return float((states - exact(problem, grid(steps))).abs().max())


def _on_grids(problem: str, method: str) -> dict[str, float]:
    """Return errors by number of steps, N(1) after the deck's, evaluations and the order."""
    from reproduce import statistics

    values: dict[str, float] = {}
    for steps in sorted({*DECK, *SWEEP} if problem == "decay" else SWEEP):
        states, stats = solved(problem, _fixed(method), steps)
        values[f"error_{steps}"] = float((states - exact(problem, grid(steps))).abs().max())
        values["evaluations_per_step"] = stats.nfe_forward / steps
        if problem == "decay" and steps in DECK:
            values[f"end_{steps}"] = float(states[-1])
    order = statistics.convergence_order(FITTED, [values[f"error_{n}"] for n in FITTED])
    return values | {"order": order.value, "order_low": order.low, "order_high": order.high}


def _adaptive(problem: str) -> dict[str, float]:
    """Return errors and evaluations by tolerance."""
    from lightning_modules.solvers import SolverSettings

    values: dict[str, float] = {}
    for name in TOLERANCES:
        settings = SolverSettings("native", "dopri5", rtol=float(name), atol=float(name))
        states, stats = solved(problem, settings, max(DECK))
        errors = (states - exact(problem, grid(max(DECK)))).abs()
        values[f"error_{name}"] = float(errors.max())
        values[f"evaluations_{name}"] = stats.nfe_forward
    return values


def _told_apart() -> dict[str, float]:
    """Return how far Heun and midpoint are from one another, and from their growth factor."""
    import torch

    values = {"difference_decay": 0.0, "difference_nonlinear": 0.0, "growth_error": 0.0}
    for steps in sorted({*DECK, *SWEEP}):
        for problem in PROBLEMS:
            heun, midpoint = (solved(problem, _fixed(m), steps)[0] for m in ("heun", "midpoint"))
            key = f"difference_{problem}"
            values[key] = max(values[key], float((heun - midpoint).abs().max()))
            if problem == "decay":
                x = RATE / steps
                powers = (1 - x + x**2 / 2) ** torch.arange(steps + 1, dtype=torch.float64)
                both = torch.stack([heun, midpoint])
                error = float((both - powers).abs().max())
                values["growth_error"] = max(values["growth_error"], error)
    return values


def _unit(metric: str) -> str:
    name = metric.partition("_")[0]
    return {"evaluations": "evaluations", "steps": "steps"}.get(name, "")


# Heun and midpoint lie on one another on decay: midpoint is a ring around Heun's mark, with a
# dark dashed line over Heun's lighter one.
_LINES: dict[str, dict[str, Any]] = {
    "euler": {"linestyle": "-"},
    "heun": {"linestyle": "-", "linewidth": 3, "markersize": 11},
    "midpoint": {"linestyle": "--", "linewidth": 1, "markersize": 19},
    "rk4": {"linestyle": "-."},
    "dopri5": {"linestyle": ":"},
}


def _look(method: str) -> dict[str, Any]:
    from reproduce import plotting

    look: dict[str, Any] = {**plotting.method_style(method), **_LINES[method]}
    if method == "midpoint":
        look |= {"color": "#000000", "marker": "o", "markerfacecolor": "none", "zorder": 4}
    return look


def _draw_paths(axes: "Axes") -> None:
    """Show what Euler and Heun make of the decay in the deck's 10 and 14 steps."""
    fine = grid(200)
    axes.plot(fine, exact("decay", fine), color="#CCCCCC", linewidth=6, label="exp(−5 t)")
    for method, steps in (("euler", 10), ("euler", 14), ("heun", 14)):
        look = _look(method)
        states, _ = solved("decay", _fixed(method), steps)
        shown = {"label": f"{look['label']}, {steps} steps", "linewidth": 1.5}
        if (method, steps) == ("euler", 10):
            shown |= {"linestyle": "--", "color": "#000000", "markerfacecolor": "none"}
        axes.plot(grid(steps), states, **{**look, **shown})
    axes.set_xlabel("time t, in units of 5 / λ")
    axes.set_ylabel("N, part of the atoms that is left")
    axes.set_title("Radioactive decay, N' = −5 N")
    axes.legend()


def _draw_orders(axes: "Axes", records: list[Record]) -> None:
    """Show errors against steps, and the orders measured there."""
    from reproduce import plotting

    for method in METHODS:
        found = {r.metric: r.value for r in records if r.row == method}
        look = _look(method)
        look["label"] += f": order {found['order']:.2f}"
        if "steps_for_1e-3" in found:
            look["label"] += f", 1e-3 by {found['steps_for_1e-3']:.0f} steps"
        axes.plot(SWEEP, [found[f"error_{n}"] for n in SWEEP], **look)
    axes.axhline(TARGET, color="#555555", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    plotting.plain_ticks(axes.xaxis)
    axes.set_xlabel("steps")
    axes.set_ylabel("largest error over the grid")
    axes.set_title("Heun and midpoint agree on N' = −5 N")
    axes.legend()


def _draw_costs(axes: "Axes", records: list[Record], end: str) -> None:
    """Show errors against evaluations of one problem, with those of dopri5."""
    for method in (*METHODS, "dopri5"):
        found = {r.metric: r.value for r in records if r.row == method + end}
        if method == "dopri5":
            keys: Sequence[str | int] = TOLERANCES
            costs = [found[f"evaluations_{key}"] for key in keys]
        else:
            keys = SWEEP
            costs = [found["evaluations_per_step"] * n for n in SWEEP]
        axes.plot(costs, [found[f"error_{key}"] for key in keys], **_look(method))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("evaluations of the field")
