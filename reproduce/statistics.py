"""Intervals over seeds, and how many seeds would make them narrow enough.

All intervals are two-sided, of 95 %, and but for that of a median under normally distributed
values. SciPy computes them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; ``low`` and ``high`` are NaN where the values give none.

    Args:
        value: The estimate.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def exactly(value: float) -> Interval:
    """Return the interval of a number that nothing disturbs."""
    return Interval(value, value, value)


def prediction_half_width(sd: float, n: int) -> float:
    """Return t·s·√(1+1/n), how far one further run may lie from the mean of ``n``.

    Args:
        sd: Sample standard deviation (n - 1).
        n: Number of values, at least 2.
    """
    return _quantile(n - 1) * sd * math.sqrt(1 + 1 / n)


def mean_half_width(sd: float, n: int) -> float:
    """Return t·s/√n, how far the mean of ``n`` values may lie from the true one.

    Args:
        sd: Sample standard deviation (n - 1).
        n: Number of values, at least 2.
    """
    return _quantile(n - 1) * sd / math.sqrt(n)


def seeds_to_predict(sd: float, tolerance: float) -> int | None:
    """Return the least number of values whose prediction interval reaches ``tolerance``.

    Returns:
        The number, or None where none would do: the half-width never falls below 1.96 s.
    """
    return _least(lambda n: prediction_half_width(sd, n) <= tolerance)


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean and its t interval."""
    from scipy import stats

    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    if len(set(values)) == 1:
        return exactly(values[0])
    found = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return Interval(mean, float(found.low), float(found.high))


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median and the interval between two of the values that holds it with 95 %.

    Nothing is assumed of how they are distributed, and an outlier moves neither. Of fewer than six
    values no such interval exists; the range of all stands for it.
    """
    from scipy import stats

    median = statistics.median(values)
    if len(values) < 6:
        return Interval(median, min(values), max(values))
    found = stats.quantile_test(values, p=0.5).confidence_interval(CONFIDENCE)
    return Interval(median, float(found.low), float(found.high))


def welch_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the difference of two means and Welch's interval, variances not assumed equal."""
    from scipy import stats

    difference = statistics.fmean(first) - statistics.fmean(second)
    if min(len(first), len(second)) < 2:
        return Interval(difference, math.nan, math.nan)
    if len(set(first)) == len(set(second)) == 1:
        return exactly(difference)
    test = stats.ttest_ind(first, second, equal_var=False)
    found = test.confidence_interval(CONFIDENCE)
    return Interval(difference, float(found.low), float(found.high))


def welch_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value of Welch's test that two means are equal; each has two values or more."""
    from scipy import stats

    if len(set(first)) == len(set(second)) == 1:
        return float(first[0] == second[0])
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that account for their number: below 0.05 is what Holm's procedure rejects.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_to_bound_mean(sd: float, distance: float) -> int | None:
    """Return the least number of values whose t interval of the mean reaches ``distance``."""
    return _least(lambda n: mean_half_width(sd, n) <= distance)


def seeds_to_bound_difference(sd1: float, sd2: float, distance: float) -> int | None:
    """Return the least number of values in each group whose Welch interval reaches ``distance``.

    Args:
        sd1: Standard deviation of the first group.
        sd2: Standard deviation of the second group.
        distance: Half-width that is asked for.
    """
    squares = sd1**2 + sd2**2
    freedom = squares**2 / (sd1**4 + sd2**4) if squares else 1.0  # Welch's, over n - 1
    return _least(lambda n: _quantile(freedom * (n - 1)) * math.sqrt(squares / n) <= distance)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 where one of them does not vary."""
    from scipy import stats

    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    return float(stats.spearmanr(x, y).statistic)


def paired_proportions(more: int, less: int, n: int) -> Interval:
    """Return the difference of two proportions of the same ``n`` things and its interval.

    Args:
        more: How many have the property in the first case alone.
        less: How many have it in the second case alone.
        n: How many there are.

    Source: Agresti and Min (2005), "Simple improved confidence intervals for comparing matched
    proportions": half a thing is added to each cell, so that none changing is no certainty.
    """
    from scipy import stats

    b, c, total = more + 0.5, less + 0.5, n + 2
    centre = (b - c) / total
    half = math.sqrt((b + c) - (b - c) ** 2 / total) / total
    half *= float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    return Interval((more - less) / n, centre - half, centre + half)


def exponent(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Return the slope of log y over log x, the exponent of a power law, and its t interval.

    Args:
        x: At least three positive numbers.
        y: As many positive numbers.
    """
    from scipy import stats

    if len(set(y)) == 1:
        return exactly(0.0)
    fit = stats.linregress([math.log(v) for v in x], [math.log(v) for v in y])
    half = _quantile(len(x) - 2) * float(fit.stderr)
    return Interval(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


def convergence_order(steps: Sequence[int], errors: Sequence[float]) -> Interval:
    """Return the power of the step size that errors fall with, and its t interval.

    Args:
        steps: Numbers of equal steps over one span, at least three.
        errors: As many errors, all positive.
    """
    slope = exponent(steps, errors)
    return Interval(-slope.value, -slope.high, -slope.low)


def growth(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Return the exponent p of y = a + b xᵖ and its t interval.

    A constant part a is what a power law alone would take for a smaller exponent. Relative errors
    of y are taken as equal. Where y does not change by more than a hundredth, p is 0; where the
    three numbers cannot be told apart, as of a y that falls, it is that of a power law alone.

    Args:
        x: Positive numbers; of fewer than five p is that of a power law alone.
        y: As many positive numbers.
    """
    import warnings

    import numpy as np
    from scipy import optimize

    if max(y) <= 1.01 * min(y):
        return exactly(0.0)
    if len(x) < 5:
        return exponent(x, y)
    xs, ys = np.asarray(x, float), np.asarray(y, float)

    def law(at: np.ndarray, a: float, b: float, p: float) -> np.ndarray:
        return np.asarray(a + b * at**p)

    slope = (ys[-1] - ys[0]) / (xs[-1] - xs[0])
    start = (max(ys[0] - slope * xs[0], 0.0), max(slope, 1e-12), 1.0)
    bounds = ((0.0, 0.0, 0.0), (np.inf, np.inf, 4.0))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", optimize.OptimizeWarning)
            found, covariance = optimize.curve_fit(law, xs, ys, start, sigma=ys, bounds=bounds)
    except (RuntimeError, optimize.OptimizeWarning):  # no optimum, or none that is alone
        return exponent(x, y)
    half = _quantile(len(x) - 3) * math.sqrt(covariance[2][2])
    return Interval(float(found[2]), float(found[2]) - half, float(found[2]) + half)


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Return slope, intercept and R² of the least-squares line through the points.

    R² is NaN where y is constant, of which there is nothing to explain.
    """
    from scipy import stats

    fit = stats.linregress(x, y)
    # SciPy's own answer to a constant differs from version to version.
    r_squared = math.nan if min(y) == max(y) else float(fit.rvalue) ** 2
    return float(fit.slope), float(fit.intercept), r_squared


def binomial_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's interval of a probability."""
    from scipy import stats

    found = stats.binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def _quantile(freedom: float) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _least(suffices: Callable[[int], bool]) -> int | None:
    """Return the least n from 2 that suffices; more only ever help."""
    low, high = 2, 2
    while not suffices(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high + 1, min(2 * high, MOST_SEEDS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return high
