"""Solving with fields whose time and parameters enter through coefficients alone.

A continuous flow's hypernetwork depends on t and on nothing else, so all stages of a step ask it
at once, and the whole backward pass asks it a single time. What is left of an evaluation is a few
products, whose vector-Jacobian products the field knows in closed form: no graph is recorded.
The gradient is that of the discrete solve, as with any other field and ``gradient="direct"``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolveStats
from lightning_modules.solvers.distributed import shared
from lightning_modules.solvers.fields import Counted
from lightning_modules.solvers.integration import accepted_steps, outputs_of
from lightning_modules.solvers.once import differentiable_once, refuse_several
from lightning_modules.solvers.registry import Coefficients, FactoredField, Problem
from lightning_modules.solvers.stepping import BufferedStages, Time, number
from lightning_modules.solvers.surroundings import Solved, Surroundings, again
from lightning_modules.solvers.sweep import StagedSweep, Taken
from lightning_modules.solvers.tableaus import TABLEAUS, ButcherTableau


def solve_factored(problem: Problem, field: FactoredField, y0: Tensor, times: Tensor) -> Tensor:
    """Solve with a native method, as ``registry.SolveFactored`` says.

    Once differentiable with respect to ``y0`` and the parameters of the field; ``times`` must not
    require a gradient. Autocast is switched off: a coefficient of half precision would be one of
    the whole step.
    """
    with torch.autocast(y0.device.type, enabled=False):
        if torch.is_grad_enabled():
            ys: Tensor = _Factored.apply(problem, field, y0, times, *problem.parameters)
            return ys
        return torch.stack(_forward(problem, field, y0, times, None))


class _Note(NamedTuple):
    """One evaluation as its backward pass needs it."""

    t: float
    c: Coefficients
    y: Tensor
    note: Any


class _Stages(BufferedStages):
    """Slopes of a factored field; ``notes`` holds those of the step that was taken last."""

    def __init__(
        self, field: FactoredField, tableau: ButcherTableau, y0: Tensor, stats: SolveStats
    ) -> None:
        super().__init__(Counted(field, stats), tableau, y0)
        self._factored, self._stats, self._own = field, stats, _Own()
        self.notes: list[_Note] = [_Note(0.0, (), y0, None)] * tableau.stages

    def open(self, t: Time, y: Tensor) -> None:
        """Evaluate the first slope of the first step; later steps inherit theirs."""
        self._note(0, number(t), self._at([number(t)])[0], y)

    def step(self, t: Time, dt: Time, y: Tensor) -> Tensor:
        """Evaluate the slopes of a step and return the state at its end, ``(numbers,)``."""
        tableau, stage, first = self.tableau, y, int(self.tableau.fsal)
        ticks = [number(t) + c * number(dt) for c in tableau.c]
        coefficients = self._at(ticks[first:])
        for i in range(first, tableau.stages):
            stage = self.stage(i, y, dt) if i else y
            self._note(i, ticks[i], coefficients[i - first], stage)
        return stage if tableau.fsal else self.stage(tableau.stages, y, dt)

    def advance(self) -> None:
        """Make the last slope the first of the next step."""
        super().advance()
        self.notes[0] = self.notes[-1]

    def _at(self, ticks: list[float]) -> list[Coefficients]:
        times = torch.tensor(ticks, dtype=self._dtype, device=self._device)
        parts = self._factored.coefficients(times)
        return list(zip(*(part.unbind() for part in parts), strict=True))

    def _note(self, i: int, t: float, c: Coefficients, y: Tensor) -> None:
        y = y.view(self._shape)
        self._stats.nfe_forward += 1
        out = self._slopes[i]
        self.notes[i] = _Note(t, c, y, self._own.kept(self._factored.slope(c, y, out), out))


class _Own:
    """Copies what a field returns of the solver's memory, which is overwritten later.

    Whether a field does is seen at its first evaluation: to look at each costs a good part of one.
    """

    def __init__(self) -> None:
        self._lent: bool | None = None

    def kept(self, found: Any, memory: Tensor) -> Any:
        """Return what was found, with memory of its own."""
        if self._lent is None:
            self._lent = _lies_in(found, memory.untyped_storage().data_ptr())
        return _copied(found) if self._lent else found


def _lies_in(found: Any, storage: int) -> bool:
    if isinstance(found, Tensor):
        return found.untyped_storage().data_ptr() == storage
    return isinstance(found, tuple | list) and any(_lies_in(part, storage) for part in found)


def _copied(found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.clone()
    if isinstance(found, tuple | list):
        parts = [_copied(part) for part in found]
        named = isinstance(found, tuple) and hasattr(found, "_fields")
        return type(found)(*parts) if named else type(found)(parts)
    return found


@dataclass(frozen=True)
class _Tape:
    """What happened in a step."""

    step: Taken
    notes: tuple[_Note, ...]


@torch.no_grad()
def _forward(
    problem: Problem, field: FactoredField, y0: Tensor, times: Tensor, tape: list[_Tape] | None
) -> list[Tensor]:
    """Return the states at the output times; the tape, if any, is extended by every step."""
    y0, settings, stats = y0.detach(), problem.settings, problem.stats
    stages = _Stages(field, TABLEAUS[settings.method], y0, stats)
    norm = shared(problem.norm, settings)
    ys = [y0.reshape(-1)]
    for step in accepted_steps(stages, y0, times, settings, norm, stats):
        ys += outputs_of(stages, step)
        if tape is not None:
            tape.append(_Tape(Taken.of(step, stages.tableau), tuple(stages.notes)))
    return [y.view(y0.shape) for y in ys]


class _Factored(torch.autograd.Function):
    """Parameters enter as inputs: only then do DistributedDataParallel's hooks fire."""

    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        field: FactoredField,
        y0: Tensor,
        times: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.problem, ctx.field, ctx.parameters, ctx.tape = problem, field, parameters, []
        before = Surroundings.of(field)
        ys = _forward(problem, field, y0, times, ctx.tape)
        ctx.solved = Solved.since(before, field)
        # Saved, not kept: this notices changes made in place and a second backward.
        ctx.save_for_backward(y0, *parameters)
        return torch.stack(ys)

    @staticmethod
    @differentiable_once(
        "the gradients of a factored field are written out. Give the field as a function, "
        "lambda t, y: field(t, y), which takes autograd's."
    )
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        refuse_several(grad_ys, "Or give the field as a function, lambda t, y: field(t, y).")
        y0 = ctx.saved_tensors[0]
        pullbacks = _Pullbacks(ctx.field, ctx.tape)
        sweep = StagedSweep(pullbacks, TABLEAUS[ctx.problem.settings.method], y0)
        alone = torch.autocast(y0.device.type, enabled=False)
        with alone, again(ctx.solved, ctx.parameters):
            steps = [tape.step for tape in ctx.tape]
            grad_y0 = sweep.run(steps, grad_ys.reshape(len(grad_ys), -1))
            gradients = pullbacks.gradients(ctx.parameters)
        return None, None, grad_y0.view(y0.shape), None, *gradients


