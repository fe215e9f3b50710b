"""The deck's bullet: its closed forms, both gradients, both rules of RMSProp."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reproduce import paper
from reproduce.context import Context
from reproduce.experiments import bullet
from reproduce.records import Record


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The rows of eleven updates."""
    ctx = Context(profile="quick", device="cpu", device_text="cpu", seeds=(0,),
                  out=tmp_path_factory.mktemp("bullet"))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bullet, "UPDATES", 11)
        patch.setattr(bullet, "NOTED", (0, 11))
        return bullet.run(ctx)


def _flight(vx: float, vy: float, t: float) -> tuple[float, float]:
    """The closed form: the velocity falls to (0, -5) like exp(-2 t)."""
    grown = (1 - math.exp(-2 * t)) / 2
    return vx * grown, (vy + 5) * grown - 5 * t


def test_every_reference_value_is_reproduced(records: list[Record]) -> None:
    values = {(r.row, r.metric): r.value for r in records}
    numbers = paper.numbers("bullet")
    assert len(numbers) == 9
    for number in numbers:
        value = values[number.row, number.metric]
        assert value == pytest.approx(number.value, abs=number.tolerance)


def test_reference_values_follow_from_the_closed_form() -> None:
    known = {number.metric: number.value for number in paper.numbers("bullet")}
    best = (known["v0_1"], known["v0_2"])
    ends = {"end": _flight(10, 10, 1.5), "best_end": _flight(*best, 1.5)}
    assert ends["end"] == pytest.approx((known["end_1"], known["end_2"]), abs=0.5e-8)
    assert ends["best_end"] == pytest.approx((2, 0), abs=1e-8)
    for name, v0 in (("apex", (10, 10)), ("best_apex", best)):
        top = _flight(*v0, math.log((v0[1] + 5) / 5) / 2)
        assert top == pytest.approx((known[f"{name}_1"], known[f"{name}_2"]), abs=0.5e-4)


def test_rk4_on_the_grid_follows_the_closed_form_to_its_error(records: list[Record]) -> None:
    states = bullet._states(torch.tensor([3.0, 7.0], dtype=torch.float64))
    assert len(states) == bullet.POINTS
    for k in (1, 50, 99):
        t = 1.5 * k / 99
        assert states[k, :2].tolist() == pytest.approx(_flight(3, 7, t), abs=1e-7)
    (error,) = [r.value for r in records if r.metric == "rk4_error"]
    assert 1e-10 < error < 1e-7


def test_both_gradients_agree_to_rounding_and_are_that_of_the_closed_form() -> None:
    v0 = torch.tensor([10.0, 10.0], dtype=torch.float64)
    direct, adjoint = bullet._gradient(v0, "direct"), bullet._gradient(v0, "adjoint")
    torch.testing.assert_close(direct, adjoint, rtol=1e-13, atol=0)
    grown, (x, y) = (1 - math.exp(-3)) / 2, _flight(10, 10, 1.5)
    assert direct.tolist() == pytest.approx([2 * (x - 2) * grown, 2 * y * grown], rel=1e-7)


def test_what_is_drawn_is_the_course_that_was_solved(records: list[Record]) -> None:
    values = {(r.row, r.metric): r.value for r in records}
    for row in bullet.ROWS:
        assert values[row, "gradient_difference"] < 1e-12
        v0 = bullet._redone(row)[11]
        for i in (0, 1):
            assert values[row, f"v0_{i + 1}"] == pytest.approx(float(v0[i]), rel=1e-10)
        distance = math.dist(v0.tolist(), [values["reference", f"v0_{i}"] for i in (1, 2)])
        assert values[row, "to_optimum"] == pytest.approx(distance, rel=1e-8)
        assert values[row, "loss_11"] < values[row, "loss_0"]


def test_the_loss_is_nearly_gone_after_forty_updates_as_published() -> None:
    course = bullet._redone("direct")
    assert len(course) == 101
    assert bullet._loss(course[0]) == pytest.approx(7.7078, abs=1e-4)
    assert bullet._loss(course[40]) < 0.01
    assert bullet._loss(course[100]) < 1e-5


@pytest.mark.parametrize(
    ("rule", "first"),
    [
        (bullet.tensorflows_rmsprop, 0.02 * 3 / math.sqrt(0.9 + 0.1 * 9)),
        (bullet.torchs_rmsprop, 0.2),
    ],
)
def test_the_first_update_tells_where_the_mean_square_begins(
    rule: Callable[[], Callable[[Tensor, Tensor], Tensor]], first: float
) -> None:
    gradient = torch.tensor([3.0, -3.0], dtype=torch.float64)
    moved = rule()(torch.zeros(2, dtype=torch.float64), gradient)
    assert moved.tolist() == pytest.approx([-first, first], rel=1e-6)


def test_updates_gather_momentum() -> None:
    for rule in (bullet.tensorflows_rmsprop, bullet.torchs_rmsprop):
        update, v0 = rule(), torch.zeros(2, dtype=torch.float64)
        still: Tensor = torch.zeros(2, dtype=torch.float64)
        first = update(v0, torch.ones(2, dtype=torch.float64))
        second = update(first, still)
        torch.testing.assert_close(second - first, bullet.MOMENTUM * (first - v0))


def test_the_movie_goes_from_the_first_flight_to_the_hit(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bullet, "EVERY", 50)
    frames = bullet.movie(records, tmp_path)
    assert frames is not None
    titles = [frame.axes[0].get_title() for frame in frames]
    assert titles[0] == "after 0 updates: loss 7.7"
    assert [title.split(":")[0] for title in titles[1:]] == ["after 50 updates",
                                                             "after 100 updates"]  # fmt: skip
    figure = bullet.plot(records)
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["direct", "adjoint", "direct, torch's RMSProp"]
    assert set(bullet.table(records).columns) == {"reference", *bullet.ROWS}
