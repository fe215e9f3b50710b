"""Fixed steps on the device: the host writes a table of them, every replay takes the next."""

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from lightning_modules.solvers.base import SolverSettings
from lightning_modules.solvers.captured.recording import Recorder, Work
from lightning_modules.solvers.captured.walk import Walk, on_host
from lightning_modules.solvers.integration import fixed_places
from lightning_modules.solvers.recorded.engine import Task, Walked
from lightning_modules.solvers.registry import TensorField
from lightning_modules.solvers.stepping import number
from lightning_modules.solvers.sweep import Taken

Place = tuple[float, float, bool]
"""Start and size of a step, and whether it ends at an output time."""


class FixedWalk(Walk):
    """A solve by steps of given sizes; the host never has to look. Arguments as in `Walk`."""

    def __init__(
        self, field: TensorField, y0: Tensor, settings: SolverSettings, outputs: int, keep: bool
    ) -> None:
        super().__init__(field, y0, settings.method, outputs, keep)
        self._outputs = outputs
        self._table = torch.zeros(self.rows, 2, dtype=torch.float64, device=y0.device)
        self._landing = torch.zeros(self.rows, dtype=torch.int64, device=y0.device)
        self._next = self._index()
        self._take: Work = self._step

    def record(self, recorder: Recorder, module: nn.Module, task: Task) -> None:
        """Record a step."""
        self.y.copy_(task.y0.reshape(-1))
        self._write([(task.ticks[0], task.ticks[1] - task.ticks[0], False)], self._outputs)
        self._take = recorder.record(self._step, module)

    def run(self, recorder: Recorder, task: Task) -> Walked:
        """Solve; raise ``SolverFailed`` if there are more steps than allowed."""
        places = iter(fixed_places(task.times, task.settings, task.stats))
        self.y.copy_(task.y0.reshape(-1))
        starts: list[Tensor] = []
        steps: list[Taken] = []
        reached = 0
        while some := [(number(t), number(dt), x) for t, dt, x in islice(places, self.rows)]:
            reached = self._write(some, reached)
            for _ in some:
                self._take()
            starts += self._filled(len(some))
            steps += [Taken(t, dt, int(lands), None) for t, dt, lands in some]
        task.stats.steps_accepted += len(steps)
        task.field.count(self.tableau.stages * len(steps))
        return Walked(self.out[: len(task.ticks) - 1].clone(), steps, starts)

    def _write(self, places: Sequence[Place], reached: int) -> int:
        """Write the next steps into the table; return the output that comes after them."""
        landing, table = [], []
        for t, dt, lands in places:
            table.append((t, dt))
            landing.append(reached if lands else self._outputs)
            reached += lands
        times = on_host(table, torch.float64, self._device)
        self._table[: len(table)].copy_(times, non_blocking=True)
        slots = on_host(landing, torch.int64, self._device)
        self._landing[: len(table)].copy_(slots, non_blocking=True)
        self._next.zero_()
        return reached

    def _step(self) -> None:
        t, dt = self._table.index_select(0, self._next)[0].unbind()
        slot = self._landing.index_select(0, self._next)
        self.stages.aim(t, dt)
        y1 = self.stages.end(self.y)
        if self.keep:
            self.starts.index_copy_(0, self._next, self.y.unsqueeze(0))
        self.out.index_copy_(0, slot, y1.unsqueeze(0))
        self.y.copy_(y1)
        self._next.add_(1).remainder_(self.rows)
