"""Systems of known formula: linear pairs and van der Pol's oscillator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reproduce.problems.base import FreeStart


class LinearPairs(nn.Module):
    """Pairs of numbers that turn and decay: x' = -a x - w v and v' = w x - a v.

    The first half of a state are the x, the second half the v.

    Args:
        rates: Decay rates a, ``(pairs,)``.
        speeds: Angular speeds w, ``(pairs,)``.
    """

    def __init__(self, rates: Tensor, speeds: Tensor) -> None:
        super().__init__()
        self.rates, self.speeds = nn.Parameter(rates), nn.Parameter(speeds)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(batch, 2 pairs)``."""
        x, v = y.chunk(2, dim=-1)
        a, w = self.rates, self.speeds
        return torch.cat([-a * x - w * v, w * x - a * v], dim=-1)


class VanDerPol(nn.Module):
    """x' = v and v' = μ (1 - x²) v - x.

    Args:
        stiffness: μ.
    """

    def __init__(self, stiffness: float) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(batch, 2)``."""
        x, v = y[..., :1], y[..., 1:]
        return torch.cat([v, self.stiffness * (1 - x * x) * v - x], dim=-1)


class Samples(FreeStart):
    """A field of the state alone, whose samples may be solved apart."""

    each = True


def linear(batch: int = 256, state: int = 2) -> Samples:
    """Return pairs over t in [0, 2], rates in [0.1, 1] and speeds in [1, 4], in float64.

    Raises:
        ValueError: If ``state`` is not even.
    """
    if state % 2:
        raise ValueError(f"state is {state}; linear has pairs of numbers: give an even one.")
    draw = torch.Generator().manual_seed(0)
    rates = 0.1 + 0.9 * torch.rand(state // 2, generator=draw, dtype=torch.float64)
    speeds = 1 + 3 * torch.rand(state // 2, generator=draw, dtype=torch.float64)
    y0 = torch.randn(batch, state, generator=draw, dtype=torch.float64)
    return Samples("linear", LinearPairs(rates, speeds), _span(2.0), y0)


def van_der_pol(batch: int = 256) -> Samples:
    """Return the oscillator with μ = 1 over t in [0, 10], in float64."""
    return _oscillator("van_der_pol", batch, 1.0, 10.0)


def van_der_pol_stiff(batch: int = 256) -> Samples:
    """Return the oscillator with μ = 30 over t in [0, 2], in float64."""
    return _oscillator("van_der_pol_stiff", batch, 30.0, 2.0)


def _oscillator(name: str, batch: int, stiffness: float, span: float) -> Samples:
    draw = torch.Generator().manual_seed(0)
    y0 = 4 * torch.rand(batch, 2, generator=draw, dtype=torch.float64) - 2
    return Samples(name, VanDerPol(stiffness).double(), _span(span), y0)


def _span(end: float) -> Tensor:
    return torch.tensor([0.0, end], dtype=torch.float64)
