"""The one signature of all solver libraries: a problem that is ready to be solved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MAX_STEPS = 4096  # diffrax's default, given to every library that has a limit


class Skip(RuntimeError):
    """A row that cannot be measured here, and why."""


@dataclass(frozen=True)
class Counts:
    """What a solve and its gradient took; None where the library does not tell.

    Args:
        steps: Steps of the forward solve, accepted and rejected together. Where samples are solved
            apart, of the sample that takes most.
        rejected: Steps of the forward solve that were rejected.
        nfe_forward: Evaluations of the field in the forward solve, each of the whole batch.
        nfe_backward: Evaluations of the field in backward.
    """

    steps: float
    rejected: float | None
    nfe_forward: float
    nfe_backward: float | None


class Peer(ABC):
    """A problem in a library, by dopri5 with equal relative and absolute tolerance.

    Every method returns when the work is done, not when it is queued.
    """

    fused = False  # whether evaluations by themselves are other than those of its solves

    @abstractmethod
    def forward(self, tolerance: float) -> Any:
        """Solve without a gradient; return the states as the library has them."""

    @abstractmethod
    def step(self, tolerance: float) -> Any:
        """Solve, take loss and gradient, and update where the problem is a training."""

    @abstractmethod
    def evaluate(self, times: int) -> Any:
        """Evaluate the field so often, without a gradient."""

    @abstractmethod
    def states(self, tolerance: float) -> Array:
        """Return the states at the output times, ``(time, *state)``."""

    @abstractmethod
    def gradient(self, tolerance: float) -> Array:
        """Return the gradient by all parameters in their order, as one vector."""

    @abstractmethod
    def counts(self, tolerance: float) -> Counts:
        """Return steps and evaluations."""

    @abstractmethod
    def memory(self, tolerance: float) -> float | None:
        """Return the peak of the memory that a step takes, in MiB; None where nobody can tell."""

    def shares(self, tolerance: float) -> dict[str, float]:
        """Return which parts of a step's time are spent on what, as far as anybody can tell."""
        return {}
