"""The deck's toy problem: its gradients, its course and what is drawn of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from contexts import context

from reproduce import paper, toy_paths
from reproduce.experiments import adjoint_toy
from reproduce.records import Record


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """The rows of three updates."""
    ctx = context(tmp_path_factory.mktemp("toy"), "quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adjoint_toy, "UPDATES", 3)
        patch.setattr(adjoint_toy, "EVERY", 2)
        return adjoint_toy.run(ctx)


def test_everything_that_is_known_in_closed_form_is_reproduced(records: list[Record]) -> None:
    values = {(r.row, r.metric): r.value for r in records}
    known = [
        n for n in paper.numbers("adjoint_toy") if n.metric[:4] not in ("loss", "h0_1", "h0_2")
    ]
    assert len(known) == 17
    for number in known:
        for row in number.rows:
            assert values[row, number.metric] == pytest.approx(number.value, abs=number.tolerance)


def _course(row: str, updates: int = 201) -> tuple[list[np.ndarray], list[float]]:
    """Starts and losses by the matrix exponential, without a solver."""
    moved = scipy.linalg.expm(toy_paths.END * np.array(toy_paths.W))
    moved = moved.T if row == "row" else moved
    starts, losses, velocity = [np.array(adjoint_toy.START)], [], np.zeros(2)
    for _ in range(updates):
        missed = moved @ starts[-1] - np.array(toy_paths.TARGET)
        losses.append(float(missed @ missed))
        velocity = 0.95 * velocity + 2 * missed @ moved
        starts.append(starts[-1] - 0.01 * velocity)
    return starts, losses


@pytest.mark.parametrize("row", adjoint_toy.ROWS)
def test_the_course_by_the_matrix_exponential_is_that_of_the_reference_values(row: str) -> None:
    starts, losses = _course(row)
    for n in adjoint_toy.SHOWN:
        number = paper.number("adjoint_toy", row, f"loss_{n}")
        assert losses[n] == pytest.approx(number.value, abs=number.tolerance)
    for i in (0, 1):
        number = paper.number("adjoint_toy", row, f"h0_{i + 1}")
        assert starts[-1][i] == pytest.approx(number.value, abs=number.tolerance)


def test_the_solved_course_is_that_by_the_matrix_exponential(records: list[Record]) -> None:
    values = {(r.row, r.metric): r.value for r in records}
    for row in adjoint_toy.ROWS:
        starts, losses = _course(row, 3)
        for n in (0, 2):
            assert values[row, f"loss_{n}"] == pytest.approx(losses[n], rel=1e-5)
            start = [values[row, f"h0_{i}_{n}"] for i in (1, 2)]
            assert start == pytest.approx(starts[n].tolist(), rel=1e-5)
        last = [values[row, f"h0_{i}"] for i in (1, 2)]
        assert last == pytest.approx(starts[3].tolist(), rel=1e-5)


def test_reference_values_follow_from_the_matrix_exponential() -> None:
    moved = scipy.linalg.expm(toy_paths.END * np.array(toy_paths.W))
    for row, by in (("row", moved.T), ("column", moved)):
        start, target = np.array(adjoint_toy.START), np.array(toy_paths.TARGET)
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
    path = toy_paths.paths(toy_paths.both(adjoint_toy.START))
    a = toy_paths.adjoints(path[-1]).flip(0)
    nudged = toy_paths.paths(toy_paths.both((1.3, -0.2)))
    products = (a * (nudged - path)).sum(dim=-1)
    torch.testing.assert_close(products, products[:1].expand_as(products), rtol=1e-11, atol=0)


def test_one_direction_is_left_behind() -> None:
    starts, _ = _course("row")
    moved = scipy.linalg.expm(25 * np.array(toy_paths.W)).T
    missed = np.abs((np.array(starts) - np.linalg.solve(moved, toy_paths.TARGET))
                    @ np.linalg.svd(moved).Vh.T)  # fmt: skip
    left = missed[-1] / missed[0]
    assert float(left[0]) < 0.05
    assert float(left[1]) > 0.85


def test_figures_show_what_the_rows_say(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adjoint_toy, "UPDATES", 3)
    monkeypatch.setattr(adjoint_toy, "EVERY", 2)
    monkeypatch.setattr(adjoint_toy, "SHOWN", (0, 2))
    changed = [dataclasses.replace(r, value=r.value / 2) for r in records]
    for rows in (changed, records):
        values = {(r.row, r.metric): r.value for r in rows}
        drawn = adjoint_toy.figures(rows, tmp_path)
        assert set(drawn) == {"", "column", "loss"}
        for part, row in (("", "row"), ("column", "column")):
            start = np.asarray(drawn[part].axes[1].get_lines()[1].get_xydata())[0]
            assert start.tolist() == [values[row, f"h0_{i}_2"] for i in (1, 2)]
        losses = [np.asarray(line.get_ydata()).tolist()
                  for line in drawn["loss"].axes[0].get_lines()]  # fmt: skip
        assert losses == [[values[row, f"loss_{n}"] for n in (0, 2)] for row in adjoint_toy.ROWS]
    titles = [axes.get_title() for axes in drawn[""].axes if axes.get_title()]
    assert [title.split("\n")[0] for title in titles] == ["update 0", "update 2"]
    assert titles[0].endswith("loss 0.4632")
    assert "0.066 and 0.0028" in drawn["loss"].axes[1].get_title()
    assert list(adjoint_toy.table(records).columns) == list(adjoint_toy.ROWS)
