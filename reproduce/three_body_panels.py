"""How three bodies, their numbers and the errors of what is foretold of them are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reproduce.three_bodies import NUMBERS, SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from datamodules import SpringObservations

MARKS = ("o", "s", "^")  # of the three bodies
LINES = ("-", "--", ":")  # of their paths
# A seed has a mark of its own; a sixth one takes the first again.
SEEDS = (("blue", "o"), ("vermillion", "s"), ("black", "^"), ("purple", "D"), ("orange", "v"))
SYMBOLS = (
    *("x₁", "y₁", "x₂", "y₂", "x₃", "y₃"),
    *("ẋ₁", "ẏ₁", "ẋ₂", "ẏ₂", "ẋ₃", "ẏ₃"),
    *("k₁₂", "k₁₃", "k₂₃", "l₁₂", "l₁₃", "l₂₃"),
)


def bodies(axes: Axes, positions: Tensor, colour: str, *, wide: bool = False) -> None:
    """Show three bodies and the springs between them at one time.

    Args:
        axes: Where.
        positions: ``(6,)``.
        colour: Of bodies and springs.
        wide: Whether to draw them so that narrow ones stand out on top.
    """
    x, y = positions.view(3, 2).T.tolist()
    width, size = (4.0, 15) if wide else (1.5, 9)
    axes.plot([*x, x[0]], [*y, y[0]], color=colour, linewidth=width, zorder=1 + (not wide))
    for mark, a, b in zip(MARKS, x, y, strict=True):
        axes.plot(a, b, mark, color=colour, markersize=size, zorder=1 + (not wide))


def course(
    axes: Axes, data: SpringObservations, truth: Tensor, found: Tensor, colour: str
) -> None:
    """Show a coordinate of the first body over time.

    Args:
        axes: Where.
        data: Has the observations, and the times of the test.
        truth: The true coordinate at the times of the test, ``(grid,)``.
        found: The predicted one.
        colour: Of the prediction.
    """
    true: dict[str, Any] = {"color": "#009E73", "linewidth": 5, "alpha": 0.4, "label": "truth"}
    axes.axvspan(0, data.span, color="#EEEEEE", zorder=0)
    axes.plot(data.at, truth, **true)
    axes.plot(data.at, found, color=colour, linewidth=1.6, label="prediction")
    axes.plot(
        data.times, data.observed[:, 0], ".", color="#000000", markersize=5, label="observations"
    )
    axes.set_xlim(0, data.span + data.future)
    half = 1.9 * float(truth.abs().max())
    axes.set_ylim(-half, half)


def plane(axes: Axes, truth: Tensor, found: Tensor, colour: str) -> None:
    """Show the paths of the three bodies, ``(time, 6)``, and where they end."""
    for body, (mark, line) in enumerate(zip(MARKS, LINES, strict=True)):
        part = slice(2 * body, 2 * body + 2)
        axes.plot(*truth[:, part].T, color="#009E73", linewidth=5, alpha=0.35, zorder=1)
        axes.plot(*found[:, part].T, line, color=colour, linewidth=1.6, zorder=2)
        ends: dict[str, Any] = {"marker": mark, "linestyle": "none", "zorder": 3}
        axes.plot(*truth[-1, part], color="#009E73", markersize=15, alpha=0.6, **ends)
        axes.plot(*found[-1, part], color=colour, markersize=9, **ends)


def recovered(axes: Axes, true: Sequence[float], found: Sequence[float], sd: list[float]) -> None:
    """Show 18 recovered numbers against the true ones, with two standard errors.

    Args:
        axes: Where.
        true: The true ones, in the order of ``NUMBERS``.
        found: The recovered ones.
        sd: Their standard errors.
    """
    kinds = {"positions": (0, 6), "velocities": (6, 12), "stiffnesses": (12, 15)}
    kinds |= {"rest lengths": (15, 18)}
    ends = (min(true) - 0.4, max(true) + 0.4)
    axes.plot(ends, ends, color="#999999", linewidth=1, zorder=1)
    colours = ("#0072B2", "#D55E00", "#000000", "#CC79A7")
    for (kind, (a, b)), colour, mark in zip(kinds.items(), colours, "osD^", strict=True):
        axes.errorbar(
            true[a:b],
            found[a:b],
            yerr=[2 * s for s in sd[a:b]],
            color=colour,
            marker=mark,
            linestyle="none",
            markersize=7,
            capsize=3,
            label=kind,
        )
    axes.set_xlabel("true")
    axes.set_ylabel("recovered, ± 2 standard errors")
    axes.legend(loc="upper left")


def errors_of_numbers(axes: Axes, errors: dict[int, list[float]]) -> None:
    """Show the errors of the 18 numbers in units of their standard errors.

    Args:
        axes: Where.
        errors: Of each seed, in the order of ``NUMBERS``.
    """
    from reproduce.plotting import OKABE_ITO

    for height, shade in ((2, "#EEEEEE"), (1, "#DDDDDD")):
        axes.axhspan(-height, height, color=shade, zorder=0)
    for k, (seed, values) in enumerate(errors.items()):
        colour, mark = SEEDS[k % len(SEEDS)]
        places = [place + 0.12 * (k - (len(errors) - 1) / 2) for place in range(len(NUMBERS))]
        look: dict[str, Any] = {"color": OKABE_ITO[colour], "markersize": 6}
        axes.plot(places, values, mark, label=f"seed {seed}", **look)
    most = max(3.5, *(1.15 * abs(value) for values in errors.values() for value in values))
    axes.set_ylim(-most, most)
    axes.set_xticks(range(len(NUMBERS)), SYMBOLS)
    axes.set_xlabel("number")
    axes.set_ylabel("error / standard error")
    axes.grid(False)
    axes.legend(loc="lower left", ncols=5, fontsize=11, handletextpad=0.1, columnspacing=1.0)


def growth(axes: Axes, data: SpringObservations) -> None:
    """Finish a picture of distances from the truth over time."""
    axes.axvspan(0, data.span, color="#EEEEEE", zorder=0)
    axes.axhline(SIZE, color="#555555", linewidth=1)
    axes.text(0.3, 1.08 * SIZE, f"lost: {SIZE:g}", fontsize=13, color="#555555")
    axes.set_yscale("log")
    axes.set_ylim(1e-3, 10)
    axes.set_xlim(0, data.span + data.future)
    axes.set_xlabel(f"time; observed until {data.span:g}")
    axes.set_ylabel("distance from the truth (springs are about 1)")
    axes.legend(loc="upper left", ncols=2)
