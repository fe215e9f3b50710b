"""Intervals over seeds: closed forms, symmetry, and the least number of seeds."""

import math
import random

import pytest

from reproduce import statistics
from reproduce.statistics import Interval

T4 = 2.7764451051977987  # 97.5 % quantile of Student's t with 4 degrees of freedom


def test_one_further_run_lies_within_t_s_root_one_plus_one_over_n() -> None:
    assert statistics.prediction_half_width(0.5, 5) == pytest.approx(T4 * 0.5 * math.sqrt(1.2))


def test_the_interval_of_a_mean_is_the_t_interval() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    half = T4 * math.sqrt(2.5) / math.sqrt(5)
    found = statistics.mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half))


@pytest.mark.parametrize(("n", "first", "last"), [(6, 1, 6), (12, 3, 10), (20, 6, 15)])
def test_a_medians_interval_lies_between_two_of_the_values(n: int, first: int, last: int) -> None:
    values = [float(k) ** 2 for k in range(1, n + 1)]
    random.Random(0).shuffle(values)
    found = statistics.median_interval(values)
    assert (found.low, found.high) == (first**2, last**2)
    held = sum(math.comb(n, k) for k in range(first, last)) / 2**n
    wider = sum(math.comb(n, k) for k in range(first + 1, last - 1)) / 2**n
    assert held >= 0.95 > wider
    values[values.index(max(values))] = 1e9  # one that is disturbed moves little
    assert statistics.median_interval(values).value == found.value


def test_of_few_values_the_range_stands_for_a_medians_interval() -> None:
    assert statistics.median_interval([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0)


def test_welchs_interval_is_that_of_the_formula_and_changes_sign_with_the_order() -> None:
    first, second = [1.0, 2.0, 4.0, 4.5], [0.0, 0.5, 0.4, 0.1, 0.2]
    va, vb = 2.7291666666666665 / 4, 0.043 / 5
    freedom = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 4)
    from scipy.stats import t

    half = float(t.ppf(0.975, freedom)) * math.sqrt(va + vb)
    found = statistics.welch_interval(first, second)
    assert (found.value, found.low, found.high) == pytest.approx(
        (2.635, 2.635 - half, 2.635 + half)
    )
    turned = statistics.welch_interval(second, first)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_values_without_spread_have_an_interval_without_width() -> None:
    assert statistics.mean_interval([2.0] * 5) == Interval(2.0, 2.0, 2.0)
    assert statistics.welch_interval([2.0] * 5, [1.5] * 5) == Interval(0.5, 0.5, 0.5)


def test_one_value_has_no_interval() -> None:
    assert math.isnan(statistics.mean_interval([2.0]).low)
    assert math.isnan(statistics.welch_interval([2.0], [1.0, 2.0]).high)


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.05, 0.06])
def test_the_number_of_seeds_is_the_least_that_suffices(sd: float) -> None:
    n = statistics.seeds_to_predict(sd, 0.13)
    assert n is not None
    assert statistics.prediction_half_width(sd, n) <= 0.13
    assert n == 2 or statistics.prediction_half_width(sd, n - 1) > 0.13


def test_no_number_of_seeds_predicts_closer_than_196_hundredths_of_the_spread() -> None:
    assert statistics.seeds_to_predict(1.0, 1.95) is None
    assert statistics.seeds_to_predict(1.0, 1.99) is not None


