"""How far two results of ours may lie apart and count as the same, by `paper.toml`'s rules."""

from __future__ import annotations

import math
from functools import cache

from reproduce import paper
from reproduce.claims import Quantity, claims

_COST_UNITS = ("s", "ms", "µs", "KiB", "MiB", "GiB")
_COSTS = ("time", "memory", "ratio", "resident")  # first words of metrics
_COUNTED = ("parameters", "images")  # units of what no seed and no machine changes


def is_cost(metric: str, unit: str) -> bool:
    """Return whether a metric is seconds or memory, or a ratio of them."""
    return unit in _COST_UNITS or metric.split("_")[0] in _COSTS


def is_exact(quantity: Quantity, unit: str) -> bool:
    """Return whether a quantity is a number that neither seed nor machine changes."""
    published = _published().get(quantity)
    if published is not None and published.test == "exact":
        return True
    return unit in _COUNTED or paper.checked_exactly(quantity.experiment)


def margin(quantity: Quantity) -> float | None:
    """Return the tolerance of the published number, or the equivalence margin of a claim.

    Args:
        quantity: What two sets have.

    Returns:
        None where neither was fixed: nothing then counts as the same but equal values.
    """
    published = _published().get(quantity)
    if published is not None and published.tolerance:
        return published.tolerance
    return _of_claims().get(quantity)


@cache
def _published() -> dict[Quantity, paper.PaperNumber]:
    return {
        Quantity(number.experiment, row, number.metric): number
        for number in paper.published()
        for row in number.rows
    }


@cache
def _of_claims() -> dict[Quantity, float]:
    """Return the narrowest margin that a claim sets to a difference in which a quantity stands."""
    found: dict[Quantity, float] = {}
    for claim in claims():
        for part in claim.parts:
            if part.test not in ("welch", "paired"):
                continue
            for condition in part.conditions:
                ends = [abs(end) for end in (condition.low, condition.high)]
                ends = [end for end in ends if end and math.isfinite(end)]
                for quantity in (condition.quantity, condition.against):
                    if quantity is not None and ends:
                        found[quantity] = min(*ends, found.get(quantity, math.inf))
    return found
