"""One recorded way to solve: what is recorded, and what it stands for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_modules.solvers.base import SolveStats
from lightning_modules.solvers.captured.adaptive import AdaptiveWalk
from lightning_modules.solvers.captured.back import RecordedSweep
from lightning_modules.solvers.captured.grid import FixedWalk
from lightning_modules.solvers.captured.leaves import OnLeaves
from lightning_modules.solvers.captured.recording import Recorder
from lightning_modules.solvers.captured.walk import Walk
from lightning_modules.solvers.fields import Recordable
from lightning_modules.solvers.identity import Unrecordable, weakly
from lightning_modules.solvers.recorded.engine import Task, Walked
from lightning_modules.solvers.registry import Norm
from lightning_modules.solvers.replay import autocast_now
from lightning_modules.solvers.sweep import Taken, unstacked
from lightning_modules.solvers.tableaus import TABLEAUS


class CapturedPlan:
    """A recorded forward pass and, once there is need, the recorded backward pass.

    It refers to the user's field weakly, so that it dies with it.

    Args:
        recorder: Records and replays.
        field: The field over one tensor.
        norm: Error norm.
        task: A solve of the kind that will be solved.
        outputs: Most output times after the first.
        keep: Whether there will be a backward pass.

    Raises:
        Unrecordable: If the field or the norm cannot be recorded.
    """

    def __init__(
        self,
        recorder: Recorder,
        field: Recordable,
        norm: Norm,
        task: Task,
        outputs: int,
        keep: bool,
    ) -> None:
        self._recorder = recorder
        source = cast(nn.Module, field.source)
        self._method = task.settings.method
        self._sweep: RecordedSweep | None = None
        with self._static(task.y0), recorder.turn(), _fitting():
            leaves = OnLeaves(source)
            self._parameters = leaves.leaves
            self._field = field.on(leaves, self._parameters)
            norm = weakly(norm, field, self._field)
            self._walk = self._walked(norm, task, outputs, keep)
            self._walk.record(recorder, source, task)

    def solve(self, task: Task, keep: bool) -> Walked:
        """Solve; ``keep`` is that of the recording."""
        with self._static(task.y0), self._recorder.turn():
            return self._walk.run(self._recorder, task)

    def record_back(
        self,
        module: nn.Module,
        y0: Tensor,
        parameters: Sequence[Tensor],
        steps: Sequence[Taken],
    ) -> None:
        """Record what going back over these steps takes, as far as it is not yet.

        Raises:
            Unrecordable: If it cannot be recorded.
        """
        with self._static(y0), self._recorder.turn(), _fitting():
            kept, self._sweep = self._sweep, None  # what is not recorded to its end is no way back
            sweep = kept or RecordedSweep(self._field, self._method, y0, self._parameters)
            sweep.record(self._recorder, module, steps, y0.reshape(-1))
            self._sweep = sweep

    def back(
        self,
        y0: Tensor,
        parameters: Sequence[Tensor],
        steps: Sequence[Taken],
        starts: Sequence[Tensor],
        grad_ys: Tensor,
        stats: SolveStats,
    ) -> tuple[Tensor, Sequence[Tensor]] | None:
        """Return the gradients by initial state and parameters; see `RecordedSweep.back`.

        None if the backward pass is not recorded.
        """
        rows = unstacked(starts, y0.numel())
        with self._static(y0), self._recorder.turn():
            if self._sweep is None:
                return None
            return self._sweep.back(steps, rows, grad_ys, stats)

    def _walked(self, norm: Norm, task: Task, outputs: int, keep: bool) -> Walk:
        if TABLEAUS[self._method].error is None:
            return FixedWalk(self._field, task.y0, task.settings, outputs, keep)
        return AdaptiveWalk(self._field, task.y0, task.settings, norm, outputs, keep)

    @staticmethod
    @contextmanager
    def _static(y0: Tensor) -> Iterator[None]:
        """Make tensors that any later solve may write to, and cache no cast.

        A cast of the weights that autocast had cached would be recorded in place of the cast.
        """
        autocast: dict[str, Any] = autocast_now(y0.device.type)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(**autocast):
            yield


@contextmanager
def _fitting() -> Iterator[None]:
    """Say of a recording for which there is no memory that it cannot be made."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise Unrecordable(f"its recording does not fit into memory ({error})") from error
