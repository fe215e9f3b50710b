"""Algorithm 1: every gradient against closed forms, the suite's adjoint and finite differences."""

import ast
import tokenize
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from contexts import context
from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, odeint
from reproduce import algorithm_1, closed_forms, memory, paper, references
from reproduce.experiments import reverse_mode

PROBLEMS = {problem.name: problem for problem in closed_forms.problems()}
WITH_CLOSED_FORM = [name for name, problem in PROBLEMS.items() if problem.solution is not None]
ORDERS = {"euler": 1, "midpoint": 2, "rk4": 4}


def _gradients(name: str, method: str, steps: int) -> dict[str, Tensor]:
    return PROBLEMS[name].gradients(reverse_mode._solve(PROBLEMS[name], method, steps))


def _perceptron() -> nn.Module:
    return PROBLEMS["network"].field


def test_it_is_a_hundred_lines_of_code_and_imports_torch_alone() -> None:
    path = Path(algorithm_1.__file__)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        (name.name if isinstance(node, ast.Import) else str(node.module)).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"collections", "itertools", "typing", "torch"}
    with path.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    code = {t.start[0] for t in tokens if t.type in (tokenize.NAME, tokenize.OP)}
    assert len(code) <= 100


@pytest.mark.parametrize("name", WITH_CLOSED_FORM)
def test_a_closed_form_solves_its_equation(name: str) -> None:
    problem = PROBLEMS[name]
    assert problem.solution is not None
    theta = torch.cat([part.detach().reshape(-1) for part in problem.field.parameters()])
    times = torch.tensor([0.0, 0.3, 0.3 + 1e-6], dtype=torch.float64)
    states = problem.solution(problem.z0, theta, times)
    torch.testing.assert_close(states[0], problem.z0)
    slope = (states[2] - states[1]) / 1e-6
    torch.testing.assert_close(
        slope, problem.field(times[1], states[1]).detach(), rtol=0, atol=2e-6
    )


def test_the_linear_problem_follows_the_matrix_exponential_of_scipy() -> None:
    problem = PROBLEMS["linear"]
    w, x0 = np.array([[-0.1, 1.0], [-0.2, -0.1]]), np.array([1.0, 0.5])
    end = reverse_mode._solve(problem, "rk4", 64)(problem.z0, problem.times)[-1].detach()
    np.testing.assert_allclose(end[:2], x0 @ scipy.linalg.expm(w), atol=1e-10)
    assert float(end[2]) == pytest.approx(0.2, abs=1e-14)
    # Moving W by E moves x(t) by x0 L(W t, E t), L the derivative of the exponential.
    weights, by_w = problem.weights.numpy(), np.zeros((2, 2))
    for i, j in np.ndindex(2, 2):
        moved = np.zeros((2, 2))
        moved[i, j] = 1.0
        for t, weight in zip((0.5, 1.0), weights[1:], strict=True):
            by_w[i, j] += x0 @ scipy.linalg.expm_frechet(w * t, moved * t)[1] @ weight[:2]
            by_w[i, j] -= moved.trace() * t * weight[2]
    np.testing.assert_allclose(problem.exact()["theta"], by_w.ravel(), atol=1e-14)


@pytest.mark.parametrize("name", WITH_CLOSED_FORM)
def test_every_gradient_is_that_of_the_closed_form(name: str) -> None:
    found, exact = _gradients(name, "rk4", 32), PROBLEMS[name].exact()
    for gradient in reverse_mode.GRADIENTS:
        torch.testing.assert_close(found[gradient], exact[gradient], rtol=0, atol=3e-9)


@pytest.mark.parametrize(("method", "order"), ORDERS.items())
def test_errors_fall_with_the_order_of_the_method(method: str, order: int) -> None:
    exact = PROBLEMS["cosine"].exact()
    few, many = (_gradients("cosine", method, steps) for steps in (16, 32))
    for name, truth in exact.items():
        ratio = float((few[name] - truth).norm() / (many[name] - truth).norm())
        assert ratio == pytest.approx(2**order, rel=0.05)


@pytest.mark.parametrize("method", ORDERS)
def test_it_is_the_suites_adjoint_to_rounding(method: str) -> None:
    problem = PROBLEMS["network"]
    suite = problem.gradients(reverse_mode._suite(problem, method, 6, "adjoint"))
    for name in ("z0", "theta", "t1"):
        torch.testing.assert_close(
            _gradients("network", method, 6)[name], suite[name], rtol=1e-13, atol=1e-13
        )


