"""Second derivatives of a solve: right where a graph has them, refused everywhere else."""

import pytest
import torch
from problems import Net
from test_factored import Waves
from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, backends, gradient_table, odeint

TIMES = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
PAIRS = [(name, gradient) for name in backends() for gradient in gradient_table()[name]]
SECOND = [name for name in backends() if "direct" in gradient_table()[name]]
ONCE = [pair for pair in PAIRS if pair[1] != "direct"]


METHODS = {"torchdiffeq": "rk4_38", "scipy": "vode_adams"}


def _settings(backend: str, gradient: str) -> SolverSettings:
    method = METHODS.get(backend, "rk4")
    return SolverSettings(
        backend=backend,
        method=method,
        step_size=None if backend == "scipy" else 0.25,
        gradient=gradient,  # type: ignore[arg-type]
        adjoint_norm="rms" if backend == "scipy" else "per_tensor",
    )


def _total(field: nn.Module, settings: SolverSettings, y0: Tensor) -> Tensor:
    """Return a loss whose gradient by the states, one everywhere, needs no gradient itself."""
    return odeint(field, y0, TIMES, settings).ys.sum()


def _start() -> Tensor:
    return torch.linspace(-1, 1, 4, dtype=torch.float64).view(2, 2)


@pytest.mark.parametrize("backend", SECOND)
def test_a_direct_hessian_is_that_of_finite_differences(backend: str) -> None:
    field, settings, eps = Net(), _settings(backend, "direct"), 1e-5
    found = torch.autograd.functional.hessian(
        lambda y0: _total(field, settings, y0), _start()
    ).view(4, 4)

    def gradient(y0: Tensor) -> Tensor:
        y0.requires_grad_()
        return torch.autograd.grad(_total(field, settings, y0), y0)[0].flatten()

    for row, change in zip(found, torch.eye(4, dtype=torch.float64) * eps, strict=True):
        apart = gradient(_start() + change.view(2, 2)) - gradient(_start() - change.view(2, 2))
        torch.testing.assert_close(row, apart / (2 * eps), rtol=1e-6, atol=1e-8)
    assert float(found.abs().max()) > 0.01


@pytest.mark.parametrize(("backend", "gradient"), ONCE)
def test_a_hessian_is_refused_where_it_would_be_zero(backend: str, gradient: str) -> None:
    field, settings = Net(), _settings(backend, gradient)
    with pytest.raises(RuntimeError, match=f'"{gradient}" is differentiable once'):
        torch.autograd.functional.hessian(lambda y0: _total(field, settings, y0), _start())


@pytest.mark.parametrize(("backend", "gradient"), ONCE)
def test_a_penalty_on_a_gradient_is_refused_rather_than_left_out(
    backend: str, gradient: str
) -> None:
    field, y0 = Net(), _start().requires_grad_()
    loss = _total(field, _settings(backend, gradient), y0)
    with pytest.raises(RuntimeError, match="Take gradient="):
        torch.autograd.grad(loss, y0, create_graph=True)


@pytest.mark.parametrize(("backend", "gradient"), ONCE)
def test_several_gradients_at_once_are_refused(backend: str, gradient: str) -> None:
    field, settings = Net(), _settings(backend, gradient)
    with pytest.raises(RuntimeError, match=r'several gradients at once.*gradient="direct"'):
        torch.autograd.functional.jacobian(
            lambda y0: _total(field, settings, y0), _start(), vectorize=True
        )


def test_a_factored_field_is_transformed_as_any_other_and_goes_back_one_by_one() -> None:
    field, y0 = Waves(), torch.linspace(-1, 1, 6).view(2, 3)

    def loss(y0: Tensor) -> Tensor:
        return odeint(field, y0, TIMES, SolverSettings(backend="native", rtol=1e-5)).ys.sum()

    expected = torch.autograd.functional.jacobian(loss, y0)
    torch.testing.assert_close(torch.func.grad(loss)(y0), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"several gradients at once.*lambda t, y"):
        torch.autograd.functional.jacobian(loss, y0, vectorize=True)


def test_a_factored_field_says_how_its_second_derivative_is_had() -> None:
    field, y0 = Waves(), torch.linspace(-1, 1, 6).view(2, 3)
    settings, times = SolverSettings(backend="native", rtol=1e-5), torch.tensor([0.0, 1.0])

    def loss(y0: Tensor) -> Tensor:
        return odeint(field, y0, times, settings).ys.sum()

    def opened(y0: Tensor) -> Tensor:
        return odeint(lambda t, y: field(t, y), y0, times, settings).ys.sum()

    with pytest.raises(RuntimeError, match="lambda t, y"):
        torch.autograd.functional.hessian(loss, y0)
    assert float(torch.autograd.functional.hessian(opened, y0).abs().max()) > 0
