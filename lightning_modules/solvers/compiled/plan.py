"""One compiled way to solve: what is compiled, and what it stands for."""

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from lightning_modules.solvers.base import SolveStats
from lightning_modules.solvers.compiled.inductor import Function, compiled_function
from lightning_modules.solvers.compiled.memory import lasting
from lightning_modules.solvers.compiled.stages import CompiledStages, clock_of, vector
from lightning_modules.solvers.compiled.steps import StepFunctions
from lightning_modules.solvers.fields import Recordable
from lightning_modules.solvers.identity import weakly
from lightning_modules.solvers.integration import accepted_steps, outputs_of
from lightning_modules.solvers.recorded.engine import Task, Walked
from lightning_modules.solvers.registry import Norm
from lightning_modules.solvers.stepping import number
from lightning_modules.solvers.sweep import Sweep, Taken, stages_back, unstacked
from lightning_modules.solvers.tableaus import TABLEAUS, ButcherTableau


class CompiledPlan:
    """A compiled step and, once there is need, its compiled way back.

    It refers to the user's field weakly, so that it dies with it.

    Args:
        field: The field over one tensor.
        norm: Error norm.
        task: A solve of the kind that will be solved.

    Raises:
        Unrecordable: If the field or the norm cannot be compiled.
    """

    def __init__(self, field: Recordable, norm: Norm, task: Task) -> None:
        module = cast(nn.Module, field.source)
        weak = field.on(weakref.proxy(module))
        y0, settings = task.y0.detach(), task.settings
        self._tableau, self._norm = TABLEAUS[settings.method], weakly(norm, field, weak)
        self._functions = StepFunctions(weak, self._tableau, y0.shape, self._norm)
        self._backs: dict[int, Function] = {}
        with lasting():
            y = y0.reshape(-1).contiguous()
            clock = clock_of(self._tableau, task.ticks[0], task.ticks[1] - task.ticks[0], y)
            tolerances = vector((settings.rtol, settings.atol), y)
            examples = (clock, tolerances, y, torch.zeros_like(y))
            self._step = compiled_function(self._functions.step, examples, module)

    def solve(self, task: Task, keep: bool) -> Walked:
        """Solve, and keep steps and starts if there will be a backward pass."""
        outputs: list[Tensor] = []
        steps: list[Taken] = []
        starts: list[Tensor] = []
        with lasting():
            y0 = task.y0.contiguous()  # the memory that the compiled step expects
            settings, norm = task.settings, self._norm
            stages = CompiledStages(task.field, self._tableau, y0, settings, self._step)
            for step in accepted_steps(stages, y0, task.times, settings, norm, task.stats):
                outputs += outputs_of(stages, step)
                if keep:
                    starts.append(step.y0)
                    steps.append(Taken.of(step, self._tableau))
            return Walked(torch.stack(outputs), steps, starts)

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
        missing = self._counts(steps) - self._backs.keys()
        if not missing:
            return
        tableau = self._tableau
        y, first = y0.detach().reshape(-1).contiguous(), steps[0]
        for count in missing:
            with lasting():
                received = y.new_zeros(tableau.stages, len(y))
                totals = [torch.zeros_like(p) for p in parameters]
                clock = clock_of(tableau, number(first.t), number(first.dt), y)
                examples = (clock, y, torch.zeros_like(y), received, *totals)
                work = partial(self._functions.back, count, parameters)
                self._backs[count] = compiled_function(work, examples, module)

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
        if self._counts(steps) - self._backs.keys():
            return None
        rows = unstacked(starts, y0.numel())
        with lasting():
            sweep = _Sweep(self._backs, self._tableau, y0, rows, parameters, stats)
            return sweep.run(steps, grad_ys), sweep.totals

    def _counts(self, steps: Sequence[Taken]) -> set[int]:
        """Return how many stages of the steps a backward pass goes through; see `stages_back`."""
        last = len(steps) - 1  # all steps before it are alike
        return {stages_back(self._tableau, steps[n], last=n == last) for n in (0, last)}


class _Sweep(Sweep):
    """A backward pass that calls one compiled function for each step.

    Args:
        backs: `StepFunctions.back` by the number of stages, compiled.
        tableau: The method.
        y0: Gives shape, dtype and device of the state.
        starts: States at the starts of the steps, ``(numbers,)`` each.
        parameters: The parameters of the field; ``totals`` has what reached them.
        stats: Evaluations are counted here.
    """

    def __init__(
        self,
        backs: Mapping[int, Function],
        tableau: ButcherTableau,
        y0: Tensor,
        starts: Sequence[Tensor],
        parameters: Sequence[Tensor],
        stats: SolveStats,
    ) -> None:
        super().__init__(tableau, y0.new_zeros(y0.numel()))
        self._backs, self._starts, self._stats = backs, starts, stats
        self._nothing = y0.new_zeros(tableau.stages, y0.numel())
        self.totals: Sequence[Tensor] = [torch.zeros_like(p) for p in parameters]

    def _through(
        self,
        n: int,
        step: Taken,
        count: int,
        shares: Tensor | None,
        inherited: Tensor | None,
    ) -> None:
        received = self._nothing if shares is None else shares
        if inherited is not None:
            received = received.clone()
            received[0] += inherited
        at_end, start = self._at_end, self._starts[n]
        clock = clock_of(self._tableau, number(step.t), number(step.dt), start)
        pulled, *self.totals = self._backs[count](clock, start, at_end, received, *self.totals)
        at_end.copy_(pulled)
        self._stats.nfe_backward += count
