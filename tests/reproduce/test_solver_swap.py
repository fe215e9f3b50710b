"""Solver swap: the same net under other solvers, compared image by image."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contexts import context

from lightning_modules.solvers import SolverFailed, SolverSettings
from reproduce.context import Context
from reproduce.experiments import solver_swap
from reproduce.records import Record


@pytest.fixture
def ctx(small_odenet: Path, mnist_root: str) -> Context:
    return context(small_odenet, data_root=mnist_root)


@pytest.fixture
def rows(ctx: Context) -> list[Record]:
    return solver_swap.run(ctx)


def _value(rows: list[Record], row: str, metric: str) -> float:
    return next(r.value for r in rows if (r.row, r.metric) == (row, metric))


def test_the_reference_differs_from_itself_in_nothing(rows: list[Record]) -> None:
    assert _value(rows, "dopri5", "changed_1e-5") == 0
    assert _value(rows, "dopri5", "difference_1e-5") == 0


def test_tighter_tolerances_and_more_steps_cost_more(rows: list[Record]) -> None:
    costs = [_value(rows, "dopri5", f"nfe_{t}") for t in solver_swap.TOLERANCES]
    assert costs == sorted(costs)
    assert costs[-1] > costs[0]
    assert _value(rows, "rk4", "nfe_steps_8") == 32


def test_every_difference_lies_in_its_interval(rows: list[Record]) -> None:
    for tolerance in solver_swap.TOLERANCES:
        low, value, high = (
            _value(rows, "dopri5", f"difference_{tolerance}{end}") for end in ("_low", "", "_high")
        )
        assert low <= value <= high
        error = _value(rows, "dopri5", f"test_error_{tolerance}")
        assert value == pytest.approx(error - _value(rows, "dopri5", "test_error_1e-5"))


def test_answers_are_compared_one_by_one() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    before = torch.tensor([0, 1, 2, 3, 0, 0])
    after = torch.tensor([0, 1, 9, 8, 4, 1])
    found = solver_swap._compared(after, before, labels)
    assert found["changed"] == 4
    assert found["test_error"] == pytest.approx(50)
    assert found["difference"] == pytest.approx(100 / 6)


def test_every_method_that_a_backend_has_is_tested_and_no_other() -> None:
    from lightning_modules.solvers import SolverSettings, find_backend

    one = {"native": {}, "torchdiffeq": {}, "scipy": solver_swap.ADAPTIVE["vode_adams"]}
    offered = {
        (name, kind)
        for backend, given in one.items()
        for name, kind in find_backend(SolverSettings(**{"backend": backend, **given}))
        .methods()
        .items()
    }
    tested = {(name, "adaptive") for name in solver_swap.ADAPTIVE}
    tested |= {(name, "fixed") for name in solver_swap.FIXED}
    assert tested == offered - {("lsoda", "adaptive")}
    for method in solver_swap.ROWS:
        for settings in solver_swap._settings(method).values():
            assert find_backend(settings).name == settings.backend


def test_a_method_that_has_its_rows_is_not_tested_again(
    ctx: Context, rows: list[Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver_swap._Test, "_answers", None)
    assert set(solver_swap.run(ctx)) == set(rows)


def test_a_setting_that_fails_is_a_row_and_the_others_are_kept(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = solver_swap._Test._answers

    def fail_at_one_step(self: Any, settings: SolverSettings) -> Any:
        if settings.step_size == 1:
            raise SolverFailed("the state is not finite", 0.5, 1.0, 1)
        return answers(self, settings)

    monkeypatch.setattr(solver_swap._Test, "_answers", fail_at_one_step)
    rows = [r for r in solver_swap.run(ctx) if r.row == "rk4"]
    failed = [(r.metric, r.status, r.hint) for r in rows if r.status != "ok"]
    assert failed == [("test_error_steps_1", "solver_failed", "the state is not finite")]
    assert _value(rows, "rk4", "nfe_steps_2") == 8
    solver_swap.plot(rows)
    assert ("rk4", "steps_2") in solver_swap.table(rows).index


def test_table_and_figure_come_from_the_rows(rows: list[Record]) -> None:
    table = solver_swap.table(rows)
    assert ("dopri5", "1e-3") in table.index
    assert ("rk4", "steps_4") in table.index
    assert {"test_error", "nfe", "changed"} <= set(table.columns)
    left, right = solver_swap.plot(rows).axes
    assert [len(panel.containers) for panel in (left, right)] == [1, 1]  # one method each
    tolerances = [text.get_text() for text in left.get_xticklabels()]
    assert sorted(tolerances, key=float, reverse=True) == tolerances  # tighter to the right


def _points(row: str, setting: str, error: float) -> list[Record]:
    """Return the rows of a method at a setting, beside an error of 1 % of the reference."""
    values = {"test_error": error, "difference": error - 1, "difference_low": error - 1.1,
              "difference_high": error - 0.9}  # fmt: skip
    return [
        Record("solver_swap", row, solver_swap._joined(metric, setting), value, "", 0, "short", 1,
               "10,000 test images", "", "cpu", "0" * 12, "ok")
        for metric, value in values.items()
    ]  # fmt: skip


def test_what_lies_beyond_the_axes_is_named_at_their_edge_and_in_words() -> None:
    rows = [
        *_points("dopri5", "1e-5", 1.0),
        *_points("euler", "steps_1", 1.5),
        *_points("explicit_adams", "steps_16", 1.02),
        *_points("explicit_adams", "steps_32", 19.6),
    ]
    figure = solver_swap.plot(rows)
    (named,) = figure.axes[1].texts
    assert named.get_text() == "Adams-Bashforth, 32 steps: test error 19.6 %"
    assert figure.axes[1].get_ylim()[1] < 1  # the others can be compared
    assert not figure.axes[0].texts
    said = solver_swap.findings(rows)
    assert "every other solver here but Adams-Bashforth at 32 steps" in said
    assert "within 0.50 points of that with dopri5 at 1e-5, 1.00 %; Euler at 1 step" in said
    assert "19.6 %, 18.6 points more (18.5 to 18.7)" in said
    assert "With every solver here, the test error" in solver_swap.findings(rows[:-4])


def test_every_method_of_a_panel_has_a_dash_of_its_own() -> None:
    for panel in (solver_swap.ADAPTIVE, solver_swap.FIXED):
        assert len({solver_swap.DASHES[method] for method in panel}) == len(panel)
