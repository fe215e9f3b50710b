"""Which step to try next: the controller of torchdiffeq, on numbers of the host."""

import math

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolverSettings
from lightning_modules.solvers.registry import Norm
from lightning_modules.solvers.stepping import Stages, Time

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0


class Controller:
    """Judges errors against the tolerance and proposes step sizes.

    Args:
        order: Order of the method.
        settings: Read for ``rtol`` and ``atol``.
        norm: Norm of an error shaped like the state.
        shape: Shape of the state.
    """

    def __init__(
        self, order: int, settings: SolverSettings, norm: Norm, shape: torch.Size
    ) -> None:
        self._order = order
        self._rtol, self._atol = settings.rtol, settings.atol
        self._norm = norm
        self._shape = shape

    @torch.no_grad()
    def first_size(self, stages: Stages, t: Time, y: Tensor, direction: int) -> float:
        """Return the size of the first step, nan where the first slope is not finite.

        One evaluation beside the first slope, which ``stages`` holds.

        Source: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", II.4, with
        torchdiffeq's exponent.
        """
        scale, slope = y.abs().mul_(self._rtol).add_(self._atol), stages.slope()
        d0, d1 = self._measure(y / scale), self._measure(slope / scale)
        if not (math.isfinite(d0) and math.isfinite(d1)):
            return math.nan
        h0 = 1e-6 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1
        probed = stages.probe(t, direction * h0, y)
        d2 = self._measure((probed - slope) / scale) / h0
        if not math.isfinite(d2):
            return direction * h0
        if d1 <= 1e-15 and d2 <= 1e-15:
            h1 = max(1e-6, h0 * 1e-3)
        else:
            h1 = (0.01 / max(d1, d2)) ** (1 / self._order)
        return direction * min(100 * h0, h1)

    @torch.no_grad()
    def ratio(self, error: Tensor, dt: float, y0: Tensor, y1: Tensor) -> float:
        """Return the norm of the error over the tolerance; a step is accepted up to 1.

        Args:
            error: Error estimate over the step size; overwritten.
            dt: Step size.
            y0: State at the start of the step.
            y1: State at its end.
        """
        scale = torch.maximum(y0.abs(), y1.abs()).mul_(self._rtol).add_(self._atol)
        return abs(dt) * self._measure(error.div_(scale))

    def next_size(self, dt: float, ratio: float) -> float:
        """Return the size to try after a step of size ``dt``.

        An accepted step is never followed by a smaller one; a rejected one, or one whose error is
        not finite, by one of at least a fifth.
        """
        if ratio == 0.0:
            return GROW * dt
        if not math.isfinite(ratio):
            return SHRINK * dt
        lowest = 1.0 if ratio < 1.0 else SHRINK
        return dt * min(GROW, max(SAFETY / ratio ** (1 / self._order), lowest))

    def _measure(self, vector: Tensor) -> float:
        return float(self._norm(vector.view(self._shape)))
