"""The step-size control of `controller.Controller`, on scalars of the device in float64."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_modules.solvers.controller import GROW, SAFETY, SHRINK
from lightning_modules.solvers.registry import Norm


class DeviceController:
    """Judges errors against the tolerance and proposes step sizes; asks the host nothing.

    Args:
        order: Order of the method.
        rtol: Relative tolerance, a number or a scalar in the dtype of the state.
        atol: Absolute tolerance, likewise.
        norm: Norm of an error shaped like the state.
        like: A state: gives shape and device.
    """

    def __init__(
        self, order: int, rtol: float | Tensor, atol: float | Tensor, norm: Norm, like: Tensor
    ) -> None:
        self._order = order
        self._rtol, self._atol = rtol, atol
        self._norm = norm
        self._shape = like.shape
        # A scalar of the host in torch.where would be a tensor of the host, or a float32.
        self._one, self._shrink, self._tiny, self._nan = (
            torch.full((), number, dtype=torch.float64, device=like.device)
            for number in (1.0, SHRINK, 1e-6, math.nan)
        )

    def first_size(
        self, slope: Tensor, probe: Callable[[Tensor], Tensor], y: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the size of the first step, and whether the first slope is finite.

        Where it is not, the size is nan.

        Args:
            slope: The first slope, ``(numbers,)``.
            probe: Returns f after an Euler step of the size that it is given.
            y: Initial state, ``(numbers,)``.
            direction: 1 or -1.
        """
        scale = y.abs().mul_(self._rtol).add_(self._atol)
        d0, d1 = self._measure(y / scale), self._measure(slope / scale)
        finite = torch.isfinite(d0) & torch.isfinite(d1)
        h0 = torch.where((d0 < 1e-5) | (d1 < 1e-5), self._tiny, 0.01 * d0 / d1)
        probed = probe(direction * h0)
        d2 = self._measure((probed - slope) / scale) / h0
        # Not clamp or fmax: what those make of nan differs from what a comparison does.
        steep = torch.where(d2 > d1, d2, d1)
        flat = (d1 <= 1e-15) & (d2 <= 1e-15)
        least = torch.where(h0 * 1e-3 > 1e-6, h0 * 1e-3, self._tiny)
        h1 = torch.where(flat, least, (0.01 / steep).pow(1 / self._order))
        size = torch.where(h1 < 100 * h0, h1, 100 * h0)
        size = torch.where(torch.isfinite(d2), size, h0)
        return direction * torch.where(finite, size, self._nan), finite

    def ratio(self, error: Tensor, dt: Tensor, y0: Tensor, y1: Tensor) -> Tensor:
        """Return the norm of the error over the tolerance; a step is accepted up to 1.

        Args:
            error: Error estimate over the step size; overwritten.
            dt: Step size.
            y0: State at the start of the step.
            y1: State at its end.
        """
        scale = torch.maximum(y0.abs(), y1.abs()).mul_(self._rtol).add_(self._atol)
        return dt.abs() * self._measure(error.div_(scale))

    def next_size(self, dt: Tensor, ratio: Tensor) -> Tensor:
        """Return the size to try after a step of size ``dt``."""
        lowest = torch.where(ratio < 1.0, self._one, self._shrink)
        wanted = SAFETY / ratio.pow(1 / self._order)  # ratio 0 makes inf, which GROW limits
        factor = torch.where(wanted > lowest, wanted, lowest).clamp(max=GROW)
        return dt * torch.where(torch.isfinite(ratio), factor, self._shrink)

    def _measure(self, vector: Tensor) -> Tensor:
        return self._norm(vector.view(self._shape)).detach().double()
