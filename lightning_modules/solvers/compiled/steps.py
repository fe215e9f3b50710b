"""A step of an explicit Runge-Kutta method, and its way back, as functions of tensors alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_modules.solvers.registry import Norm, TensorField
from lightning_modules.solvers.replay import refuse_strangers
from lightning_modules.solvers.tableaus import ButcherTableau


class StepFunctions:
    """What is compiled of a method and a field.

    A ``clock`` holds the size of a step and the times of its stages, ``(1 + stages,)``, in the
    dtype of the state: the host makes it in float64.

    Args:
        field: The field over one tensor, its evaluations not counted.
        tableau: The method.
        shape: Shape of the state.
        norm: Norm of an error shaped like the state.
    """

    def __init__(
        self,
        field: TensorField,
        tableau: ButcherTableau,
        shape: torch.Size,
        norm: Norm,
    ) -> None:
        self._field, self._tableau, self._shape = field, tableau, shape
        self._norm = norm

    def step(
        self, clock: Tensor, tolerances: Tensor, y: Tensor, first: Tensor
    ) -> Sequence[Tensor]:
        """Take a step.

        Args:
            clock: Size and times.
            tolerances: The relative and the absolute one, ``(2,)``.
            y: State at its start, ``(numbers,)``.
            first: Slope at its start, ``(numbers,)``; not read unless the method is FSAL.

        Returns:
            The state at its end, ``(numbers,)``, the slopes, ``(stages, numbers)``, and the error
            over tolerance and step size, a scalar, for a method that estimates it.
        """
        scalars, slopes = clock.unbind(), self._begun(first)
        end = self._stages(scalars, y, slopes, self._tableau.stages)
        if self._tableau.error is None:
            return end, torch.stack(slopes)
        return end, torch.stack(slopes), self._error(tolerances, y, end, slopes)

    def tried(
        self, clock: Sequence[Tensor], tolerances: Tensor, y: Tensor, first: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Take a step by a method that estimates its error.

        As `step`, with the numbers of the clock one by one, and a list of the slopes.
        """
        slopes = self._begun(first)
        end = self._stages(clock, y, slopes, self._tableau.stages)
        return end, slopes, self._error(tolerances, y, end, slopes)

    def back(
        self,
        count: int,
        parameters: Sequence[Tensor],
        clock: Tensor | Sequence[Tensor],
        y: Tensor,
        at_end: Tensor,
        received: Tensor | Sequence[Tensor],
        *totals: Tensor,
    ) -> Sequence[Tensor]:
        """Go back through the first ``count`` stages of a step.

        Args:
            count: All of them, or all but the last of a FSAL method.
            parameters: The parameters of the field.
            clock: Size and times, a vector or its numbers.
            y: State at the start of the step, ``(numbers,)``.
            at_end: Cotangent of the state at its end, ``(numbers,)``.
            received: Cotangents that the slopes have from elsewhere, ``(numbers,)`` each.
            totals: What has reached the parameters so far.

        Returns:
            The cotangent of the state at its start, and the new totals.
        """
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slopes: list[Tensor] = []
            end = self._stages(clock, y, slopes, count)
            outputs, cotangents = [end], [at_end]
            for slope, cotangent in zip(slopes, received, strict=False):
                if slope.requires_grad:
                    refuse_strangers(slope, y, set(map(id, parameters)))
                    outputs.append(slope)
                    cotangents.append(cotangent)
        pulled, *shares = torch.autograd.grad(
            outputs, (y, *parameters), cotangents, allow_unused=True, materialize_grads=True
        )
        return pulled, *(t + s for t, s in zip(totals, shares, strict=True))

    def _begun(self, first: Tensor) -> list[Tensor]:
        return [first] if self._tableau.fsal else []

    def _error(
        self, tolerances: Tensor, y: Tensor, end: Tensor, slopes: Sequence[Tensor]
    ) -> Tensor:
        assert self._tableau.error is not None
        rtol, atol = tolerances.unbind()
        scale = torch.maximum(y.abs(), end.abs()) * rtol + atol
        return self._norm((_combined(self._tableau.error, slopes) / scale).view(self._shape))

    def _stages(
        self, clock: Sequence[Tensor] | Tensor, y: Tensor, slopes: list[Tensor], count: int
    ) -> Tensor:
        """Append the slopes up to ``count``, and return the state at the end of the step."""
        dt, *times = clock
        rows, stage = self._tableau.inputs, y
        for i in range(len(slopes), count):
            stage = self._at(y, dt, i, slopes)
            slope = self._field(times[i], stage.view(self._shape)).reshape(-1)
            # A field without a graph may return the same buffer again.
            slopes.append(slope if slope.requires_grad else slope.clone())
        fsal = self._tableau.fsal
        if fsal and count == len(rows):
            return stage
        return self._at(y, dt, len(rows) - 1, slopes)

    def _at(self, y: Tensor, dt: Tensor, i: int, slopes: Sequence[Tensor]) -> Tensor:
        """Return the input of stage ``i``, or one behind the last the state at the end."""
        row = self._tableau.inputs[i]
        return y + dt * _combined(row, slopes) if any(row) else y


def _combined(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    pairs = [(w, k) for w, k in zip(weights, slopes, strict=False) if w != 0.0]
    total = pairs[0][0] * pairs[0][1]
    for weight, slope in pairs[1:]:
        total = total + weight * slope
    return total
