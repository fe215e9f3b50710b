"""Paths through a random field of one state: from layer to layer, and of the continuous field.

They are what Figure 1 of the paper shows, with the places where the field is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DEPTH = 5
INPUTS = (-4.5, -3.0, -1.5, 0.0, 1.5, 3.0, 4.5)
TOLERANCE = 1e-2


@dataclass(frozen=True)
class Field:
    """The field of Figure 1.

    Args:
        weights: Of state, time and shift, and of the sum, each ``(units,)``.
    """

    weights: tuple[Tensor, ...]

    def __call__(self, t: Tensor, h: Tensor) -> Tensor:
        """Return dh/dt at states ``(…, 1)``."""
        by_state, by_time, shift, out = self.weights
        slopes = (out * (by_state * h + by_time * t + shift).tanh()).sum(dim=-1, keepdim=True)
        return slopes


@dataclass
class Watched:
    """A field of one state at a time, which notes where it is evaluated.

    Args:
        field: The field.
        seen: Times and states of all evaluations.
    """

    field: Field
    seen: list[tuple[float, float]]

    def __call__(self, t: Tensor, h: Tensor) -> Tensor:
        """Return dh/dt at a state ``(1,)``."""
        self.seen.append((float(t), float(h)))
        return self.field(t, h)


def field(seed: int) -> Field:
    """Return a random field of one state: 12 tanh units of a state within ±5 and a time to 5.

    The scales 0.7, 1.2 and 2 let the argument of a unit change by some units over either range, so
    that most switch within the picture, at places of their own. 0.45 · √12 ≈ 1.6 bounds the spread
    of dh/dt over seeds: a layer moves a state by about the distance between two inputs.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    by_state, by_time, shift, out = torch.randn(4, 12, dtype=torch.float64, generator=draw)
    return Field((0.7 * by_state, 1.2 * by_time, 2 * shift, 0.45 * out))


def jumps(seed: int) -> tuple[Tensor, list[tuple[float, float]]]:
    """Return the states of the residual network, ``(depth + 1, inputs)``, and its evaluations."""
    import torch

    f, columns = Watched(field(seed), []), []
    for start in INPUTS:
        states = [torch.tensor([start], dtype=torch.float64)]
        for layer in range(DEPTH):
            depth = torch.tensor(float(layer), dtype=torch.float64)
            states.append(states[-1] + f(depth, states[-1]))
        columns.append(torch.cat(states))
    return torch.stack(columns, dim=1), f.seen


def solved(
    seed: int, method: str, tolerance: float, times: Tensor
) -> tuple[Tensor, list[tuple[float, float]], int]:
    """Return the continuous paths ``(time, inputs)``, their evaluations and steps.

    Args:
        seed: Of the field.
        method: Adaptive; every input is an equation of its own.
        tolerance: Absolute and relative.
        times: Output times, ``(time,)``.
    """
    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    settings = SolverSettings("native", method, rtol=tolerance, atol=tolerance)
    f = Watched(field(seed), [])
    starts = torch.tensor(INPUTS, dtype=torch.float64).split(1)
    solutions = [odeint(f, start, times, settings) for start in starts]
    states = torch.cat([solution.ys for solution in solutions], dim=1)
    return states, f.seen, sum(solution.stats.steps for solution in solutions)


def adaptive(seed: int) -> tuple[Tensor, list[tuple[float, float]], int]:
    """Return the solve of the right panel of Figure 1, from input to output."""
    return solved(seed, "bosh3", TOLERANCE, grid(1))


def smooth(seed: int) -> Tensor:
    """Return the paths of the right panel as they are drawn, ``(time, inputs)``."""
    return solved(seed, "dopri5", 1e-6, grid(200))[0]


def grid(intervals: int) -> Tensor:
    """Return the times of so many equal intervals from input to output."""
    import torch

    return torch.linspace(0, DEPTH, intervals + 1, dtype=torch.float64)
