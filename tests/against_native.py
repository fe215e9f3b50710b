"""Solves with outputs and gradients, to be compared with those of the native backend."""

import torch
from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, SolveStats, odeint

GRIDS = ([0.0, 1.0], [1.0, 0.2, -0.5], [i / 8 for i in range(9)])
UNIT = torch.tensor([0.0, 1.0]).double()


def start(size: int = 5, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 2, dtype=torch.float64, generator=generator).requires_grad_()


def gradients(
    net: nn.Module, y0: Tensor, chosen: SolverSettings, times: Tensor = UNIT
) -> tuple[list[Tensor], SolveStats]:
    """Return states and gradients; every output time weighs differently."""
    solution = odeint(net, y0, times, chosen)
    weights = torch.arange(1.0, len(times) + 1, dtype=y0.dtype)
    loss = (weights * solution.ys.pow(2).flatten(1).sum(dim=1)).sum()
    wanted = [y0, *(p for p in net.parameters() if p.requires_grad)]
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return [solution.ys.detach(), *found], solution.stats


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