class _Pullbacks:
    """Pullbacks from the tape; those of the coefficients wait until the hypernetwork is asked."""

    def __init__(self, field: FactoredField, tape: Sequence[_Tape]) -> None:
        self._field, self._tape = field, tape
        self._own = _Own()
        self._notes: tuple[_Note, ...] = ()
        self._times: list[float] = []
        self._cotangents: list[tuple[Tensor, ...]] = []

    def begin(self, n: int, step: Taken, count: int) -> None:
        """Turn to the notes of step ``n``."""
        self._notes = self._tape[n].notes

    def pull(self, i: int, kappa: Tensor) -> Tensor:
        """Return g_i and keep what reaches the coefficients."""
        note = self._notes[i]
        pulled, *shares = self._field.pull(note.c, note.y, note.note, kappa.view(note.y.shape))
        self._times.append(note.t)
        self._cotangents.append(self._own.kept(tuple(shares), kappa))
        return pulled

    def gradients(self, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Return what reached the parameters through the coefficients of all stages."""
        if not parameters:
            return ()
        like = self._cotangents[0][0]
        times = torch.tensor(self._times, dtype=like.dtype, device=like.device)
        with torch.enable_grad():
            parts = self._field.coefficients(times)
        stacked = [torch.stack(shares) for shares in zip(*self._cotangents, strict=True)]
        pairs = [(c, g) for c, g in zip(parts, stacked, strict=True) if c.requires_grad]
        if not pairs:  # whatever wants a gradient, it is not in them
            return [None] * len(parameters)
        outputs, cotangents = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, parameters, cotangents, allow_unused=True)
