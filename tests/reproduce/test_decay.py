"""Radioactive decay: the deck's numbers, and what the experiment's search and rows rest on."""

import math
from pathlib import Path

import pytest
from contexts import context

from lightning_modules.solvers import SolverSettings, watch_steps
from lightning_modules.solvers.watching import Step
from reproduce import paper, records, verdicts
from reproduce.experiments import decay


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[records.Record]:
    out = tmp_path_factory.mktemp("decay")
    ctx = context(out, "quick")
    made = decay.run(ctx)
    assert records.read(ctx.csv("decay")) == records.merge([], made)
    return made


def _growth(method: str, x: float) -> float:
    terms = {"euler": 2, "heun": 3, "midpoint": 3, "rk4": 5}[method]
    return sum((-x) ** j / math.factorial(j) for j in range(terms))


def _largest_error(method: str, steps: int) -> float:
    x = decay.RATE / steps
    return max(abs(_growth(method, x) ** k - math.exp(-x * k)) for k in range(steps + 1))


def test_every_number_of_the_decay_is_reproduced(rows: list[records.Record]) -> None:
    evidence = verdicts.Evidence(rows)
    numbers = paper.numbers("decay")
    assert len(numbers) == 33
    assert {n.name: verdicts.judge_number(n, n.row, evidence).kind for n in numbers} == {
        n.name: "reproduced" for n in numbers
    }


@pytest.mark.parametrize("number", paper.numbers("decay"), ids=lambda number: number.name)
def test_every_number_of_the_decay_follows_from_its_formula(number: paper.PaperNumber) -> None:
    kind, _, steps = number.metric.partition("_")
    if kind == "end":
        derived = _growth(number.row, decay.RATE / int(steps)) ** int(steps)
    elif kind == "error":
        derived = _largest_error(number.row, int(steps))
    elif kind == "steps":
        derived = next(n for n in range(1, 2000) if _largest_error(number.row, n) <= decay.TARGET)
    else:
        return  # orders and zeros, which the conditions of order and the growth factor state
    assert number.tolerance is not None
    assert abs(derived - float(number.value)) <= number.tolerance * (1 + 1e-9)


@pytest.mark.parametrize("method", ["euler", "heun", "rk4"])
def test_more_steps_never_undo_what_fewer_reached(method: str) -> None:
    fewest = decay.fewest_steps(method)
    steps = range(1, fewest + 60)
    reached = [_largest_error(method, n) <= decay.TARGET for n in steps]
    assert reached == [n >= fewest for n in steps]


def test_the_decay_does_not_tell_heun_from_midpoint_and_the_second_problem_does(
    rows: list[records.Record],
) -> None:
    found = {r.metric: r.value for r in rows if r.row == "heun_midpoint"}
    assert found["difference_decay"] < 1e-14
    assert found["difference_nonlinear"] > 1e-4


def test_a_slope_at_the_end_is_heuns_and_one_in_the_middle_is_midpoints() -> None:
    for method, nodes in (("heun", [0.0, 1.0]), ("midpoint", [0.0, 0.5])):
        states, stats = decay.solved("nonlinear", decay._fixed(method), 1)
        k1 = math.exp(-0.0) * math.sin(0.0)
        k2 = math.exp(-nodes[1] * k1) * math.sin(nodes[1])
        expected = (k1 + k2) / 2 if method == "heun" else k2
        assert float(states[1]) == pytest.approx(expected, abs=1e-15)
        assert stats.nfe_forward == 2


def test_a_step_costs_as_many_evaluations_as_the_method_has_stages(
    rows: list[records.Record],
) -> None:
    found = {r.row: r.value for r in rows if r.metric == "evaluations_per_step"}
    costs = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4}
    assert found == {m + end: cost for m, cost in costs.items() for end in ("", "_nonlinear")}


def test_a_step_of_dopri5_costs_six_evaluations_and_the_start_two(
    rows: list[records.Record],
) -> None:
    for problem, end in decay.PROBLEMS.items():
        found = {r.metric: r.value for r in rows if r.row == "dopri5" + end}
        for name in decay.TOLERANCES:
            steps: list[Step] = []
            settings = SolverSettings("native", "dopri5", rtol=float(name), atol=float(name))
            with watch_steps(steps.append):
                decay.solved(problem, settings, 50)
            # The last slope of a step is the first of the next: six new ones; before the first
            # step one at the start, and one to choose its size.
            assert found[f"evaluations_{name}"] == 6 * len(steps) + 2


def test_the_adaptive_errors_fall_with_their_tolerance(rows: list[records.Record]) -> None:
    for row in ("dopri5", "dopri5_nonlinear"):
        found = {r.metric: r.value for r in rows if r.row == row}
        errors = [found[f"error_{name}"] for name in decay.TOLERANCES]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < 1e-8


def test_the_table_has_a_line_for_every_method_and_problem(
    rows: list[records.Record], tmp_path: Path
) -> None:
    table = decay.table(rows)
    assert set(decay.figures(rows, tmp_path)) == {"", "evaluations"}
    assert list(table.index) == [m + e for e in ("", "_nonlinear") for m in decay.METHODS]
    assert table.loc["rk4", "steps_for_1e-3"] == 8
