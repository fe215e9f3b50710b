"""The native backend's forward solves: accuracy, step sequences, costs and failures."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torchdiffeq
from against_native import ADAPTIVE, FIXED
from problems import PROBLEMS, Problem
from torch import Tensor

from lightning_modules.solvers import SolverFailed, SolverSettings, Step, odeint, watch_steps
from lightning_modules.solvers.native_backend import methods
from lightning_modules.solvers.stepping import BufferedStages, GraphStages, Stages
from lightning_modules.solvers.tableaus import TABLEAUS


def native(method: str = "dopri5", **changes: object) -> SolverSettings:
    return SolverSettings(backend="native", method=method, **changes)  # type: ignore[arg-type]


def largest_error(problem: Problem, steps: int, method: str) -> float:
    settings, times = native(method, step_size=problem.end / steps), problem.times(2)
    ys = odeint(problem.field, problem.y0, times, settings).ys
    return float((ys - problem.at(times)).abs().max())


def slope(problem: Problem, method: str) -> float:
    return math.log2(largest_error(problem, 32, method) / largest_error(problem, 64, method))


@pytest.mark.parametrize("method", FIXED)
def test_fixed_step_methods_converge_with_their_order_and_no_faster(method: str) -> None:
    slopes = [slope(problem, method) for problem in PROBLEMS]
    order = TABLEAUS[method].order
    assert order - 0.15 < min(slopes) < order + 0.3


@pytest.mark.parametrize("kind", [BufferedStages, GraphStages])
@pytest.mark.parametrize("method", methods())
def test_a_single_step_has_an_error_of_its_order_plus_one(method: str, kind: type[Stages]) -> None:
    problem, tableau, errors = PROBLEMS[2], TABLEAUS[method], []
    for dt in (1.0, 0.5) if tableau.order == 8 else (0.2, 0.1):
        stages = kind(problem.field, tableau, problem.y0)
        stages.open(0.0, problem.y0)
        exact = problem.solution(torch.tensor(dt, dtype=torch.float64))
        errors.append(float((stages.step(0.0, dt, problem.y0) - exact).norm()))
    assert math.log2(errors[0] / errors[1]) > tableau.order + 0.8


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_adaptive_methods_respect_the_tolerance(
    problem: Problem, method: str, direction: int, graph: bool
) -> None:
    times = problem.times(4, direction)
    for tolerance in (1e-3, 1e-6):
        settings = native(method, rtol=tolerance, atol=tolerance)
        with torch.set_grad_enabled(graph):
            ys = odeint(problem.field, problem.y0, times, settings).ys
        assert float((ys - problem.at(times)).abs().max()) < 20 * tolerance


@pytest.mark.parametrize("method", methods())
def test_float32_states_are_solved_in_float32(method: str) -> None:
    problem = PROBLEMS[1]
    times = problem.times(3).float()
    step_size = 0.005 if method in FIXED else None
    settings = native(method, rtol=1e-4, atol=1e-4, step_size=step_size)
    ys = odeint(lambda t, y: y @ problem.field(t, torch.eye(2).double()).to(y), problem.y0.float(),
                times, settings).ys  # fmt: skip
    assert ys.dtype == torch.float32
    assert float((ys - problem.at(times.double())).abs().max()) < (
        0.05 if method == "euler" else 2e-3
    )


class Recorder(torch.nn.Module):
    """A field that notes torchdiffeq's accepted and rejected steps."""

    def __init__(self, field: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.field = field
        self.steps: list[tuple[float, float, bool]] = []

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(t, y)

    def callback_accept_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.steps.append((float(t), float(dt), True))

    def callback_reject_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self.steps.append((float(t), float(dt), False))


def stiffening(t: Tensor, y: Tensor) -> Tensor:
    """Smooth, but hard enough in places that steps are rejected."""
    return 9 * torch.cos(14 * t) * y / (1 + y**2) + torch.sin(9 * t**3)


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "dopri8"])
def test_steps_are_those_of_torchdiffeq(method: str, direction: int, graph: bool) -> None:
    # A step cut short by an output time has an error of 1e-11: its rounding moves the next step.
    slack = 1e-5 if method == "dopri8" else 1e-8
    y0 = torch.tensor([[0.3, -1.0], [0.7, 1.9]], dtype=torch.float64)
    times = direction * torch.tensor([0.0, 0.4, 0.9, 1.7], dtype=torch.float64)
    seen: list[Step] = []
    with watch_steps(seen.append), torch.set_grad_enabled(graph):
        ys = odeint(stiffening, y0, times, native(method, rtol=1e-5, atol=1e-6)).ys
    field = Recorder(stiffening)
    options = {} if method == "dopri5" else {"step_t": times}  # dopri5 alone interpolates
    theirs = torchdiffeq.odeint(
        field, y0, times, rtol=1e-5, atol=1e-6, method=method, options=options
    )
    assert len(seen) == len(field.steps) > 10
    assert any(not step.accepted for step in seen)
    for ours, (t, dt, accepted) in zip(seen, field.steps, strict=True):
        assert ours.t == pytest.approx(t, rel=slack)
        assert abs(ours.dt) == pytest.approx(abs(dt), rel=slack)
        assert ours.accepted == accepted
    torch.testing.assert_close(ys, theirs, rtol=slack / 100, atol=slack / 100)


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_dopri5_costs_two_plus_six_evaluations_a_step(problem: Problem, tolerance: float) -> None:
    settings = native(rtol=tolerance, atol=tolerance)
    stats = odeint(problem.field, problem.y0, problem.times(3), settings).stats
    assert stats.nfe_forward == 2 + 6 * stats.steps
    assert stats.steps_accepted > 0


