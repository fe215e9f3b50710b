"""The deck's bullet: its closed forms, both gradients, both rules of RMSProp."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from contexts import context
from torch import Tensor

from reproduce import bullet_flights, paper, rmsprop
from reproduce.experiments import bullet
from reproduce.records import Record


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The rows of eight updates."""
    ctx = context(tmp_path_factory.mktemp("bullet"), "quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bullet, "UPDATES", 8)
        return bullet.run(ctx)


def _flight(vx: float, vy: float, t: float) -> tuple[float, float]:
    """The closed form: the velocity falls to (0, -5) like exp(-2 t)."""
    grown = (1 - math.exp(-2 * t)) / 2
    return vx * grown, (vy + 5) * grown - 5 * t


def _gradient(v0: Tensor) -> Tensor:
    """The gradient in closed form."""
    grown, (x, y) = (1 - math.exp(-3)) / 2, _flight(float(v0[0]), float(v0[1]), 1.5)
    return torch.tensor([2 * (x - 2) * grown, 2 * y * grown], dtype=torch.float64)


def test_every_reference_value_that_asks_for_no_long_course_is_reproduced(
    records: list[Record],
) -> None:
    values = {(r.row, r.metric): r.value for r in records}
    numbers = [n for n in paper.numbers("bullet")
               if n.metric != "to_optimum" and not n.metric.endswith(("_40", "_100"))]  # fmt: skip
    assert len(numbers) == 13
    for number in numbers:
        for row in number.rows:
            value = values[row, number.metric]
            assert value == pytest.approx(number.value, abs=number.tolerance)


def test_the_course_by_the_gradient_in_closed_form_ends_where_the_reference_values_say() -> None:
    course = bullet._descend("adjoint", _gradient, range(100))
    best = [paper.number("bullet", "adjoint", f"v0_{i}_100").value for i in (1, 2)]
    for i in (0, 1):
        assert float(course[100][i]) == pytest.approx(best[i], abs=0.05)
    for n in (40, 100):
        number = paper.number("bullet", "adjoint", f"loss_{n}")
        assert bullet_flights.loss_of(course[n]) < number.tolerance
    # An early end is seen: nothing is within these tolerances halfway.
    assert bullet_flights.loss_of(course[20]) > 0.05


def test_reference_values_follow_from_the_closed_form() -> None:
    known = {n.metric: float(n.value) for n in paper.numbers("bullet") if n.row == "reference"}
    best = (known["v0_1"], known["v0_2"])
    ends = {"end": _flight(10, 10, 1.5), "best_end": _flight(*best, 1.5)}
    assert ends["end"] == pytest.approx((known["end_1"], known["end_2"]), abs=0.5e-8)
    assert ends["best_end"] == pytest.approx((2, 0), abs=1e-8)
    for name, v0 in (("apex", (10, 10)), ("best_apex", best)):
        top = _flight(*v0, math.log((v0[1] + 5) / 5) / 2)
        assert top == pytest.approx((known[f"{name}_1"], known[f"{name}_2"]), abs=0.5e-4)


def test_rk4_on_the_grid_follows_the_closed_form_to_its_error(records: list[Record]) -> None:
    states = bullet_flights.states(torch.tensor([3.0, 7.0], dtype=torch.float64))
    assert len(states) == bullet_flights.POINTS
    for k in (1, 50, 99):
        t = 1.5 * k / 99
        assert states[k, :2].tolist() == pytest.approx(_flight(3, 7, t), abs=1e-7)
    (error,) = [r.value for r in records if r.metric == "rk4_error"]
    assert 1e-10 < error < 1e-7


def test_both_gradients_agree_to_rounding_and_are_that_of_the_closed_form() -> None:
    v0 = torch.tensor([10.0, 10.0], dtype=torch.float64)
    direct, adjoint = (
        bullet_flights.gradient_of(v0, "direct"),
        bullet_flights.gradient_of(v0, "adjoint"),
    )
    torch.testing.assert_close(direct, adjoint, rtol=1e-13, atol=0)
    assert direct.tolist() == pytest.approx(_gradient(v0).tolist(), rel=1e-7)


def test_every_row_goes_its_own_way_by_its_own_gradient(records: list[Record]) -> None:
    values = {(r.row, r.metric): r.value for r in records}
    for row in bullet.GRADIENTS:
        course = bullet._descend(row, _gradient, range(8))
        for n in (0, 4, 8):
            v0 = [values[row, f"v0_{i}_{n}"] for i in (1, 2)]
            assert v0 == pytest.approx(course[n].tolist(), rel=1e-7)
        distance = math.dist(v0, [values["reference", f"v0_{i}"] for i in (1, 2)])
        assert values[row, "to_optimum"] == pytest.approx(distance, rel=1e-8)
        assert values[row, "loss_8"] < values[row, "loss_6"] < values[row, "loss_0"]
    # Only the adjoint solves backwards, four evaluations for each of the 99 steps.
    evaluations = {row: values[row, "backward_evaluations"] for row in bullet.GRADIENTS}
    assert evaluations == {"direct": 0, "adjoint": 4 * 99, "direct_torch": 0}


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        (rmsprop.tensorflows, 0.02 * 3 / math.sqrt(0.9 + 0.1 * 9)),
        (rmsprop.torchs, 0.02 * 3 / (math.sqrt(0.01 * 9) + 1e-8)),
    ],
)
def test_the_first_update_tells_where_the_mean_square_begins(
    rule: Callable[[float, float], rmsprop.Update], first: float
) -> None:
    gradient = torch.tensor([3.0, -3.0], dtype=torch.float64)
    moved = rule(0.02, 0.9)(torch.zeros(2, dtype=torch.float64), gradient)
    assert moved.tolist() == pytest.approx([-first, first], rel=1e-9)


def test_updates_gather_momentum() -> None:
    for rule in (rmsprop.tensorflows, rmsprop.torchs):
        update, v0 = rule(0.02, 0.9), torch.zeros(2, dtype=torch.float64)
        still: Tensor = torch.zeros(2, dtype=torch.float64)
        first = update(v0, torch.ones(2, dtype=torch.float64))
        second = update(first, still)
        torch.testing.assert_close(second - first, 0.9 * (first - v0))


def test_figure_and_movie_show_what_the_rows_say(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bullet, "UPDATES", 8)
    monkeypatch.setattr(bullet, "DRAWN", (0, 8))
    frames = bullet.movie(records, tmp_path)
    titles = [frame.axes[0].get_title() for frame in frames]
    assert titles[0] == "after 0 updates: loss 7.7"
    assert [title.split(":")[0] for title in titles] == [f"after {n} updates" for n in (0, 4, 8)]
    changed = [dataclasses.replace(r, value=r.value / 2) for r in records]
    for rows in (records, changed):
        values = {(r.row, r.metric): r.value for r in rows}
        flights, losses = bullet.plot(rows).axes
        for line, row in zip(losses.get_lines(), bullet.GRADIENTS, strict=True):
            drawn = np.asarray(line.get_ydata()).tolist()
            assert drawn == [values[row, f"loss_{n}"] for n in (0, 2, 4, 6, 8)]
        last = np.asarray(flights.get_lines()[2].get_xydata())[-1]
        v0 = [values["adjoint", f"v0_{i}_8"] for i in (1, 2)]
        assert last.tolist() == pytest.approx(_flight(*v0, 1.5), abs=1e-7)
    labels = [text.get_text() for text in losses.get_legend().get_texts()]
    assert labels == ["direct", "adjoint", "direct, torch's RMSProp"]
    assert set(bullet.table(records).columns) == {"reference", *bullet.GRADIENTS}
