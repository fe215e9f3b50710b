"""The deck's bullet under gravity and linear drag: its flights, its loss and their derivatives.

The state is (x, y, vx, vy), in float64 and without units; it starts at the origin, so that v₀,
``(2,)``, is all that can be chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.solvers import SolverSettings, odeint
from lightning_modules.solvers.base import Gradient
from reproduce.references import tight

TARGET = (2.0, 0.0)
GRAVITY, DRAG = 10.0, 2.0
END, POINTS = 1.5, 100


def vector(*values: float) -> Tensor:
    """Return numbers as a vector in float64."""
    return torch.tensor(values, dtype=torch.float64)


_A = torch.zeros(4, 4, dtype=torch.float64)
_A[0, 2] = _A[1, 3] = 1.0
_A[2, 2] = _A[3, 3] = -DRAG
_B = vector(0.0, 0.0, 0.0, -GRAVITY)


def slopes(t: Tensor, s: Tensor) -> Tensor:
    """Return s' = A s + b of states ``(4,)``."""
    return _A @ s + _B


def states(v0: Tensor, gradient: Gradient = "direct") -> Tensor:
    """Return the states on the grid by RK4, ``(time, 4)``, with one of the gradients."""
    times = torch.linspace(0, END, POINTS, dtype=torch.float64)
    settings = SolverSettings("native", "rk4", gradient=gradient)
    return odeint(slopes, torch.cat([vector(0.0, 0.0), v0]), times, settings).ys


def squared_miss(end: Tensor) -> Tensor:
    """Return the loss, the squared distance of the last state, ``(4,)``, from the target."""
    return (end[:2] - vector(*TARGET)).square().sum()


def loss_of(v0: Tensor) -> float:
    """Return the loss by RK4."""
    with torch.no_grad():
        return float(squared_miss(states(v0)[-1]))


def gradient_of(v0: Tensor, gradient: Gradient) -> Tensor:
    """Return dL/dv₀ by back-propagation through RK4, or by the adjoint."""
    v0 = v0.detach().requires_grad_()
    squared_miss(states(v0, gradient)[-1]).backward()
    assert v0.grad is not None
    return v0.grad


def at(v0: Tensor, t: float) -> Tensor:
    """Return the state at a time, by dopri8 at 1e-12."""
    return tight(slopes, torch.cat([vector(0.0, 0.0), v0]), vector(0.0, t))[-1]


def best(first: Tensor) -> Tensor:
    """Return the v₀ that hits: one step of Newton's method, as the end is linear in v₀."""
    jacobian = torch.autograd.functional.jacobian(lambda v: at(v, END)[:2], first)
    return first - torch.linalg.solve(jacobian, at(first, END)[:2] - vector(*TARGET))


def apex(v0: Tensor) -> Tensor:
    """Return the highest point, where Newton's method finds that the bullet rises no more."""
    t = 0.5
    for _ in range(8):
        state = at(v0, t)
        t -= float(state[3] / slopes(state[0], state)[3])
    return at(v0, t)[:2]
