"""What is solved, apart from who solves it: a start, a field, output times and a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

Solve = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Problem(nn.Module, ABC):
    """An initial value problem within a training step.

    Its parameters are all that a gradient is taken by: the field's, and those before and behind
    it. The initial state is one of them where nothing computes it.

    Args:
        name: Its name in rows.
        field: Called as ``field(t, y)`` with a scalar ``t``.
        times: Output times from the start on, ``(time,)``; a buffer.
        each: Whether samples along the first dimension may be solved apart, with a time of their
            own: the field broadcasts ``t`` of shape ``(batch, 1)``.
        updates: Whether a step ends with an update of the weights, as a training does.
    """

    times: Tensor
    each = False
    updates = False

    def __init__(self, name: str, field: nn.Module, times: Tensor) -> None:
        super().__init__()
        self.name, self.field = name, field
        self.register_buffer("times", times)

    @abstractmethod
    def start(self) -> Tensor:
        """Return the initial state, with a graph where something is differentiated by it."""

    def loss(self, ys: Tensor) -> Tensor:
        """Return the mean square of the states ``(time, *state)`` after the first."""
        return ys[1:].square().mean()

    def forward(self, solve: Solve) -> Tensor:
        """Return the loss of the states that ``solve(field, y0, times)`` returns."""
        return self.loss(solve(self.field, self.start(), self.times))


class FreeStart(Problem):
    """A problem whose initial state is given.

    Args:
        name: As in `Problem`.
        field: As in `Problem`.
        times: As in `Problem`.
        y0: Initial state.
    """

    def __init__(self, name: str, field: nn.Module, times: Tensor, y0: Tensor) -> None:
        super().__init__(name, field, times)
        self.y0 = nn.Parameter(y0)

    def start(self) -> Tensor:
        """Return the initial state."""
        return self.y0
