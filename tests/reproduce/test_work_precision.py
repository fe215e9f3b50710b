"""Time at equal error: on curves whose answer is known."""

import math

import pytest

from reproduce.work_precision import Curve, common_error, ratio, time_at

ERRORS = [1e-2, 1e-4, 1e-6]


def test_between_two_tolerances_logarithms_are_interpolated() -> None:
    seconds = [1.0, 10.0, 100.0]  # time is error to the power -1/2, over 10
    for error in (1e-2, 1e-3, 1e-4, 3e-5, 1e-6):
        assert time_at(ERRORS, seconds, error) == pytest.approx(0.1 / math.sqrt(error))


def test_nothing_is_extrapolated() -> None:
    assert time_at(ERRORS, [1.0, 2.0, 3.0], 1e-7) is None
    assert time_at(ERRORS, [1.0, 2.0, 3.0], 1.0) == 1.0
    assert time_at([], [], 1.0) is None


def test_a_point_that_is_slower_and_worse_than_another_does_not_count() -> None:
    assert time_at([1e-2, 1e-4, 1e-6], [5.0, 2.0, 4.0], 1e-2) == 2.0
    assert time_at([1e-4, 1e-4], [5.0, 2.0], 1e-4) == 2.0


def test_the_order_of_tolerances_does_not_matter() -> None:
    forth = time_at(ERRORS, [1.0, 3.0, 9.0], 1e-3)
    assert time_at(ERRORS[::-1], [9.0, 3.0, 1.0], 1e-3) == forth


def test_a_ratio_is_that_of_each_round_and_its_interval_holds_what_varies() -> None:
    slow = [1.0, 2.0, 1.5]  # the machine in each of three rounds
    one = Curve(ERRORS, [[s * f for f in slow] for s in (1.0, 10.0, 100.0)])
    # Three times as exact at each tolerance and twice as slow.
    slower = [2 * f * jitter for f, jitter in zip(slow, (1.01, 1.0, 0.99), strict=True)]
    other = Curve([e / 3 for e in ERRORS], [[s * f for f in slower] for s in (1.0, 10.0, 100.0)])
    found = ratio(one, other, 1e-4)
    expected = math.sqrt(3) / 2
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert found.low < expected < found.high < 1.1 * found.low
    wild = Curve(other.errors, [[s, 3 * s, 0.4 * s] for s, *_ in other.rounds])
    assert ratio(one, wild, 1e-4).low < ratio(one, wild, 1e-4).value


def test_curves_are_compared_where_both_reach() -> None:
    rough = Curve([1e-2, 1e-3], [[1.0, 1.0], [2.0, 2.0]])
    fine = Curve([1e-4, 1e-6], [[1.0, 1.0], [2.0, 2.0]])
    assert common_error(fine, rough, 1e-5) == 1e-3
    assert ratio(fine, rough, common_error(fine, rough, 1e-5)).value == pytest.approx(0.5)
    with pytest.raises(ValueError, match="not reached by both"):
        ratio(fine, rough, 1e-5)
