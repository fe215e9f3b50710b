"""Solves with outputs and gradients, to be compared with those of the native backend."""

from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, SolveStats, odeint
from lightning_modules.solvers.native_backend import methods

ADAPTIVE = [name for name, control in methods().items() if control == "adaptive"]
FIXED = [name for name, control in methods().items() if control == "fixed"]
GRIDS = ([0.0, 1.0], [1.0, 0.2, -0.5], [i / 8 for i in range(9)])
UNIT = torch.tensor([0.0, 1.0]).double()


def settings(backend: str, method: str = "dopri5", **more: Any) -> SolverSettings:
    """Return settings with a step size where the method needs one."""
    return SolverSettings(backend, method, step_size=0.25 if method in FIXED else None, **more)


def start(size: int = 5, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 2, dtype=torch.float64, generator=generator).requires_grad_()


def loss_of(ys: Tensor) -> Tensor:
    """Weigh every output time differently, so that a misplaced one shows."""
    weights = torch.arange(1.0, len(ys) + 1, dtype=ys.dtype)
    return (weights * ys.pow(2).flatten(1).sum(dim=1)).sum()


def gradients(
    net: nn.Module, y0: Tensor, chosen: SolverSettings, times: Tensor = UNIT
) -> tuple[list[Tensor], SolveStats]:
    """Return states and gradients, with the cost of both."""
    solution = odeint(net, y0, times, chosen)
    wanted = [y0, *(p for p in net.parameters() if p.requires_grad)]
    found = torch.autograd.grad(
        loss_of(solution.ys), wanted, allow_unused=True, materialize_grads=True
    )
    return [solution.ys.detach(), *found], solution.stats


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
