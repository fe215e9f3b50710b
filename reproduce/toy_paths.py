"""The deck's toy problem, h' = W h, in both readings of it: paths, adjoints and a descent by them.

Everything is in float64 and for both rows side by side: first W transposed, then W.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from lightning_modules.solvers import SolverSettings, odeint

W = ((-0.1, 1.0), (-0.2, -0.1))
TARGET = (0.0, 0.5)
END, POINTS = 25.0, 200
RK4 = SolverSettings("native", "rk4")


@dataclass(frozen=True)
class Course:
    """The optimisation of both rows.

    Args:
        starts: h(0) before every update and after the last, ``(updates + 1, row, 2)``.
        losses: Loss before every update, ``(updates, row)``.
    """

    starts: Tensor
    losses: Tensor


def both(vector: tuple[float, float]) -> Tensor:
    """Return the same vector for both rows, ``(row, 2)``."""
    return torch.tensor([vector, vector], dtype=torch.float64)


@cache
def matrices() -> Tensor:
    """Return M of h' = M h for both rows, ``(row, 2, 2)``: W transposed, and W."""
    w = torch.tensor(W, dtype=torch.float64)
    return torch.stack([w.T, w])


def grid() -> Tensor:
    """Return the times of the deck's code, ``(time,)``."""
    return torch.linspace(0, END, POINTS, dtype=torch.float64)


def slopes(t: Tensor, h: Tensor) -> Tensor:
    """Return h' = M h of states ``(row, 2)``."""
    return (matrices() @ h.unsqueeze(-1)).squeeze(-1)


def back(t: Tensor, a: Tensor) -> Tensor:
    """Return a' = -a M of adjoints ``(row, 2)``."""
    return -(a.unsqueeze(-2) @ matrices()).squeeze(-2)


def paths(h0: Tensor, settings: SolverSettings = RK4) -> Tensor:
    """Return h on the grid, ``(time, row, 2)``."""
    return odeint(slopes, h0, grid(), settings).ys


def adjoints(end: Tensor) -> Tensor:
    """Return a(t) on the grid from t = 25 down to 0, ``(time, row, 2)``: the last is dL/dh(0)."""
    return odeint(back, 2 * (end - both(TARGET)), grid().flip(0), RK4).ys


def descend(start: Tensor, rate: float, momentum: float, updates: Iterable[int]) -> Course:
    """Move h(0) against a(0), with momentum, until the updates are over."""
    h0, velocity = start, torch.zeros_like(start)
    starts, losses = [h0], []
    for _ in updates:
        end = paths(h0)[-1]
        losses.append((end - both(TARGET)).square().sum(dim=-1))
        velocity = momentum * velocity + adjoints(end)[-1]
        h0 = h0 - rate * velocity
        starts.append(h0)
    return Course(torch.stack(starts), torch.stack(losses))
