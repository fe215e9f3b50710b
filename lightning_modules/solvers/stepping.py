"""One step of an explicit Runge-Kutta method: its stages and what is combined from them.

States are vectors here, ``(numbers,)``; the field sees them in their own shape. Times are floats,
or scalar tensors where a graph must reach the output times.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_modules.solvers.combining import combined
from lightning_modules.solvers.registry import TensorField
from lightning_modules.solvers.tableaus import ButcherTableau
from lightning_modules.solvers.watching import Step

if TYPE_CHECKING:
    from lightning_modules.solvers.controller import Controller

Time = float | Tensor


def number(t: Time) -> float:
    """Return a time or step size as a number of the host."""
    return float(t.detach()) if isinstance(t, Tensor) else t


def interpolated(
    tableau: ButcherTableau, slopes: Tensor, y: Tensor, dt: float, xs: Sequence[Time]
) -> list[Tensor]:
    """Return the states at fractions of a step from ``y`` with slopes ``(stages, numbers)``."""
    weights = tableau.weights_at_all([number(x) for x in xs]).to(slopes)
    return list(combined(y, weights, slopes, dt).unbind())


class Stages(ABC):
    """The slopes k_i of one step, wherever they are kept.

    Args:
        field: Called with tensors shaped like ``y0``.
        tableau: The method.
        y0: Gives shape, dtype and device.
    """

    def __init__(self, field: TensorField, tableau: ButcherTableau, y0: Tensor) -> None:
        self.tableau = tableau
        self._field = field
        self._shape = y0.shape
        self._dtype, self._device = y0.dtype, y0.device

    def open(self, t: Time, y: Tensor) -> None:
        """Evaluate the first slope of the first step; later steps inherit theirs."""
        self._evaluate(0, self.time(t), y.view(self._shape))

    @abstractmethod
    def step(self, t: Time, dt: Time, y: Tensor) -> Tensor:
        """Evaluate the slopes of a step and return the state at its end, ``(numbers,)``."""

    def probe(self, t: Time, dt: float, y: Tensor) -> Tensor:
        """Return f after an Euler step from ``y``, without a graph; the slopes stay."""
        with torch.no_grad():
            return self.field_of_vectors(self.time(t + dt), torch.add(y, self.slope(), alpha=dt))

    def field_of_vectors(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the field's value at a state given as a vector, as a vector."""
        return self._field(t, y.view(self._shape)).reshape(-1)

    def shown(
        self, t: Time, dt: Time, y0: Tensor, y1: Tensor, error_ratio: float, *, accepted: bool
    ) -> Step:
        """Return a step as those see it who watch the solve."""
        before, after = (y.detach().view(self._shape) for y in (y0, y1))
        return Step(number(t), number(dt), before, after, error_ratio, accepted)

    def time(self, t: Time) -> Tensor:
        """Return ``t`` as the field gets it, a scalar tensor in the dtype of the state."""
        if isinstance(t, Tensor):
            return t.to(self._dtype)
        return torch.full((), t, dtype=self._dtype, device=self._device)

    def slope(self) -> Tensor:
        """Return the first slope, f at the start of the step, without a graph."""
        return self._slope(0).detach()

    @abstractmethod
    def ratio(self, control: "Controller", dt: Time, y0: Tensor, y1: Tensor) -> float:
        """Return the error of the last step, from ``y0`` to ``y1``, over the tolerance."""

    @abstractmethod
    def interpolate(self, y: Tensor, dt: Time, xs: Sequence[Time]) -> list[Tensor]:
        """Return the states at fractions ``xs`` of the last step, which began at ``y``."""

    @abstractmethod
    def advance(self) -> None:
        """Make the last slope the first of the next step."""

    @abstractmethod
    def _evaluate(self, i: int, t: Tensor, y: Tensor) -> None: ...

    @abstractmethod
    def _slope(self, i: int) -> Tensor: ...


class StageByStage(Stages):
    """Stages that are evaluated and combined one after another."""

    def step(self, t: Time, dt: Time, y: Tensor) -> Tensor:
        """Evaluate the slopes of a step and return the state at its end, ``(numbers,)``."""
        tableau, stage = self.tableau, y
        if not tableau.fsal:
            self.open(t, y)
        for i in range(1, tableau.stages):
            stage = self.stage(i, y, dt)
            self._evaluate(i, self.time(t + tableau.c[i] * dt), stage.view(self._shape))
        return stage if tableau.fsal else self.stage(tableau.stages, y, dt)

    def ratio(self, control: "Controller", dt: Time, y0: Tensor, y1: Tensor) -> float:
        """Return the error of the last step, from ``y0`` to ``y1``, over the tolerance."""
        return control.ratio(self.error(), number(dt), y0, y1)

    @abstractmethod
    def stage(self, i: int, y: Tensor, dt: Time) -> Tensor:
        """Return the input of stage ``i``, or one behind the last the state at the end."""

    @abstractmethod
    def error(self) -> Tensor:
        """Return the error estimate of the last step over its size, without a graph."""


