"""Curves of time against error, and what two libraries take for the same error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reproduce.statistics import Interval, median_interval


def time_at(errors: Sequence[float], seconds: Sequence[float], error: float) -> float | None:
    """Return the time in which an error of at most ``error`` is reached.

    Between the points of a curve, logarithms of time are interpolated over logarithms of errors. A
    point that is both slower and worse than another one does not count; nothing is extrapolated.

    Args:
        errors: Error at each tolerance, positive.
        seconds: Time at each.
        error: The error that is asked for.

    Returns:
        The time, or None if the curve does not get that far.
    """
    points: list[tuple[float, float]] = []
    best = math.inf
    for e, s in sorted(zip(errors, seconds, strict=True)):
        best = min(best, s)
        if points and points[-1][0] == e:
            points[-1] = (e, best)
        else:
            points.append((e, best))
    if not points or error < points[0][0]:
        return None
    below = [p for p in points if p[0] <= error]
    above = [p for p in points if p[0] > error]
    (e0, s0) = below[-1]
    if not above:
        return s0
    (e1, s1) = above[0]
    part = math.log(error / e0) / math.log(e1 / e0)
    return math.exp((1 - part) * math.log(s0) + part * math.log(s1))


@dataclass(frozen=True)
class Curve:
    """What a library takes for what error.

    Args:
        errors: Error at each tolerance, positive.
        rounds: For each tolerance, the seconds of every round.
    """

    errors: Sequence[float]
    rounds: Sequence[Sequence[float]]


def common_error(one: Curve, other: Curve, wanted: float) -> float:
    """Return the error at which two curves are compared: as wanted, or the least both reach."""
    return max(wanted, min(one.errors), min(other.errors))


def ratio(one: Curve, other: Curve, error: float) -> Interval:
    """Return the time of one over that of the other at equal error.

    Args:
        one: A curve.
        other: A curve of as many rounds, each measured beside the same of ``one``.
        error: The error.

    Returns:
        The median over rounds with its 95 % interval.

    Raises:
        ValueError: If one of them does not reach the error.
    """
    found = []
    rounds = zip(zip(*one.rounds, strict=True), zip(*other.rounds, strict=True), strict=True)
    for first, second in rounds:
        times = time_at(one.errors, first, error), time_at(other.errors, second, error)
        if times[0] is None or times[1] is None:
            raise ValueError(f"An error of {error:.2e} is not reached by both.")
        found.append(times[0] / times[1])
    return median_interval(found)
