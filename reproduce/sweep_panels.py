"""How a sweep is shown: errors of every variant, and differences to what it changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from reproduce import statistics
from reproduce.sweep_results import Values, differences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = 0.28  # between the marks of one variant, which have levels of their own


@dataclass(frozen=True)
class Levels:
    """Where the rows of a sweep are drawn.

    Args:
        of_rows: Height of every row.
        of_variants: Where every variant begins and ends, in order.
    """

    of_rows: dict[str, float]
    of_variants: dict[str, tuple[float, float]]

    @property
    def end(self) -> float:
        """Where the last variant ends."""
        return max(end for _, end in self.of_variants.values())


def levels(variants: Mapping[str, Sequence[str]]) -> Levels:
    """Give every variant a height by how many networks it has, and every network its level.

    Args:
        variants: The networks of every variant that is shown.
    """
    rows, places, top = {}, {}, 0.0
    for variant, networks in variants.items():
        height = max(1.0, STEP * (len(networks) + 1))
        places[variant] = (top, top + height)
        for k, network in enumerate(networks):
            beside = STEP * (k - (len(networks) - 1) / 2)
            rows[f"{variant}-{network}"] = top + height / 2 + beside
        top += height
    return Levels(rows, places)


def errors(axes: Axes, found: Values, at: Levels, networks: Sequence[str]) -> None:
    """Draw means, of several seeds with their 95 % interval and a dot a seed.

    Args:
        axes: Where; its error axis becomes logarithmic.
        found: Errors of every row, one value a seed.
        at: Where the rows go.
        networks: The networks, for the order of the legend.
    """
    from reproduce import plotting

    least = min(min(values) for values in found.values())
    for network in networks:
        rows = [row for row in found if row.partition("-")[2] == network]
        style: dict[str, Any] = {**plotting.method_style(network), "markersize": 10}
        heights = [at.of_rows[row] for row in rows]
        axes.plot([fmean(found[row]) for row in rows], heights, linestyle="none", **style)
        for row, height in zip(rows, heights, strict=True):
            if len(found[row]) < 2:
                continue
            interval = statistics.mean_interval(found[row])
            # A lower end below 0 is outside of a logarithmic axis.
            ends = [max(interval.low, 0.5 * least), interval.high]
            axes.plot(ends, [height] * 2, color=style["color"], linewidth=1)
            dots = [height] * len(found[row])
            axes.plot(found[row], dots, ".", color=style["color"], markersize=4)
    axes.set_xscale("log")
    plotting.plain_ticks(axes.xaxis)
    _heights(axes, at)


def changes(axes: Axes, found: Values, at: Levels) -> None:
    """Draw the differences of rows to what they change, with Welch's 95 % interval."""
    from reproduce import plotting

    axes.axvline(0, color="#555555", linewidth=1)
    for row, interval in differences(found).items():
        style: dict[str, Any] = {**plotting.method_style(row.partition("-")[2]), "label": None}
        ends = [interval.low, interval.high]
        axes.plot(ends, [at.of_rows[row]] * 2, color=style["color"], linewidth=1)
        axes.plot([interval.value], [at.of_rows[row]], **style)
    far = max(abs(end) for end in axes.get_xlim() if math.isfinite(end))
    axes.set_xlim(-far, far)
    _heights(axes, at)


def _heights(axes: Axes, at: Levels) -> None:
    """Name the variants and set each off from its neighbours."""
    axes.set_ylim(at.end, 0)
    middles = [(top + end) / 2 for top, end in at.of_variants.values()]
    axes.set_yticks(middles, list(at.of_variants))
    axes.grid(False, axis="y")
    for top, end in list(at.of_variants.values())[1::2]:
        axes.axhspan(top, end, color="#F2F2F2", zorder=0, linewidth=0)
