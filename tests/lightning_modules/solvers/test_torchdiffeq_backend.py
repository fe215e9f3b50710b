import pytest
import torch
import torchdiffeq
from problems import PROBLEMS, Problem
from torch import Tensor

from lightning_modules.solvers import SolverFailed, SolverSettings, backends, odeint
from lightning_modules.solvers.torchdiffeq_backend import methods

FIXED = [name for name, control in methods().items() if control == "fixed"]
ADAPTIVE = [name for name, control in methods().items() if control == "adaptive"]
ORDERS = {"euler": 1, "midpoint": 2, "heun": 2, "heun3": 3, "rk4_38": 4}
SLACK = {"fehlberg2": 1000}  # its error estimate is that coarse
RUNGE_KUTTA = [name for name in FIXED if name in ORDERS]
ADAMS = [name for name in FIXED if name.endswith("_adams")]


def largest_error(problem: Problem, steps: int, method: str) -> float:
    settings = SolverSettings(method=method, step_size=problem.end / steps, rtol=1e-12, atol=1e-12)
    times = problem.times(2)
    ys = odeint(problem.field, problem.y0, times, settings).ys
    return float((ys - problem.at(times)).abs().max())


def slope(problem: Problem, method: str, coarse: int) -> float:
    errors = [largest_error(problem, steps, method) for steps in (coarse, 2 * coarse)]
    return float(torch.tensor(errors[0] / errors[1]).log2())


@pytest.mark.parametrize("method", RUNGE_KUTTA)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_fixed_step_methods_converge_with_their_order(problem: Problem, method: str) -> None:
    # Superconvergence on a special problem is no fault; falling short is.
    assert slope(problem, method, 32) > ORDERS[method] - 0.15


@pytest.mark.parametrize("method", RUNGE_KUTTA)
def test_fixed_step_methods_have_no_higher_order_than_named(method: str) -> None:
    slopes = [slope(problem, method, 32) for problem in PROBLEMS]
    assert min(slopes) < ORDERS[method] + 0.3


@pytest.mark.filterwarnings("ignore:Functional iteration did not converge")
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_implicit_adams_converges_at_least_with_the_order_of_its_start(problem: Problem) -> None:
    assert slope(problem, "implicit_adams", 32) > 3.7


def test_explicit_adams_converges_while_its_order_is_low() -> None:
    assert slope(PROBLEMS[2], "explicit_adams", 4) > 3.7


@pytest.mark.parametrize("method", ADAMS)
def test_adams_methods_refuse_uneven_steps(method: str) -> None:
    times = torch.tensor([0.0, 0.1, 0.5])
    with pytest.raises(ValueError, match="assumes equal steps"):
        odeint(PROBLEMS[0].field, torch.ones(1), times, SolverSettings(method=method))


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_adaptive_methods_respect_the_tolerance(
    problem: Problem, method: str, direction: int
) -> None:
    times = problem.times(4, direction)
    for tolerance in (1e-3, 1e-6):
        settings = SolverSettings(method=method, rtol=tolerance, atol=tolerance)
        ys = odeint(problem.field, problem.y0, times, settings).ys
        assert float((ys - problem.at(times)).abs().max()) < SLACK.get(method, 20) * tolerance


@pytest.mark.parametrize("method", FIXED)
def test_fixed_step_methods_run_backwards_in_time(method: str) -> None:
    problem = PROBLEMS[1]
    there = problem.times(3)
    settings = SolverSettings(method=method, step_size=0.001)
    ys = odeint(problem.field, problem.y0, there, settings).ys
    back = odeint(problem.field, ys[-1], there.flip(0), settings).ys
    torch.testing.assert_close(back[-1], problem.y0, atol=5e-3, rtol=0)


def one_step(method: str, y0: Tensor) -> Tensor:
    times = torch.tensor([0.0, 0.4], dtype=y0.dtype)
    return odeint(lambda t, y: torch.sin(y) + t, y0, times, SolverSettings(method=method)).ys[-1]


def test_heun_is_the_trapezoid_rule_and_rk4_38_the_three_eighths_rule() -> None:
    y, h = torch.tensor([0.3, 1.2], dtype=torch.float64), 0.4

    def f(t: float, y: Tensor) -> Tensor:
        return torch.sin(y) + t

    k1 = f(0, y)
    torch.testing.assert_close(one_step("heun", y), y + h / 2 * (k1 + f(h, y + h * k1)))
    k2 = f(h / 3, y + h / 3 * k1)
    k3 = f(2 * h / 3, y + h * (k2 - k1 / 3))
    k4 = f(h, y + h * (k1 - k2 + k3))
    torch.testing.assert_close(one_step("rk4_38", y), y + h / 8 * (k1 + 3 * k2 + 3 * k3 + k4))


def test_only_differentiable_methods_are_offered_under_their_own_names() -> None:
    offered = backends()["torchdiffeq"].methods()
    assert not {"scipy_solver", "fixed_adams", "rk4", "heun2"} & set(offered)
    assert {"dopri5", "dopri8", "bosh3", "heun", "rk4_38", "implicit_adams"} <= set(offered)


