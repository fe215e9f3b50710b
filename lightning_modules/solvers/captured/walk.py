"""What every walk from the first to the last output time has in common on the device."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.solvers.captured.recording import Recorder
from lightning_modules.solvers.captured.stages import DeviceStages
from lightning_modules.solvers.recorded.engine import Task, Walked
from lightning_modules.solvers.registry import TensorField
from lightning_modules.solvers.tableaus import TABLEAUS

CHUNK_BYTES = 2**24
"""Memory for the states at the starts of steps until the host fetches them."""
MOST_ROWS = 64
"""Most steps until then."""


class Walk(ABC):
    """Static tensors of a solve, and what replays its steps.

    Args:
        field: The field over one tensor, its evaluations not counted.
        y0: Gives shape, dtype and device.
        method: Name of the method.
        outputs: Most output times after the first.
        keep: Whether the starts of the steps are kept.
    """

    def __init__(
        self, field: TensorField, y0: Tensor, method: str, outputs: int, keep: bool
    ) -> None:
        self.tableau = TABLEAUS[method]
        self.stages = DeviceStages(field, self.tableau, y0)
        self.keep = keep
        self.y = y0.reshape(-1).clone()
        numbers, size = self.y.numel(), self.y.element_size()
        self.rows = min(max(CHUNK_BYTES // (numbers * size), 4), MOST_ROWS) if keep else MOST_ROWS
        # The last rows are where the kernels put what is not wanted.
        self.out = self.y.new_zeros(outputs + 1, numbers)
        self.starts = self.y.new_zeros(self.rows + 1 if keep else 0, numbers)
        self._device = y0.device

    @abstractmethod
    def record(self, recorder: Recorder, module: nn.Module, task: Task) -> None:
        """Record the kernels; ``task`` gives the numbers of rehearsals."""

    @abstractmethod
    def run(self, recorder: Recorder, task: Task) -> Walked:
        """Solve by replaying."""

    def _filled(self, count: int) -> list[Tensor]:
        """Return the first ``count`` starts in memory of their own."""
        return [self.starts[:count].clone()] if self.keep and count else []

    def _index(self, value: int = 0) -> Tensor:
        return torch.full((1,), value, dtype=torch.int64, device=self._device)


def on_host(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers on the host, from where a copy to ``device`` waits for nothing.

    Copied with ``non_blocking=True`` they may be forgotten at once: PyTorch's allocator of pinned
    memory keeps them until the copy is done.
    """
    return torch.tensor(values, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
