"""SciPy's Adams codes: closed forms, their one norm, their counters, and the adjoint over them."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from problems import PROBLEMS, Growth, Problem
from torch import Tensor, nn

from lightning_modules.solvers import SolverFailed, SolverSettings, odeint

METHODS = ("vode_adams", "lsoda")


def scipy(method: str = "vode_adams", tolerance: float = 1e-6, **more: object) -> SolverSettings:
    settings = {"rtol": tolerance, "atol": tolerance, "adjoint_norm": "rms", **more}
    return SolverSettings(backend="scipy", method=method, gradient="adjoint", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_solutions_are_the_closed_forms(method: str, problem: Problem, direction: int) -> None:
    times = problem.times(4, direction)
    solved = odeint(problem.field, problem.y0, times, scipy(method, 1e-9))
    torch.testing.assert_close(solved.ys, problem.at(times), rtol=1e-6, atol=1e-6)
    assert solved.stats.steps_accepted > 5
    assert solved.stats.nfe_forward >= solved.stats.steps_accepted


@pytest.mark.parametrize("method", METHODS)
def test_the_error_follows_the_tolerance(method: str) -> None:
    problem = PROBLEMS[1]
    times = problem.times(2)
    errors = [
        float((odeint(problem.field, problem.y0, times, scipy(method, tol)).ys - problem.at(times))
        .abs().max()) for tol in (1e-3, 1e-6, 1e-9)
    ]  # fmt: skip
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-7


def test_states_keep_shape_dtype_and_parts() -> None:
    y0 = (torch.ones(2, 3), torch.zeros(()))
    first, second = odeint(lambda t, y: (-y[0], y[1] + 1), y0, torch.tensor([0.0, 0.5, 1.0]),
                           scipy()).ys  # fmt: skip
    assert (first.shape, second.shape, first.dtype) == ((3, 2, 3), (3,), torch.float32)
    assert float(first[-1, 0, 0]) == pytest.approx(math.exp(-1), abs=1e-4)
    assert float(second[-1]) == pytest.approx(math.e - 1, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_adjoint_gives_the_closed_forms_of_the_linear_equation(method: str) -> None:
    field, end = Growth(-1.3), 1.5
    z0 = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.0, end], dtype=torch.float64, requires_grad=True)
    solved = odeint(field, z0, times, scipy(method, 1e-10))
    solved.ys[-1].sum().backward()
    theta, grown = -1.3, math.exp(-1.3 * end)
    assert z0.grad is not None
    assert times.grad is not None
    assert field.theta.grad is not None
    assert float(z0.grad) == pytest.approx(grown, rel=1e-6)
    assert float(field.theta.grad) == pytest.approx(end * 0.7 * grown, rel=1e-6)
    dl_dt1 = theta * 0.7 * grown
    assert times.grad.tolist() == pytest.approx([-dl_dt1, dl_dt1], rel=1e-6)
    assert solved.stats.nfe_backward > 10
    assert solved.stats.steps_accepted_backward > 5


def test_its_adjoint_agrees_with_that_over_our_own_solver() -> None:
    torch.manual_seed(0)
    field = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    module = nn.ModuleDict({"net": field})
    start = torch.randn(4, 3, dtype=torch.float64)
    times = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    found = []
    native = SolverSettings(backend="native", rtol=1e-10, atol=1e-10, gradient="adjoint")
    for settings in (scipy(tolerance=1e-10), native):
        module.zero_grad()
        y0 = start.clone().requires_grad_()

        class Field(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = field

            def forward(self, t: Tensor, y: Tensor) -> Tensor:
                return self.net(y) * (1 + t)

        odeint(Field(), y0, times, settings).ys.pow(2).sum().backward()
        found.append([y0.grad, *(p.grad.clone() for p in field.parameters())])  # type: ignore[union-attr]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adjoint_norm": "per_tensor"}, "Set adjoint_norm='rms'"),
        ({"adjoint_norm": "seminorm"}, "Set adjoint_norm='rms'"),
        ({"sync_norm": True}, "Leave sync_norm out"),
        ({"step_size": 0.1}, "chooses its own steps"),
        ({"method": "vode"}, "named vode_adams"),
    ],
)
def test_what_scipy_cannot_do_is_refused_with_the_remedy(
    change: dict[str, object], message: str
) -> None:
    settings = {"method": "vode_adams", "adjoint_norm": "rms", **change}
    settings = SolverSettings(backend="scipy", gradient="adjoint", **settings)  # type: ignore[arg-type, assignment]
    with pytest.raises(ValueError, match=message):
        odeint(Growth(-1.3), torch.ones(2), torch.tensor([0.0, 1.0]), settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_it_has_no_gradient_but_the_adjoint(gradient: str) -> None:
    settings = SolverSettings(backend="scipy", method="vode_adams", gradient=gradient)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=rf"'scipy' does not offer gradient='{gradient}'"):
        odeint(Growth(-1.3), torch.ones(2), torch.tensor([0.0, 1.0]), settings)


def test_lsoda_refuses_states_whose_square_it_would_allocate() -> None:
    with pytest.raises(ValueError, match=r"2,000 numbers.*vode_adams"):
        odeint(Growth(-1.3), torch.ones(2000), torch.tensor([0.0, 1.0]), scipy("lsoda"))


def test_a_state_is_solved_whose_square_no_memory_holds() -> None:
    y0 = torch.ones(200_000)
    solved = odeint(lambda t, y: -y, y0, torch.tensor([0.0, 1.0]), scipy(tolerance=1e-4))
    assert float(solved.ys[-1].mean()) == pytest.approx(math.exp(-1), abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_limit_ends_the_solve_and_names_itself(method: str) -> None:
    with pytest.raises(SolverFailed, match="Raise max_steps") as caught:
        odeint(Growth(-50.0), torch.ones(2).double(), torch.tensor([0.0, 1.0]),
               scipy(method, max_steps=5))  # fmt: skip
    assert 0 <= caught.value.time < 1
    assert caught.value.steps >= 5


@pytest.mark.parametrize("method", METHODS)
def test_the_step_limit_holds_for_the_whole_solve_not_for_each_output_time(method: str) -> None:
    times = torch.linspace(0.0, 10.0, 21, dtype=torch.float64)
    problem = PROBLEMS[1]
    needed = odeint(problem.field, problem.y0, times, scipy(method, tolerance=1e-8)).stats.steps
    with pytest.raises(SolverFailed, match="Raise max_steps"):
        odeint(problem.field, problem.y0, times,
               scipy(method, tolerance=1e-8, max_steps=needed // 2))  # fmt: skip


def test_more_than_scipys_default_of_500_steps_are_taken() -> None:
    times = torch.tensor([0.0, 60.0], dtype=torch.float64)
    problem = PROBLEMS[1]
    solved = odeint(problem.field, problem.y0, times, scipy(tolerance=1e-10))
    assert solved.stats.steps_accepted > 500
    torch.testing.assert_close(solved.ys, problem.at(times), rtol=1e-6, atol=1e-6)


def test_what_the_field_raises_is_raised() -> None:
    def broken(t: Tensor, y: Tensor) -> Tensor:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        odeint(broken, torch.ones(2), torch.tensor([0.0, 1.0]), scipy())


def test_a_field_that_is_not_finite_is_a_failure() -> None:
    with pytest.raises(SolverFailed, match="not finite"):
        odeint(lambda t, y: y * math.nan, torch.ones(2), torch.tensor([0.0, 1.0]), scipy())


def test_a_solve_within_its_own_field_is_refused_and_one_by_another_backend_works() -> None:
    times, inner = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.1])

    def nested(settings: SolverSettings) -> Tensor:
        def field(t: Tensor, y: Tensor) -> Tensor:
            return odeint(lambda s, x: -x, y, inner, settings).ys[-1]

        return odeint(field, torch.ones(2), times, scipy()).ys

    with pytest.raises(RuntimeError, match="another backend"):
        nested(scipy())
    grown = nested(SolverSettings(backend="native", rtol=1e-6, atol=1e-6))
    assert float(grown[-1, 0]) == pytest.approx(math.exp(math.exp(-0.1)), rel=1e-3)


def test_two_threads_may_solve_at_once_at_several_output_times() -> None:
    times = torch.linspace(0, 1, 20, dtype=torch.float64)

    def end(rate: float) -> float:
        with torch.no_grad():
            ys = odeint(lambda t, y: -rate * y, torch.ones(3).double(), times, scipy()).ys
        return float(ys[-1, 0])

    rates = [0.5, 1.0, 2.0, 4.0]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(end, rates * 5))
    assert found == pytest.approx([math.exp(-rate) for rate in rates * 5], rel=1e-2)
