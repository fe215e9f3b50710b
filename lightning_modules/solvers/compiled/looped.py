"""A whole solve, and its whole way back, compiled into one loop each."""

import math
import weakref
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast, overload

import torch
from torch import Tensor, nn

from lightning_modules.solvers.base import SolverSettings, SolveStats
from lightning_modules.solvers.compiled.inductor import Function, compiled_loop
from lightning_modules.solvers.compiled.memory import lasting
from lightning_modules.solvers.compiled.trials import Forward, Given, Trials
from lightning_modules.solvers.fields import Recordable
from lightning_modules.solvers.identity import weakly
from lightning_modules.solvers.recorded.ending import settle
from lightning_modules.solvers.recorded.engine import Task, Walked
from lightning_modules.solvers.recorded.ledger import GOING, Clock, Standing, taken
from lightning_modules.solvers.registry import Norm
from lightning_modules.solvers.sweep import Taken
from lightning_modules.solvers.tableaus import TABLEAUS, ButcherTableau

STATE_BYTES = 2**14
"""Size of a state up to which solves are loops: each trial copies the starts of all steps."""
OUTPUT_BYTES = 2**17
"""States at all output times, likewise; and a trial looks whether it has reached any of them."""
START_BYTES = 2**17
MOST_ROWS = 32


def loops(y0: Tensor, settings: SolverSettings, outputs: int) -> bool:
    """Return whether a solve is worth a loop.

    Python between the steps costs about 50 µs each, as much as the step itself where states are
    small; for large ones what the loop copies costs more.

    Args:
        y0: Initial state.
        settings: Read for the method.
        outputs: Most output times after the first.
    """
    tableau, size = TABLEAUS[settings.method], y0.numel() * y0.element_size()
    pair = tableau.error is not None and tableau.interpolant is not None and tableau.fsal
    return pair and 0 < size <= STATE_BYTES and outputs * size <= OUTPUT_BYTES


@dataclass(frozen=True)
class Chunk:
    """Some accepted steps, one after the other.

    Args:
        clocks: As in `Forward`.
        count: How many there are.
    """

    clocks: Tensor
    count: int


@dataclass(frozen=True)
class LoopedSteps(Sequence[Taken]):
    """The accepted steps of a solve, as tensors until somebody asks for one.

    Args:
        chunks: The steps.
        ticks: Output times.
        span: Direction and output times as in `Given`.
        tableau: The method.
        like: Gives dtype and device.
    """

    chunks: Sequence[Chunk]
    ticks: Sequence[float]
    span: tuple[Tensor, Tensor]
    tableau: ButcherTableau
    like: Tensor

    def __len__(self) -> int:
        return sum(chunk.count for chunk in self.chunks)

    @overload
    def __getitem__(self, index: int) -> Taken: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Taken]: ...

    def __getitem__(self, index: int | slice) -> Taken | Sequence[Taken]:
        return self._all[index]

    @cached_property
    def ends_inside(self) -> bool:
        """Whether output times lie in the last step, and not at its end alone."""
        chunk = self.chunks[-1]
        start, dt, end = chunk.clocks[chunk.count].tolist()
        *_, before, last = self.ticks
        return last != end or math.copysign(1.0, dt) * (before - start) > 0

    @cached_property
    def _all(self) -> list[Taken]:
        rows = [row for c in self.chunks for row in c.clocks[1 : 1 + c.count].tolist()]
        return taken([Clock(*row) for row in rows], self.ticks, self.tableau, self.like)