@pytest.mark.parametrize("method", methods())
def test_watchers_see_every_step_from_start_to_end(method: str) -> None:
    problem, seen = PROBLEMS[1], []
    with watch_steps(seen.append):
        stats = odeint(problem.field, problem.y0, problem.times(3), native(method)).stats
    odeint(problem.field, problem.y0, problem.times(2), native(method))  # after: not watched
    accepted = [step for step in seen if step.accepted]
    assert (len(accepted), len(seen)) == (stats.steps_accepted, stats.steps)
    for before, after in pairwise(accepted):
        assert after.t == pytest.approx(before.t + before.dt)
        assert torch.equal(before.y1, after.y0)
    assert accepted[0].y0.shape == problem.y0.shape
    assert all((step.error_ratio <= 1) == step.accepted for step in seen if method in ADAPTIVE)


def test_fields_may_keep_what_they_are_called_with() -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        kept.append((y, y.clone()))
        return -y

    with torch.no_grad():
        odeint(field, torch.ones(4), torch.tensor([0.0, 3.0]), native(rtol=1e-6))
    assert all(torch.equal(*pair) for pair in kept)


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("graph", [True, False])
def test_solves_are_bit_identical_from_run_to_run(method: str, graph: bool) -> None:
    torch.manual_seed(0)
    y0, times = torch.randn(16, 64), torch.tensor([0.0, 0.3, 1.0])
    weight = torch.randn(64, 64) / 8
    with torch.set_grad_enabled(graph):
        runs = [
            odeint(lambda t, y: torch.tanh(y @ weight), y0, times, native(method)).ys
            for _ in range(2)
        ]
    assert torch.equal(*runs)


def fail(field: Callable[[Tensor, Tensor], Tensor], end: float, **changes: object) -> SolverFailed:
    with pytest.raises(SolverFailed) as caught:
        odeint(field, torch.ones(3), torch.tensor([0.0, end]), native(**changes))  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("direction", [1, -1])
def test_a_blow_up_fails_at_its_pole(direction: int, method: str) -> None:
    error = fail(lambda t, y: direction * y**2, 2.0 * direction, method=method)
    assert error.time == pytest.approx(direction, abs=3e-2)
    assert 0 < error.step_size < 1e-6
    assert error.steps > 10
    assert "diverges" in str(error)
    assert "rtol" in str(error)


def test_a_stiff_problem_runs_into_the_step_limit() -> None:
    error = fail(lambda t, y: -1e6 * (y - torch.cos(t)), 10.0, max_steps=200)
    assert error.steps == 200
    assert 0 < error.time < 10
    assert "Raise max_steps or loosen rtol/atol" in str(error)


def test_a_field_that_is_nan_at_the_start_is_named_as_the_cause() -> None:
    error = fail(lambda t, y: y * torch.nan, 1.0)
    assert (error.time, error.step_size, error.steps) == (0.0, 0.0, 0)
    assert "the field returned values that are not finite" in str(error)


def test_a_field_that_becomes_nan_is_approached_and_named() -> None:
    error = fail(lambda t, y: torch.where(t > 0.5, torch.nan, y), 2.0)
    assert error.time == pytest.approx(0.5, abs=1e-3)
    assert 0 < error.step_size < 1e-10
    assert "not within the step" in str(error)


def test_a_step_into_nan_is_repeated_with_a_smaller_one() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where((y < 0.3).any(), torch.nan, -y)

    solution = odeint(field, torch.ones(2), torch.tensor([0.0, 1.0]), native(rtol=0.5, atol=0.5))
    assert solution.stats.steps_rejected > 0
    torch.testing.assert_close(solution.ys[-1], torch.full((2,), math.exp(-1)), rtol=0, atol=0.1)


def test_a_fixed_step_solve_that_overflows_fails() -> None:
    error = fail(lambda t, y: y**3, 10.0, method="rk4", step_size=0.5)
    assert "not finite" in str(error)
    assert error.steps == 20


def test_the_step_limit_counts_the_whole_solve() -> None:
    times = torch.linspace(0, 20, 41)
    settings = native(rtol=1e-6, atol=1e-6, max_steps=30)
    with pytest.raises(SolverFailed, match="max_steps=30 reached") as caught:
        odeint(lambda t, y: torch.cos(5 * t) * y, torch.ones(1), times, settings)
    assert caught.value.steps == 30
    assert 0.5 < caught.value.time < 20


def test_times_far_from_zero_and_long_intervals_work() -> None:
    for start, length in ((1e6, 1.0), (0.0, 1e-9), (-5.0, 1e3)):
        times = torch.tensor([start, start + length], dtype=torch.float64)
        y0 = torch.ones(1, dtype=torch.float64)
        ys = odeint(lambda t, y, k=1 / length: -k * y, y0, times, native(rtol=1e-8, atol=1e-8)).ys
        assert float(ys[-1]) == pytest.approx(math.exp(-1), abs=1e-6)