def test_gradients_pass_the_check_by_finite_differences_in_both_directions_of_time() -> None:
    z0 = torch.tensor([0.5, -0.3, 0.8], dtype=torch.float64, requires_grad=True)
    for ticks in ([0.2, 0.7, 1.2], [1.0, 0.4]):
        times = torch.tensor(ticks, dtype=torch.float64, requires_grad=True)

        def solve(z0: Tensor, times: Tensor) -> Tensor:
            return algorithm_1.odeint(_perceptron(), z0, times, 12)

        assert torch.autograd.gradcheck(solve, (z0, times), atol=2e-5)


def test_a_loss_of_the_first_state_alone_is_the_identity() -> None:
    z0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    states = algorithm_1.odeint(_perceptron(), z0, times, 2)
    by_z0, by_times = torch.autograd.grad(states[0].sum(), (z0, times))
    assert by_z0.tolist() == [1, 1, 1]
    assert by_times.tolist() == [0, 0]


def test_a_field_that_uses_neither_state_nor_time_has_gradients_too() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.speed = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return self.speed

    z0 = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([1.0, 4.0], dtype=torch.float64, requires_grad=True)
    field = Constant()
    end = algorithm_1.odeint(field, z0, times, 3)[-1]
    assert float(end.detach()) == pytest.approx(6)
    by_z0, by_times, by_speed = torch.autograd.grad(end.sum(), (z0, times, field.speed))
    assert (float(by_z0), float(by_speed)) == pytest.approx((1, 3))
    assert by_times.tolist() == pytest.approx([-2, 2])


def test_its_memory_does_not_know_the_number_of_steps() -> None:
    def work(steps: int) -> None:
        z0 = torch.ones(3, dtype=torch.float64, requires_grad=True)
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        algorithm_1.odeint(_perceptron(), z0, times, steps)[-1].sum().backward()

    work(2)
    assert memory.peak(lambda: work(10)) == memory.peak(lambda: work(40))


def test_a_solve_without_steps_or_without_a_second_time_is_refused() -> None:
    z0 = torch.ones(3, dtype=torch.float64)
    for times, steps in ((torch.tensor([0.0, 1.0]), 0), (torch.tensor([0.0]), 3)):
        with pytest.raises(ValueError, match="at least two times"):
            algorithm_1.odeint(_perceptron(), z0, times, steps)


def test_a_problem_without_a_closed_form_says_so() -> None:
    with pytest.raises(ValueError, match="network has no closed form"):
        PROBLEMS["network"].exact()


def test_rows_have_every_order_and_the_reference_values_are_reproduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reverse_mode, "METHODS", {"rk4": "-"})
    monkeypatch.setattr(closed_forms, "problems", lambda: list(PROBLEMS.values())[1:2])
    ctx = context(tmp_path, "quick")
    rows = reverse_mode.run(ctx)
    values = {r.metric: r.value for r in rows}
    for name in reverse_mode.GRADIENTS:
        assert values[f"order_{name}_rk4"] == pytest.approx(4, abs=0.1)
    assert values["from_direct_rk4"] == pytest.approx(4, abs=0.2)
    assert values["from_suite"] < 1e-14
    for number in paper.numbers("reverse_mode"):
        if "cosine" in number.rows and number.metric in values:
            assert values[number.metric] == pytest.approx(number.value, abs=number.tolerance)
    figure = reverse_mode.plot(rows)
    for panel, name in zip(figure.axes, reverse_mode.GRADIENTS, strict=True):
        drawn = panel.get_lines()[0].get_ydata()
        written = [values[f"error_{name}_rk4_{steps}"] for steps in reverse_mode.STEPS]
        np.testing.assert_array_equal(np.asarray(drawn), written)
    labels = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert labels == [f"RK4: order {values['order_z0_rk4']:.2f}"]
    assert list(reverse_mode.table(rows).columns) == ["cosine"]


def test_reference_values_are_those_of_the_formulas() -> None:
    for name in ("sine", "cosine"):
        exact = PROBLEMS[name].exact()
        for gradient, value in exact.items():
            number = paper.number("reverse_mode", name, f"by_{gradient}")
            assert float(value) == pytest.approx(number.value, abs=0.5e-8)


def test_direct_and_adjoint_of_the_suite_differ_where_the_rows_say_so() -> None:
    problem = PROBLEMS["cosine"]
    direct = problem.gradients(reverse_mode._suite(problem, "rk4", 4, "direct"))
    settings = SolverSettings("native", "rk4", step_size=0.25)
    by_hand = problem.gradients(lambda z0, t: odeint(problem.field, z0, t, settings).ys)
    assert torch.equal(direct["z0"], by_hand["z0"])
    assert references.relative(_gradients("cosine", "rk4", 4)["z0"], direct["z0"]) > 1e-8
