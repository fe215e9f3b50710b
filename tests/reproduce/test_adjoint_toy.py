"""The deck's toy problem: its gradients, its course and what is drawn of it."""

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from reproduce import paper
from reproduce.context import Context
from reproduce.experiments import adjoint_toy
from reproduce.records import Record


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The rows of three updates."""
    ctx = Context(profile="quick", device="cpu", device_text="cpu", seeds=(0,),
                  out=tmp_path_factory.mktemp("toy"))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adjoint_toy, "UPDATES", 3)
        patch.setattr(adjoint_toy, "SHOWN", (0, 2))
        return adjoint_toy.run(ctx)


def test_everything_that_is_known_in_closed_form_is_reproduced(records: list[Record]) -> None:
    values = {(r.row, r.metric): r.value for r in records}
    known = [
        n for n in paper.numbers("adjoint_toy") if n.metric[:4] not in ("loss", "h0_1", "h0_2")
    ]
    assert len(known) == 14
    for number in known:
        for row in number.rows:
            assert values[row, number.metric] == pytest.approx(number.value, abs=number.tolerance)


def test_the_course_is_that_of_the_published_pictures() -> None:
    course = adjoint_toy._redone()
    values = adjoint_toy._along(course, adjoint_toy.ROWS.index("row"))
    for number in paper.numbers("adjoint_toy"):
        if number.metric in values and number.row == "row":
            assert values[number.metric] == pytest.approx(number.value, abs=number.tolerance)


def test_what_is_drawn_is_the_course_that_was_solved(records: list[Record]) -> None:
    course = adjoint_toy._redone()
    values = {(r.row, r.metric): r.value for r in records}
    for k, row in enumerate(adjoint_toy.ROWS):
        for n in (0, 2):
            loss = float(course.losses[n, k])
            assert values[row, f"loss_{n}"] == pytest.approx(loss, rel=1e-12)
        assert values[row, "h0_1"] == pytest.approx(float(course.starts[3, k, 0]), rel=1e-12)


def test_reference_values_follow_from_the_matrix_exponential() -> None:
    moved = scipy.linalg.expm(adjoint_toy.END * np.array(adjoint_toy.W))
    for row, by in (("row", moved.T), ("column", moved)):
        start, target = np.array(adjoint_toy.START), np.array(adjoint_toy.TARGET)
        end = by @ start
        exact = {"h25": end, "gradient": 2 * (end - target) @ by,
                 "optimum": np.linalg.solve(by, target)}  # fmt: skip
        for name, pair in exact.items():
            for i in (0, 1):
                number = paper.number("adjoint_toy", row, f"{name}_{i + 1}")
                assert pair[i] == pytest.approx(number.value, abs=0.5e-8)


def test_the_adjoint_is_the_gradient_to_the_order_of_rk4_and_the_suites_to_rounding(
    records: list[Record],
) -> None:
    values = {(r.row, r.metric): r.value for r in records}
    for row in adjoint_toy.ROWS:
        assert values[row, "from_expm"] < 1e-10
        assert 1e-8 < values[row, "rk4_error"] < 1e-5
        assert values[row, "from_suite"] < 1e-14
        assert values[row, "from_direct"] < 1e-14


def test_the_adjoint_tells_of_every_time_what_a_change_of_the_state_does_to_the_loss() -> None:
    path = adjoint_toy._paths(adjoint_toy._both(adjoint_toy.START))
    a = adjoint_toy._adjoints(path[-1]).flip(0)
    nudged = adjoint_toy._paths(adjoint_toy._both((1.3, -0.2)))
    products = (a * (nudged - path)).sum(dim=-1)
    torch.testing.assert_close(products, products[:1].expand_as(products), rtol=1e-11, atol=0)


def test_one_direction_is_left_behind() -> None:
    course = adjoint_toy._redone()
    moved = torch.matrix_exp(25 * adjoint_toy._matrices()[0])
    optimum = torch.linalg.solve(moved, adjoint_toy._both(adjoint_toy.TARGET)[0])
    directions = torch.linalg.svd(moved).Vh
    missed = ((course.starts[:, 0] - optimum) @ directions.T).abs()
    left = missed[-1] / missed[0]
    assert float(left[0]) < 0.05
    assert float(left[1]) > 0.85


def test_figures_have_a_column_for_every_shown_update(
    records: list[Record], tmp_path: Path
) -> None:
    drawn = adjoint_toy.figures(records, tmp_path)
    assert set(drawn) == {"", "column", "loss"}
    titles = [axes.get_title() for axes in drawn[""].axes if axes.get_title()]
    assert [title.split("\n")[0] for title in titles] == [f"update {n}" for n in adjoint_toy.SHOWN]
    assert titles[0].endswith("loss 0.4632")
    assert "0.066 and 0.0028" in drawn["loss"].axes[1].get_title()
    assert list(adjoint_toy.table(records).columns) == list(adjoint_toy.ROWS)
