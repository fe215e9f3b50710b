"""The signature of what makes a step once: a plan of a solve, and the engine that draws it up."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lightning_modules.solvers.base import SolverSettings, SolveStats
from lightning_modules.solvers.fields import Counted, Recordable
from lightning_modules.solvers.registry import Norm
from lightning_modules.solvers.sweep import Taken


@dataclass(frozen=True)
class Walked:
    """What a solve leaves behind, in memory of its own.

    Args:
        outputs: States at the output times after the first, ``(time - 1, numbers)``.
        steps: The accepted steps; empty where the starts are not kept.
        starts: States at their starts, some steps in each, ``(steps, numbers)``.
    """

    outputs: Tensor
    steps: Sequence[Taken]
    starts: Sequence[Tensor]


@dataclass(frozen=True)
class Task:
    """One solve as the host has it.

    Args:
        y0: Initial state.
        ticks: Output times.
        settings: Method, tolerances and ``max_steps``.
        stats: Steps are counted here.
        field: Evaluations are counted here.
        times: Output times as they were given, ``(time,)``.
    """

    y0: Tensor
    ticks: list[float]
    settings: SolverSettings
    stats: SolveStats
    field: Counted
    times: Tensor


class Plan(Protocol):
    """A way to solve that was made once, with its way back once there is need."""

    def solve(self, task: Task, keep: bool) -> Walked:
        """Solve.

        Args:
            task: The solve.
            keep: Whether there will be a backward pass.

        Raises:
            Unrecordable: Before anything is counted, if it takes what cannot be made.
        """
        ...

    def record_back(
        self,
        module: nn.Module,
        y0: Tensor,
        parameters: Sequence[Tensor],
        steps: Sequence[Taken],
    ) -> None:
        """Make what going back over these steps takes, as far as there is none yet.

        Raises:
            Unrecordable: If it cannot be made.
        """
        ...

    def back(
        self,
        y0: Tensor,
        parameters: Sequence[Tensor],
        steps: Sequence[Taken],
        starts: Sequence[Tensor],
        grad_ys: Tensor,
        stats: SolveStats,
    ) -> tuple[Tensor, Sequence[Tensor]] | None:
        """Return the gradients by the initial state, ``(numbers,)``, and by the parameters.

        Args:
            y0: The initial state.
            parameters: The parameters of the field.
            steps: The accepted steps in the order they were taken.
            starts: States at their starts, some steps in each.
            grad_ys: Gradient of the loss by the states at the output times, ``(time, numbers)``.
            stats: Evaluations are counted here.

        Returns:
            Gradients in memory of their own; None if there is no way back.
        """
        ...


class Engine(Protocol):
    """Draws up plans, on the types of devices that it knows."""

    @property
    def name(self) -> str:
        """What ``SolverSettings.backend`` calls it."""
        ...

    def takes(self, device: torch.device) -> bool:
        """Return whether it draws up plans on a device."""
        ...

    def kind(self, y0: Tensor, settings: SolverSettings, outputs: int, keep: bool) -> Hashable:
        """Return what a plan depends on beside field, method, numbers and their precision."""
        ...

    def plan(self, field: Recordable, norm: Norm, task: Task, outputs: int, keep: bool) -> Plan:
        """Draw up a plan.

        Args:
            field: The field over one tensor.
            norm: Error norm.
            task: A solve of the kind that will be solved.
            outputs: Most output times after the first.
            keep: Whether there will be a backward pass.

        Raises:
            Unrecordable: If field or norm cannot be repeated from what was made once.
        """
        ...
