"""The stages of a step whose time and size are known to the device alone."""

import torch
from torch import Tensor

from lightning_modules.solvers.combining import combined
from lightning_modules.solvers.registry import TensorField
from lightning_modules.solvers.stepping import BufferedStages, Time
from lightning_modules.solvers.tableaus import ButcherTableau, polynomials


class DeviceStages(BufferedStages):
    """Slopes without a graph, rows of one buffer; times and sizes are float64 scalars.

    A step begins with `aim`. Coefficients times step size, and the times of all stages, are then
    made at once: on a GPU every scalar operation is a kernel.
    """

    def __init__(self, field: TensorField, tableau: ButcherTableau, y0: Tensor) -> None:
        super().__init__(field, tableau, y0)
        width = max(map(len, tableau.inputs))
        rows = [[*row, *[0.0] * (width - len(row))] for row in tableau.inputs]
        self._coefficients = torch.tensor(rows, dtype=torch.float64, device=y0.device)
        self._nodes = torch.tensor(tableau.c, dtype=torch.float64, device=y0.device)
        powers = torch.tensor(tableau.interpolant or (), dtype=torch.float64, device=y0.device)
        self._powers = powers.unbind(dim=-1)
        self._times: tuple[Tensor, ...] = ()
        self._weights: tuple[Tensor, ...] = ()

    def aim(self, t: Tensor, dt: Tensor) -> None:
        """Fix time and size of the next step."""
        self._times = (t + self._nodes * dt).to(self._dtype).unbind()
        scaled = (self._coefficients * dt).to(self._dtype).unbind()
        lengths = map(len, self.tableau.inputs)
        self._weights = tuple(row[:n] for row, n in zip(scaled, lengths, strict=True))

    def start(self, t: Tensor, y: Tensor) -> None:
        """Evaluate the first slope of the first step."""
        self._evaluate(0, t.to(self._dtype), y.view(self._shape))

    def end(self, y: Tensor) -> Tensor:
        """Evaluate the slopes of the step that was aimed, return the state at its end."""
        tableau, stage = self.tableau, y
        if not tableau.fsal:
            self.evaluate_stage(0, y)
        for i in range(1, tableau.stages):
            stage = self.stage(i, y, 0.0)
            self.evaluate_stage(i, stage)
        return stage if tableau.fsal else self.stage(tableau.stages, y, 0.0)

    def evaluate_stage(self, i: int, stage: Tensor) -> None:
        """Evaluate slope ``i`` at the input ``stage``, ``(numbers,)``."""
        self._evaluate(i, self._times[i], stage.view(self._shape))

    def stage(self, i: int, y: Tensor, dt: Time) -> Tensor:
        """Return the input of stage ``i`` of the step that was aimed; ``dt`` is not read."""
        out = torch.empty_like(y)  # autocast leaves products with an out alone
        return torch.addmv(y, self._columns[i], self._weights[i], out=out)

    def probe_at(self, t: Tensor, dt: Tensor, y: Tensor) -> Tensor:
        """Return f after an Euler step from ``y``; the slopes stay."""
        at = torch.addcmul(y, self.slope(), dt.to(self._dtype))
        return self.field_of_vectors((t + dt).to(self._dtype), at)

    def dense(self, y: Tensor, x: Tensor, dt: Tensor) -> Tensor:
        """Return the states at the fractions ``x``, ``(outputs,)``, of a step from ``y``.

        Returns:
            ``(outputs, numbers)``.
        """
        weights = (dt * polynomials(self._powers, x)).to(self._dtype)
        return combined(y, weights, self._buffer)

    def inherit(self, accepted: Tensor) -> None:
        """Make the last slope the first of the next step where the step was accepted."""
        first, last = self._slopes[0], self._slopes[-1]
        torch.where(accepted, last, first, out=first)