class BufferedStages(StageByStage):
    """Slopes without a graph, rows of one buffer: a combination is one matrix product.

    Where the field has a method ``write(t, y, out)``, that fills the row of its slope in place.
    """

    def __init__(self, field: TensorField, tableau: ButcherTableau, y0: Tensor) -> None:
        super().__init__(field, tableau, y0)
        self._write = getattr(field, "write", None)
        self._inputs, self._error = _rows(tableau, y0.dtype, y0.device)
        self._buffer = y0.new_empty(tableau.stages, y0.numel())
        self._slopes = [row.view(y0.shape) for row in self._buffer]
        self._columns = [self._buffer[: len(row)].t() for row in tableau.inputs]

    def stage(self, i: int, y: Tensor, dt: Time) -> Tensor:
        """Return the input of stage ``i`` in fresh memory, since a field may keep it."""
        return torch.addmv(
            y, self._columns[i], self._inputs[i], alpha=number(dt), out=torch.empty_like(y)
        )

    def interpolate(self, y: Tensor, dt: Time, xs: Sequence[Time]) -> list[Tensor]:
        """Return the states at fractions ``xs`` of the last step, which began at ``y``."""
        return interpolated(self.tableau, self._buffer, y, number(dt), xs)

    def error(self) -> Tensor:
        """Return the error estimate of the last step over its size."""
        return torch.mv(
            self._buffer.t(), self._error, out=self._buffer.new_empty(self._buffer.shape[1])
        )

    def advance(self) -> None:
        """Make the last slope the first of the next step."""
        self._buffer[0].copy_(self._buffer[-1])

    def _evaluate(self, i: int, t: Tensor, y: Tensor) -> None:
        if self._write is None:
            self._slopes[i].copy_(self._field(t, y))
        else:
            self._write(t, y, self._slopes[i])

    def _slope(self, i: int) -> Tensor:
        return self._buffer[i]


class GraphStages(StageByStage):
    """Slopes that autograd follows, each in memory of its own."""

    def __init__(self, field: TensorField, tableau: ButcherTableau, y0: Tensor) -> None:
        super().__init__(field, tableau, y0)
        self._slopes: dict[int, Tensor] = {}

    def stage(self, i: int, y: Tensor, dt: Time) -> Tensor:
        """Return the input of stage ``i``, or one behind the last the state at the end."""
        return self._combine(y, self.tableau.inputs[i], dt)

    def interpolate(self, y: Tensor, dt: Time, xs: Sequence[Time]) -> list[Tensor]:
        """Return the states at fractions ``xs`` of the last step, which began at ``y``."""
        return [self._combine(y, self.tableau.weights_at(x), dt) for x in xs]

    @torch.no_grad()
    def error(self) -> Tensor:
        """Return the error estimate of the last step over its size, without a graph."""
        assert self.tableau.error is not None
        return self._combine(torch.zeros_like(self._slopes[0]), self.tableau.error, 1.0)

    def advance(self) -> None:
        """Make the last slope the first of the next step."""
        self._slopes[0] = self._slopes[self.tableau.stages - 1]

    def _combine(self, y: Tensor, weights: Sequence[Time], dt: Time) -> Tensor:
        out = None
        for i, weight in enumerate(weights):
            scale, slope = weight * dt, self._slopes[i]
            if isinstance(scale, Tensor):
                out = (y if out is None else out) + scale * slope
            elif out is None:
                out = torch.add(y, slope, alpha=scale)
            elif weight != 0.0:
                out.add_(slope, alpha=scale)  # addition saves nothing, so this hurts no graph
        return y if out is None else out

    def _evaluate(self, i: int, t: Tensor, y: Tensor) -> None:
        slope = self._field(t, y).reshape(-1)
        # A field without a graph may return the same buffer again.
        self._slopes[i] = slope if slope.requires_grad else slope.clone()

    def _slope(self, i: int) -> Tensor:
        return self._slopes[i]


@cache
def _rows(
    tableau: ButcherTableau, dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], Tensor]:
    rows = [torch.tensor(row, dtype=dtype, device=device) for row in tableau.inputs]
    return rows, torch.tensor(tableau.error or (), dtype=dtype, device=device)