@pytest.mark.parametrize("method", [*FIXED, *ADAPTIVE])
def test_gradients_flow_through_every_offered_method(method: str) -> None:
    y0 = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    settings = SolverSettings(method=method, rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(odeint(lambda t, y: -y, y0, times, settings).ys[-1], y0)
    assert float(grad) == pytest.approx(float(torch.tensor(-1.0).exp()), rel=8e-2)


@pytest.mark.parametrize(
    ("method", "said"),
    [("rk4", "rk4_38"), ("scipy_solver", "cuts the gradient"), ("nonsense", "dopri5")],
)
def test_methods_that_are_absent_are_refused_with_the_reason(method: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        odeint(
            lambda t, y: -y, torch.ones(1), torch.tensor([0.0, 1.0]), SolverSettings(method=method)
        )


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-6])
def test_dopri5_costs_two_plus_six_evaluations_a_step(problem: Problem, tolerance: float) -> None:
    settings = SolverSettings(rtol=tolerance, atol=tolerance)
    stats = odeint(problem.field, problem.y0, problem.times(3), settings).stats
    assert stats.nfe_forward == 2 + 6 * (stats.steps_accepted + stats.steps_rejected)
    assert stats.steps_accepted > 0


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_solutions_are_those_of_torchdiffeq_itself(problem: Problem, direction: int) -> None:
    times = problem.times(5, direction)
    ours = odeint(problem.field, problem.y0, times, SolverSettings()).ys
    theirs = torchdiffeq.odeint(problem.field, problem.y0, times, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_output_times_lie_on_the_grid_of_a_fixed_step_method() -> None:
    seen: list[float] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(round(float(t), 6))
        return -y

    times = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    settings = SolverSettings(method="euler", step_size=0.2)
    stats = odeint(field, torch.ones(1, dtype=torch.float64), times, settings).stats
    assert seen == [0.0, 0.125, 0.25, 0.4375, 0.625, 0.8125]
    assert stats.steps_accepted == stats.nfe_forward == 6


def test_rounded_times_do_not_add_a_step() -> None:
    times = torch.linspace(0, 1, 11)
    settings = SolverSettings(method="euler", step_size=0.1)
    assert odeint(lambda t, y: -y, torch.ones(1), times, settings).stats.nfe_forward == 10


def fail(field: object, end: float, **changes: object) -> SolverFailed:
    settings = SolverSettings(**changes)  # type: ignore[arg-type]
    with pytest.raises(SolverFailed) as caught:
        odeint(field, torch.ones(3), torch.tensor([0.0, end]), settings)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("direction", [1, -1])
def test_a_blow_up_fails_before_its_pole(direction: int) -> None:
    error = fail(lambda t, y: direction * y**2, 2.0 * direction)
    assert error.time == pytest.approx(direction, abs=1e-2)
    assert 0 < error.step_size < 1e-6
    assert error.steps > 20
    assert "stiff" in str(error) or "diverges" in str(error)
    assert "rtol" in str(error)


def test_a_field_that_returns_nan_is_named_as_the_cause() -> None:
    error = fail(lambda t, y: y * float("nan"), 1.0)
    assert (error.time, error.step_size, error.steps) == (0.0, 0.0, 0)
    assert "the field returned values that are not finite" in str(error)


def test_a_field_that_becomes_nan_within_a_step_is_named_as_the_cause() -> None:
    error = fail(lambda t, y: torch.where(t > 0.5, torch.nan, y), 2.0)
    assert error.time <= 0.5
    assert error.step_size > 0
    assert "not within the step" in str(error)


def test_the_step_limit_counts_the_whole_solve() -> None:
    times = torch.linspace(0, 20, 41)
    settings = SolverSettings(rtol=1e-6, atol=1e-6, max_steps=30)
    with pytest.raises(SolverFailed, match="max_steps=30 reached") as caught:
        odeint(lambda t, y: torch.cos(5 * t) * y, torch.ones(1), times, settings)
    assert caught.value.steps == 30
    assert 0.5 < caught.value.time < 20
    assert 0 < caught.value.step_size < 1


def test_too_small_a_step_size_fails_before_it_costs_anything() -> None:
    error = fail(lambda t, y: y, 1.0, method="euler", step_size=1e-6)
    assert "max_steps" in str(error)
    assert "step_size" in str(error)
    assert error.steps == 0


def test_a_fixed_step_solve_that_overflows_fails() -> None:
    error = fail(lambda t, y: y**3, 10.0, method="euler", step_size=0.5)
    assert "not finite" in str(error)
    assert (error.time, error.step_size, error.steps) == (10.0, 0.5, 20)


def test_assertions_of_the_field_pass_unchanged() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine"):
        odeint(field, torch.ones(1), torch.tensor([0.0, 1.0]), SolverSettings())
