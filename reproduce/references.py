"""What the deck's own systems are held against: solves far more exact than those under test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lightning_modules.solvers import SolverSettings, odeint

if TYPE_CHECKING:
    from torch import Tensor


def tight(
    field: Callable[[Tensor, Tensor], Tensor], y0: Tensor, times: Tensor, tolerance: float = 1e-12
) -> Tensor:
    """Return the states by dopri8, ``(time, *state)``, differentiable step by step.

    Args:
        field: The right-hand side, called as ``field(t, y)``.
        y0: Initial state, in float64.
        times: Output times, ``(time,)``.
        tolerance: Relative and absolute tolerance.
    """
    settings = SolverSettings("native", "dopri8", rtol=tolerance, atol=tolerance)
    return odeint(field, y0, times, settings).ys


def relative(one: Tensor, other: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest number of the other.

    Args:
        one: What is measured.
        other: What it is held against, not all zero.
    """
    return float((one - other).abs().max() / other.abs().max())