@pytest.mark.parametrize("sds", [(0.1, 0.1), (0.1, 0.02), (0.3, 0.0)])
def test_seeds_for_a_difference_give_a_welch_interval_of_that_width(
    sds: tuple[float, float],
) -> None:
    def half_width(n: int) -> float:
        """Of samples with just these standard deviations."""
        groups = []
        for sd in sds:
            step = sd * math.sqrt((n - 1) / n)
            groups.append([step, -step] * (n // 2) + [0.0] * (n % 2))
        found = statistics.welch_interval(*groups)
        return (found.high - found.low) / 2

    needed = statistics.seeds_to_bound_difference(*sds, 0.06)
    assert needed is not None
    needed += needed % 2  # the samples above are exact for even numbers
    assert half_width(needed) <= 0.06
    assert half_width(needed - 4) > 0.06


def test_more_seeds_are_needed_for_less() -> None:
    asked = [statistics.seeds_to_bound_mean(1.0, distance) for distance in (1.0, 0.3, 0.1)]
    assert asked == sorted(asked)  # type: ignore[type-var]
    assert statistics.seeds_to_bound_mean(1.0, 1e-6) is None


def test_wilsons_interval_of_42_in_10000() -> None:
    z, n, p = 1.959963984540054, 10_000, 0.0042
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert statistics.binomial_interval(42, n) == pytest.approx((centre - half, centre + half))


def test_pairs_that_all_agree_leave_room_for_a_few_that_do_not() -> None:
    found = statistics.paired_proportions(0, 0, 10_000)
    assert found.value == 0
    assert found.low == pytest.approx(-found.high)
    assert 1e-4 < found.high < 4e-4  # the rule of three says 3e-4


def test_the_interval_of_paired_proportions_is_that_of_the_formula() -> None:
    found = statistics.paired_proportions(30, 10, 1000)
    half = 1.959963984540054 * math.sqrt(41 - 20**2 / 1002) / 1002
    assert (found.value, found.low, found.high) == pytest.approx(
        (0.02, 20 / 1002 - half, 20 / 1002 + half)
    )


def test_a_power_law_has_its_exponent_and_noise_widens_the_interval() -> None:
    x = [1.0, 2.0, 4.0, 8.0, 16.0]
    exact = statistics.exponent(x, [3 * v**1.5 for v in x])
    assert (exact.value, exact.low, exact.high) == pytest.approx((1.5, 1.5, 1.5))
    noisy = statistics.exponent(x, [3 * v**1.5 * (1.1 if k % 2 else 0.9) for k, v in enumerate(x)])
    assert noisy.low < 1.5 < noisy.high
    assert noisy.high - noisy.low > 0.05


def test_errors_that_fall_with_a_power_of_the_step_have_its_order() -> None:
    steps = [40, 80, 160, 320]
    exact = statistics.convergence_order(steps, [7 / n**2 for n in steps])
    assert (exact.value, exact.low, exact.high) == pytest.approx((2, 2, 2))
    noisy = statistics.convergence_order(steps, [1.0e-3, 2.3e-4, 6.5e-5, 1.5e-5])
    assert noisy.low < noisy.value < noisy.high


def test_what_does_not_grow_has_exponent_zero() -> None:
    assert statistics.exponent([1, 2, 4], [8.5] * 3) == Interval(0.0, 0.0, 0.0)


def test_a_line_has_its_slope_and_intercept() -> None:
    slope, intercept, r_squared = statistics.line([0, 1, 2, 3], [1, 3, 5, 7])
    assert (slope, intercept, r_squared) == pytest.approx((2, 1, 1))
    assert statistics.line([0, 1, 2, 3], [1, -1, 1, -1])[2] < 0.5


def test_a_constant_leaves_nothing_for_a_line_to_explain() -> None:
    slope, intercept, r_squared = statistics.line([0, 1, 2], [3, 3, 3])
    assert (slope, intercept) == (0, 3)
    assert math.isnan(r_squared)


@pytest.mark.parametrize("offset", [0.0, 6.0])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_is_found_beside_a_constant_part(offset: float, power: float) -> None:
    xs = [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
    found = statistics.growth(xs, [offset + 0.38 * x**power for x in xs])
    assert found.value == pytest.approx(power, abs=1e-3)
    assert found.high - found.low < 1e-2


def test_what_hardly_changes_does_not_grow() -> None:
    assert statistics.growth([1, 2, 4, 8, 16], [5.0, 5.0, 5.01, 5.0, 5.0]).value == 0


def test_what_falls_has_an_exponent_too() -> None:
    xs = [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
    ys = [91.0, 106.84, 103.83, 96.17, 92.24, 82.39, 85.02]  # of which no fit of growth converges
    found = statistics.growth(xs, ys)
    assert found == statistics.exponent(xs, ys)
    assert found.low < found.value < 0


def test_noise_widens_the_interval_of_growth_around_the_truth() -> None:
    rng = random.Random(0)
    xs = [float(2**k) for k in range(3, 10)]
    found = statistics.growth(xs, [(2 + 3 * x) * rng.gauss(1, 0.03) for x in xs])
    assert found.low < 1 < found.high
    assert 0.01 < found.high - found.low < 0.5
