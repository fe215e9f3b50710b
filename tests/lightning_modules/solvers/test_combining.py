"""Sums of slopes are the same by one product and, where products are rounded, one by one."""

import pytest
import torch
from torch import Tensor

from lightning_modules.solvers import SolverSettings, combining, odeint

GRID = torch.linspace(0, 1, 9).double()


def _gradients(gradient: str) -> tuple[Tensor, ...]:
    rate = torch.nn.Linear(2, 2).double()
    torch.nn.init.constant_(rate.weight, -0.7)
    torch.nn.init.constant_(rate.bias, 0.1)
    y0 = torch.tensor([[1.0, -0.5], [0.3, 2.0]]).double().requires_grad_()
    settings = SolverSettings("native", gradient=gradient)  # type: ignore[arg-type]
    field = _OfState(rate)
    ys = odeint(field, y0, GRID, settings).ys
    return ys.detach(), *torch.autograd.grad(ys.square().sum(), [y0, *field.parameters()])


class _OfState(torch.nn.Module):
    def __init__(self, rate: torch.nn.Linear) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.rate(y))


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_solves_are_the_same_where_products_would_be_rounded(
    gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _gradients(gradient)
    asked: list[Tensor] = []

    def rounded(x: Tensor) -> bool:
        asked.append(x)
        return True

    monkeypatch.setattr(combining, "_rounded", rounded)
    torch.testing.assert_close(_gradients(gradient), expected, rtol=1e-13, atol=1e-14)
    assert asked


def test_sums_are_those_of_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(5, generator=generator)
    weights, slopes = (torch.randn(*n, generator=generator) for n in ((3, 7), (7, 5)))
    exact = y.double() + 0.3 * weights.double() @ slopes.double()
    for found in (
        combining.combined(y, weights, slopes, 0.3),
        combining._added(y.repeat(3, 1), weights, slopes, 0.3),
        y + 0.3 * combining.sums(weights, slopes),
    ):
        torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_sums_on_a_gpu_are_those_of_float64(precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights, slopes = (torch.randn(*n, generator=generator) for n in ((64, 7), (7, 512)))
    exact = weights.double() @ slopes.double()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = combining.sums(weights.cuda(), slopes.cuda())
        moved = combining.combined(torch.ones(512).cuda(), weights.cuda(), slopes.cuda(), 0.5)
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(found.cpu().double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moved.cpu().double(), 1 + 0.5 * exact, rtol=1e-5, atol=1e-5)


def test_nothing_is_rounded_on_a_cpu() -> None:
    assert not combining._rounded(torch.ones(2))