class LoopedPlan:
    """A compiled solve and, once there is need, its compiled way back.

    It refers to the user's field weakly, so that it dies with it.

    Args:
        field: The field over one tensor.
        norm: Error norm.
        task: A solve of the kind that will be solved.
        outputs: Most output times after the first.

    Raises:
        Unrecordable: If the field or the norm cannot be compiled.
    """

    def __init__(self, field: Recordable, norm: Norm, task: Task, outputs: int) -> None:
        module = cast(nn.Module, field.source)
        self._source = weakref.ref(module)
        weak, y0 = field.on(weakref.proxy(module)), task.y0.detach()
        self._tableau, self._outputs = TABLEAUS[task.settings.method], outputs
        size = y0.numel() * y0.element_size()
        self._rows = max(1, min(START_BYTES // size, MOST_ROWS))
        self._backs: dict[bool, Function] = {}
        self._further: Function | None = None
        self._opened: tuple[Hashable, Forward, Given] | None = None
        with lasting():
            # What compiled code reads is never written to: these begin every solve.
            self._nothing = y0.new_zeros(y0.numel())
            self._no_shares = y0.new_zeros(self._tableau.stages, y0.numel())
            self._no_outputs = y0.new_zeros(outputs, y0.numel())
            self._no_starts = y0.new_zeros(self._rows, y0.numel())
            self._counts = _numbers(*range(self._rows + 1)).unbind()
            self._trials = Trials(weak, self._tableau, y0, weakly(norm, field, weak))
            self._solve = self._compiled(task, opens=True)

    def solve(self, task: Task, keep: bool) -> Walked:
        """Solve, and keep steps and starts if there will be a backward pass."""
        with lasting():
            state, given = self._start(task)
            state = Forward(*self._solve(*state, *given))
            standing = Standing(*state.numbers.tolist())
            chunks = [Chunk(state.clocks, int(standing.accepted))]
            starts = [state.starts]
            while standing.status == GOING:
                before = int(standing.accepted)
                state, given = self._next(state, given, chunks[-1].count, before)
                if self._further is None:
                    self._further = self._compiled(task, opens=False)
                state = Forward(*self._further(*state, *given))
                standing = Standing(*state.numbers.tolist())
                chunks.append(Chunk(state.clocks, int(standing.accepted) - before))
                starts.append(state.starts)
            settle(task, standing, self._tableau, state.y)
            span = given.direction, given.ticks
            steps = LoopedSteps(chunks, task.ticks, span, self._tableau, self._nothing)
            outputs = state.outputs[: len(task.ticks) - 1]
            return Walked(outputs, steps, starts) if keep else Walked(outputs, [], [])

    def record_back(
        self,
        module: nn.Module,
        y0: Tensor,
        parameters: Sequence[Tensor],
        steps: Sequence[Taken],
    ) -> None:
        """Compile what going back over these steps takes, as far as it is not yet.

        Raises:
            Unrecordable: If it cannot be compiled.
        """
        steps = cast(LoopedSteps, steps)
        missing = self._kinds(steps) - self._backs.keys()
        if not missing:
            return
        work = self._trials
        for full in missing:
            with lasting():
                state = self._back_start(1, self._nothing, _zeros(parameters))
                same = [steps.chunks[0].clocks, self._no_starts, *steps.span, self._no_outputs]
                self._backs[full] = compiled_loop(
                    work.left,
                    partial(work.back, self._tableau.stages - 1, parameters),
                    state,
                    same,
                    module,
                    first=partial(work.begin, full, parameters),
                )

    def back(
        self,
        y0: Tensor,
        parameters: Sequence[Tensor],
        steps: Sequence[Taken],
        starts: Sequence[Tensor],
        grad_ys: Tensor,
        stats: SolveStats,
    ) -> tuple[Tensor, Sequence[Tensor]] | None:
        """Return the gradients by initial state and parameters, None if not compiled for these."""
        if not isinstance(steps, LoopedSteps) or self._kinds(steps) - self._backs.keys():
            return None
        full = steps.ends_inside
        stats.nfe_backward += (self._tableau.stages - 1) * len(steps) + full
        with lasting():
            missing = self._outputs - len(grad_ys) + 1
            # Autograd's gradients lie in memory as they like, those of a sum in one number.
            grads = grad_ys[1:]
            grads = torch.cat([grads, self._no_outputs[:missing]]) if missing else grads
            grads = grads.contiguous()
            at_end, totals = self._nothing, _zeros(parameters)
            for chunk, start in zip(reversed(steps.chunks), reversed(starts), strict=True):
                state = self._back_start(chunk.count, at_end, totals)
                _, at_end, _, _, *totals = self._backs[full](
                    *state, chunk.clocks, start, *steps.span, grads
                )
                full = False
            return at_end + grad_ys[0], totals

    def _compiled(self, task: Task, *, opens: bool) -> Function:
        """Return the loop over the trials, which begins with the opening or goes on."""
        source, work = self._source(), self._trials
        assert source is not None
        state, given = self._start(task)
        first = work.opening if opens else None
        return compiled_loop(work.going, work.trial, state, given, source, first=first)

    def _start(self, task: Task) -> tuple[Forward, Given]:
        """Return what a solve begins with."""
        y = task.y0.detach().reshape(-1).contiguous()
        rtol, atol = task.settings.rtol, task.settings.atol
        key = (tuple(task.ticks), rtol, atol, task.settings.max_steps - task.stats.steps)
        opened = self._opened  # read once: another thread may solve with other times
        if opened is None or opened[0] != key:
            opened = self._opened = (key, *self._opening(*key))
        _, state, given = opened
        return state._replace(y=y), given

    def _opening(
        self, ticks: tuple[float, ...], rtol: float, atol: float, allowed: int
    ) -> tuple[Forward, Given]:
        begin, end = ticks[0], ticks[-1]
        direction = math.copysign(1.0, end - begin)
        state = Forward(
            _numbers(begin, (ticks[1] - begin) / 100, 0.0, 0.0, 0.0, 0.0, GOING),
            self._clocks(Clock(begin, 1.0, begin)),
            self._nothing,
            self._nothing,
            self._no_outputs,
            self._no_starts,
        )
        room = [direction * math.inf] * (self._outputs - len(ticks) + 1)
        given = Given(
            _numbers(begin, end, allowed, 1e-16 * abs(end - begin), 0.0),
            _numbers(direction),
            _numbers(*ticks[1:], *room),
            _numbers(rtol, atol).to(self._nothing.dtype),
        )
        return state, given

    def _next(
        self, state: Forward, given: Given, count: int, accepted: int
    ) -> tuple[Forward, Given]:
        """Return what goes on where there was no room for another step."""
        clocks = self._clocks(Clock(*state.clocks[count].tolist()))
        span = torch.cat([given.span[:-1], _numbers(accepted)])
        return state._replace(clocks=clocks, starts=self._no_starts), given._replace(span=span)

    def _clocks(self, before: Clock) -> Tensor:
        return _numbers(*before, *[0.0] * (3 * self._rows)).view(-1, 3)

    def _back_start(
        self, count: int, at_end: Tensor, totals: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return self._counts[count], at_end, self._no_shares, self._nothing, *totals

    @staticmethod
    def _kinds(steps: LoopedSteps) -> set[bool]:
        """Return which ways back there must be: all of the last step's stages, or all but one."""
        return {steps.ends_inside} | ({False} if len(steps.chunks) > 1 else set())


def _numbers(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")


def _zeros(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) for p in parameters]
