"""Equations with a solution in closed form, written so that autograd differentiates it.

They are those that the deck's author tested his implementation with. No solver has a part in the
gradients that follow from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Solution = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """An initial value problem, a loss and what is known of both.

    Args:
        name: Its name.
        field: The right-hand side, in float64; called as ``field(t, z)``.
        z0: Initial state, ``(states,)``.
        times: Equally spaced times from the start on, ``(time,)``.
        weights: The loss is the sum of weight · state, ``(time, states)``.
        solution: Returns the states ``(time, states)`` for z0, θ as one vector and times; None
            where there is no closed form.
    """

    name: str
    field: nn.Module
    z0: Tensor
    times: Tensor
    weights: Tensor
    solution: Solution | None

    def gradients(self, solve: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Tensor]:
        """Return the loss's gradients as a solver has them.

        Args:
            solve: Returns the states ``(time, states)`` for z0 and times.

        Returns:
            By initial state, ``z0``; by all parameters, ``theta``; by start, ``t0``, and end,
            ``t1``; each a vector.
        """
        z0, times = self.z0.clone().requires_grad_(), self.times.clone().requires_grad_()
        loss = (self.weights * solve(z0, times)).sum()
        found = torch.autograd.grad(loss, (z0, times, *self.field.parameters()))
        return _named(found[0], found[1], torch.cat([part.reshape(-1) for part in found[2:]]))

    def exact(self) -> dict[str, Tensor]:
        """Return the same from the closed form.

        Raises:
            ValueError: If there is none.
        """
        if self.solution is None:
            raise ValueError(f"{self.name} has no closed form. Ask another solver.")
        theta = torch.cat([part.detach().reshape(-1) for part in self.field.parameters()])
        inputs = [x.clone().requires_grad_() for x in (self.z0, self.times, theta)]
        z0, times, theta = inputs
        loss = (self.weights * self.solution(z0, theta, times)).sum()
        return _named(*torch.autograd.grad(loss, inputs, materialize_grads=True))


def problems() -> tuple[Problem, ...]:
    """Return all problems: three with a closed form, and a network without."""
    return (
        _driven("sine", 1.0, torch.sin, lambda t: -torch.cos(t)),
        _driven("cosine", 0.5, torch.cos, torch.sin),
        _linear(),
        _network(),
    )


def _named(z0: Tensor, times: Tensor, theta: Tensor) -> dict[str, Tensor]:
    return {"z0": z0, "theta": theta, "t0": times[:1], "t1": times[-1:]}


def _driven(
    name: str,
    strength: float,
    drive: Callable[[Tensor], Tensor],
    integral: Callable[[Tensor], Tensor],
) -> Problem:
    """Return z' = θ e⁻ᶻ s(t) from z(0) = 0 to 1, whose exponential is θ ∫s; the loss is z(1)."""

    class Driven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(_numbers(strength))

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return self.theta * torch.exp(-z) * drive(t)

    def solution(z0: Tensor, theta: Tensor, times: Tensor) -> Tensor:
        grown = theta * (integral(times) - integral(times[0]))
        return torch.log(torch.exp(z0) + grown).unsqueeze(1)

    times, weights = _numbers(0.0, 1.0), _numbers(0.0, 1.0).unsqueeze(1)
    return Problem(name, Driven(), _numbers(0.0), times, weights, solution)


def _linear() -> Problem:
    """Return x' = x W with the change of its log-density, ℓ' = -tr W; x = x₀ exp(W t)."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(_numbers(-0.1, 1.0, -0.2, -0.1).view(2, 2))

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return torch.cat([z[:2] @ self.w, -self.w.trace().reshape(1)])

    def solution(z0: Tensor, theta: Tensor, times: Tensor) -> Tensor:
        w, since = theta.view(2, 2), (times - times[0]).unsqueeze(1)
        x = z0[:2] @ torch.linalg.matrix_exp(w * since.unsqueeze(2))
        return torch.cat([x, z0[2] - w.trace() * since], dim=1)

    weights = _numbers(0.3, -0.2, 0.5, 1.0, -0.7, 0.2, 0.4, 0.9, 1.0).view(3, 3)
    return Problem(
        "linear", Linear(), _numbers(1.0, 0.5, 0.0), _numbers(0.0, 0.5, 1.0), weights, solution
    )


def _network() -> Problem:
    """Return a perceptron of state and time whose parameters are the sines of 1, 2, 3, …."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
            count = sum(part.numel() for part in self.parameters())
            nn.utils.vector_to_parameters(_numbers(*range(1, count + 1)).sin(), self.parameters())

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            found: Tensor = self.layers(torch.cat([z, t.reshape(1)]))
            return found

    weights = _numbers(0.3, -0.2, 0.5, 1.0, -0.7, 0.2, 0.4, 0.9, 1.0).view(3, 3)
    return Problem(
        "network", Network(), _numbers(0.5, -0.3, 0.8), _numbers(0.2, 0.7, 1.2), weights, None
    )


def _numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
