"""Initial value problems with closed-form solutions and fields with parameters, in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """An initial value problem and its solution.

    Args:
        name: Shown by pytest.
        field: The right-hand side f(t, y).
        y0: State at time 0.
        solution: Returns the state at one time.
        end: A time well inside the interval where the solution exists, on both sides of 0.
    """

    name: str
    field: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    solution: Callable[[Tensor], Tensor]
    end: float = 1.0

    def __str__(self) -> str:
        return self.name

    def times(self, count: int, direction: int = 1) -> Tensor:
        """Return ``count`` times from 0 to ``direction * end``."""
        return torch.linspace(0, direction * self.end, count, dtype=torch.float64)

    def at(self, times: Tensor) -> Tensor:
        """Return the states at ``times``, ``(time, *y0.shape)``."""
        return torch.stack([self.solution(t) for t in times])


_ROTATION = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
_START = torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=torch.float64)
_POPULATION = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)


def _logistic(t: Tensor) -> Tensor:
    grown = _POPULATION * torch.exp(t)
    return grown / (1 - _POPULATION + grown)


def _rotated(t: Tensor) -> Tensor:
    return _START @ torch.linalg.matrix_exp(t * _ROTATION).T


PROBLEMS = (
    Problem("decay", lambda t, y: -y, _START, lambda t: _START * torch.exp(-t)),
    Problem("rotation", lambda t, y: y @ _ROTATION.T, _START, _rotated, end=2.0),
    Problem("logistic", lambda t, y: y * (1 - y), _POPULATION, _logistic),
    Problem("time_dependent", lambda t, y: t * y, _START, lambda t: _START * torch.exp(t**2 / 2)),
)


class Net(nn.Module):
    """A time-dependent field with a used, an unused and a frozen parameter."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, width)
        self.second = nn.Linear(width, 2)
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.tensor(1.5), requires_grad=False)
        self.double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        time = t.expand(*y.shape[:-1], 1)
        return self.second(torch.tanh(self.first(torch.cat([time, y], dim=-1)))) * self.frozen


class Growth(nn.Module):
    """f = theta z: a(t) = exp(theta (T - t)), dL/dtheta = T z0 exp(theta T) for L = z(T)."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=torch.float64))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        return self.theta * z


class Of(nn.Module):
    """A function as a module: only modules are recorded."""

    def __init__(self, function: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, t: Tensor, y: Any) -> Any:
        return self.function(t, y)
