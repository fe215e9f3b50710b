"""The stages of a step by one compiled function."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolverSettings
from lightning_modules.solvers.compiled.inductor import Function
from lightning_modules.solvers.controller import Controller
from lightning_modules.solvers.fields import Counted
from lightning_modules.solvers.stepping import Stages, Time, interpolated, number
from lightning_modules.solvers.tableaus import ButcherTableau


def clock_of(tableau: ButcherTableau, t: float, dt: float, like: Tensor) -> Tensor:
    """Return size and times of a step, ``(1 + stages,)``; see `StepFunctions`."""
    return vector([dt, *(t + c * dt for c in tableau.c)], like)


def vector(numbers: Sequence[float], like: Tensor) -> Tensor:
    """Return numbers of the host in the dtype of a state and beside it."""
    return torch.tensor(numbers, dtype=like.dtype, device=like.device)


class CompiledStages(Stages):
    """Slopes without a graph, rows of what the compiled step returned.

    Args:
        field: The field; it counts.
        tableau: The method.
        y0: Gives shape, dtype and device.
        settings: Read for the tolerances.
        step: `StepFunctions.step`, compiled.
    """

    def __init__(
        self,
        field: Counted,
        tableau: ButcherTableau,
        y0: Tensor,
        settings: SolverSettings,
        step: Function,
    ) -> None:
        super().__init__(field, tableau, y0)
        self._count, self._step = field.count, step
        self._tolerances = vector((settings.rtol, settings.atol), y0)
        self._first = y0.reshape(-1)
        self._ratio: Tensor = self._first
        self._slopes: Tensor = self._first

    def step(self, t: Time, dt: Time, y: Tensor) -> Tensor:
        """Take a step and return the state at its end, ``(numbers,)``."""
        clock = clock_of(self.tableau, number(t), number(dt), y)
        end, self._slopes, *ratio = self._step(clock, self._tolerances, y, self._first)
        if ratio:
            self._ratio = ratio[0]
        self._count(self.tableau.stages - self.tableau.fsal)
        return end

    def ratio(self, control: Controller, dt: Time, y0: Tensor, y1: Tensor) -> float:
        """Return the error of the last step over the tolerance."""
        return abs(number(dt)) * self._ratio.item()

    def interpolate(self, y: Tensor, dt: Time, xs: Sequence[Time]) -> list[Tensor]:
        """Return the states at fractions ``xs`` of the last step, which began at ``y``."""
        return interpolated(self.tableau, self._slopes, y, number(dt), xs)

    def advance(self) -> None:
        """Make the last slope the first of the next step."""
        self._first = self._slopes[-1]

    def _evaluate(self, i: int, t: Tensor, y: Tensor) -> None:
        self._first = self._field(t, y).reshape(-1).clone()

    def _slope(self, i: int) -> Tensor:
        return self._first
