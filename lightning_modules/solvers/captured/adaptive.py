"""Adaptive steps whose control runs on the device.

A trial step is one piece of work: aim, stages, error, acceptance, outputs, next size. Once the
solve is done, or has failed, a trial changes nothing any more, so that the host may look at it
seldom: it replays as many trials as the last solve took, and then one at a time, since a look
costs less than a needless trial.
"""

import math

import torch
from torch import Tensor, nn

from lightning_modules.solvers.base import SolverSettings
from lightning_modules.solvers.captured.recording import Recorder, Work
from lightning_modules.solvers.captured.walk import Walk, on_host
from lightning_modules.solvers.recorded.control import DeviceController
from lightning_modules.solvers.recorded.ending import settle
from lightning_modules.solvers.recorded.engine import Task, Walked
from lightning_modules.solvers.recorded.ledger import (
    AT_LIMIT,
    DONE,
    GOING,
    NOT_STARTED,
    STUCK,
    Clock,
    Ledger,
    Standing,
    taken,
)
from lightning_modules.solvers.registry import Norm, TensorField


class AdaptiveWalk(Walk):
    """A solve by an embedded pair.

    Args:
        field: As in `Walk`, like ``y0``, ``outputs`` and ``keep``.
        y0: Initial state.
        settings: Method and tolerances, which are recorded.
        norm: Norm of an error shaped like the state.
        outputs: Most output times after the first.
        keep: Whether the starts of the steps are kept.
    """

    def __init__(
        self,
        field: TensorField,
        y0: Tensor,
        settings: SolverSettings,
        norm: Norm,
        outputs: int,
        keep: bool,
    ) -> None:
        super().__init__(field, y0, settings.method, outputs, keep)
        self._control = DeviceController(
            self.tableau.order, settings.rtol, settings.atol, norm, y0
        )
        self._interpolates = self.tableau.interpolant is not None
        self._ledger = Ledger.of(self.rows, y0.device)
        self._standing, self._clocks = self._ledger.standing, self._ledger.clocks
        # Start, direction, steps allowed, least step size, end, then the output times.
        self._given = torch.zeros(5 + outputs + 1, dtype=torch.float64, device=y0.device)
        self._start, self._direction, self._allowed, self._least, self._end, *_ = self._given
        self._ticks = self._given[5:]
        self._slot, self._reached = self._index(), self._index()
        self._trash, self._last = self._index(self.rows), self._index(outputs)
        self._expected = 0
        self._open: Work = self._opening
        self._try: Work = self._trial

    def record(self, recorder: Recorder, module: nn.Module, task: Task) -> None:
        """Record the opening and a trial."""
        self._set(task)
        self._open = recorder.record(self._opening, module)
        self._try = recorder.record(self._trial, module)

    def run(self, recorder: Recorder, task: Task) -> Walked:
        """Solve; raise ``SolverFailed`` where the solve cannot go on."""
        self._set(task)
        self._open()
        starts: list[Tensor] = []
        clocks: list[Clock] = []
        before, standing = 0, Standing(*[0.0] * len(Standing._fields))
        while standing.status == GOING:
            for _ in range(self._burst(standing.trials)):
                self._try()
            numbers = recorder.read(self._ledger.numbers)
            standing, _ = Ledger.parse(numbers, 0)
            new = int(standing.accepted) - before
            clocks += Ledger.parse(numbers, new)[1]
            starts += self._filled(new)
            before += new
            self._slot.zero_()
        settle(task, standing, self.tableau, self.y)
        self._expected = standing.trials
        steps = taken(clocks, task.ticks, self.tableau, self.y) if self.keep else []
        return Walked(self.out[: len(task.ticks) - 1].clone(), steps, starts)

    def _set(self, task: Task) -> None:
        """Bring a solve's numbers to the device."""
        first, *ticks = task.ticks
        direction = 1.0 if ticks[-1] > first else -1.0
        allowed = task.settings.max_steps - task.stats.steps
        least = 1e-16 * abs(ticks[-1] - first)
        never = [direction * math.inf] * (len(self._ticks) - len(ticks))
        given = [first, direction, allowed, least, ticks[-1], *ticks, *never]
        self._given.copy_(on_host(given, torch.float64, self._device), non_blocking=True)
        self.y.copy_(task.y0.reshape(-1))

    def _burst(self, trials: int) -> int:
        return min(max(self._expected - trials, 1), self.rows)

    def _opening(self) -> None:
        """Evaluate the first slope and choose the first size."""
        self._ledger.numbers.zero_()
        self._slot.zero_()
        self._reached.zero_()
        now = self._standing
        now.t.copy_(self._start)
        self.stages.start(now.t, self.y)
        size, finite = self._control.first_size(
            self.stages.slope(),
            lambda dt: self.stages.probe_at(now.t, dt, self.y),
            self.y,
            self._direction,
        )
        now.size.copy_(size)
        now.status.add_(~finite, alpha=NOT_STARTED)

    def _trial(self) -> None:
        """Try a step, unless the solve is over."""
        now, stages, y = self._standing, self.stages, self.y
        end, dt, tick = self._aim()
        going = self._may_try(dt)
        stages.aim(now.t, dt)
        y1 = stages.end(y)
        ratio = self._control.ratio(stages.error(), dt, y, y1)
        accepted = going & (ratio <= 1.0)
        size = self._control.next_size(dt, ratio)
        self._keep_start(accepted, dt, end)
        self._keep_outputs(accepted, dt, end, tick, y1)
        stages.inherit(accepted)
        torch.where(accepted, y1, y, out=y)
        for old, new, changes in (
            (now.size, size, going),
            (now.ratio, ratio, going),
            (now.t, end, accepted),
        ):
            torch.where(changes, new, old, out=old)
        now.accepted.add_(accepted)
        now.rejected.add_(going & ~accepted)
        over = self._direction * (end - self._end) >= 0
        now.status.add_(accepted & over, alpha=DONE)

    def _aim(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return end and size of the next step and the next output time, on which it may land."""
        now = self._standing
        tick = self._ticks.index_select(0, self._reached)[0]
        end = now.t + now.size
        if self._interpolates:
            return end, now.size.clone(), tick
        beyond = self._direction * (tick - end) < 0
        size = torch.where(beyond, tick - now.t, now.size)
        return torch.where(beyond, tick, end), size, tick

    def _may_try(self, dt: Tensor) -> Tensor:
        """Return whether there is a step to try, and note why not."""
        now = self._standing
        on = now.status == GOING
        spent = on & (now.accepted + now.rejected >= self._allowed)
        vanished = ~(now.ratio <= 1.0) & (dt.abs() < self._least)
        stuck = on & ~spent & ((now.t + dt == now.t) | vanished)
        torch.where(on, dt, now.dt, out=now.dt)
        now.status.add_(spent, alpha=AT_LIMIT).add_(stuck, alpha=STUCK)
        return now.status == GOING

    def _keep_start(self, accepted: Tensor, dt: Tensor, end: Tensor) -> None:
        slot = torch.where(accepted, self._slot, self._trash)
        clock = torch.stack([self._standing.t, dt, end])
        self._clocks.index_copy_(0, slot, clock.unsqueeze(0))
        if self.keep:
            self.starts.index_copy_(0, slot, self.y.unsqueeze(0))
        self._slot.add_(accepted)

    def _keep_outputs(
        self, accepted: Tensor, dt: Tensor, end: Tensor, tick: Tensor, y1: Tensor
    ) -> None:
        if not self._interpolates:
            landed = accepted & (self._direction * (end - tick) >= 0)
            slot = torch.where(landed, self._reached, self._last)
            self.out.index_copy_(0, slot, y1.unsqueeze(0))
            self._reached.add_(landed)
            return
        t, ticks, out = self._standing.t, self._ticks[:-1], self.out[:-1]
        ahead, left = self._direction * (ticks - t), self._direction * (end - ticks)
        inside = accepted & (ahead > 0) & (left >= 0)
        fractions = torch.where(inside, ticks - t, 0.0 * dt) / dt
        states = self.stages.dense(self.y, fractions, dt)
        torch.where(inside.unsqueeze(1), states, out, out=out)
