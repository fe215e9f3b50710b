"""The exact gradient of a discrete solve from its accepted states alone.

Backward walks the accepted steps from the last to the first, evaluates the stages of each again,
with a graph per stage, and goes back through them.

Source: the memory of accepted states alone as in Zhuang et al. (2020), "Adaptive checkpoint
adjoint method", arXiv 2006.02493.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.solvers.distributed import shared
from lightning_modules.solvers.fields import Counted
from lightning_modules.solvers.integration import accepted_steps, outputs_of
from lightning_modules.solvers.once import differentiable_once, refuse_several
from lightning_modules.solvers.registry import Problem
from lightning_modules.solvers.replay import Pulls, autocast_as, autocast_now
from lightning_modules.solvers.stepping import BufferedStages
from lightning_modules.solvers.surroundings import Solved, Surroundings, again
from lightning_modules.solvers.sweep import StagedSweep, Taken, unstacked
from lightning_modules.solvers.tableaus import TABLEAUS


def solve_checkpointed(problem: Problem, y0: Tensor, times: Tensor) -> Tensor:
    """Solve without a graph and keep the accepted states; backward replays the steps.

    Args:
        problem: Field, settings and statistics.
        y0: Initial state, any shape.
        times: Output times, ``(time,)``, which must not require a gradient.

    Returns:
        States ``(time, *y0.shape)``, once differentiable with respect to ``y0`` and the
        parameters of the field.
    """
    if torch.is_grad_enabled():
        return differentiable(Eager(problem), problem, y0, times)
    # Nothing will be replayed, so nothing is kept.
    field, settings = Counted(problem.field, problem.stats), problem.settings
    norm = shared(problem.norm, settings)
    return problem.backend.solve(field, y0, times, settings, norm, problem.stats)


@dataclass(frozen=True)
class Path:
    """What the forward solve keeps for the backward pass.

    Args:
        steps: The accepted steps.
        starts: States at their starts, ``(numbers,)`` each or ``(some steps, numbers)``.
        solved: The field as it was left; None where only its tensors matter.
        read: Its tensors, beside the parameters, that may be read again.
    """

    steps: Sequence[Taken]
    starts: Sequence[Tensor]
    solved: Solved | None
    read: Sequence[Tensor] = ()


class Passes(Protocol):
    """The two passes of a solve whose gradient comes from the accepted states."""

    def forward(self, y0: Tensor, times: Tensor) -> tuple[Tensor, Path]:
        """Solve without a graph.

        Returns:
            States at all output times, ``(time, *state)``, and the way there. The states are no
            view, so that the caller may write to them.
        """
        ...

    def backward(
        self, path: Path, y0: Tensor, parameters: Sequence[Tensor], grad_ys: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Return the gradients by the initial state, ``(numbers,)``, and by the parameters.

        Args:
            path: The way that forward went.
            y0: The initial state.
            parameters: The parameters of the field.
            grad_ys: Gradient by the states at the output times, ``(time, numbers)``.
        """
        ...


def differentiable(passes: Passes, problem: Problem, y0: Tensor, times: Tensor) -> Tensor:
    """Return the solution, with these passes for itself and for its gradient."""
    if times.requires_grad:
        raise ValueError(
            "times requires a gradient, which gradient='checkpoint' does not give. Detach it, or "
            "use gradient='adjoint' or 'direct'."
        )
    ys: Tensor = _Checkpoint.apply(passes, problem, y0, times, *problem.parameters)
    return ys


class _Checkpoint(torch.autograd.Function):
    """Parameters enter as inputs: only then do DistributedDataParallel's hooks fire."""

    @staticmethod
    def forward(
        ctx: Any,
        passes: Passes,
        problem: Problem,
        y0: Tensor,
        times: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.passes, ctx.problem, ctx.parameters = passes, problem, parameters
        ctx.autocast, ctx.shape = autocast_now(y0.device.type), y0.shape
        y0 = y0.detach()
        with autocast_as(ctx.autocast):
            ys, path = passes.forward(y0, times)
        ctx.steps, ctx.solved, ctx.kept = path.steps, path.solved, len(path.starts)
        # Saved, not kept: this notices changes made in place and frees them after backward.
        ctx.save_for_backward(*path.starts, *parameters, *path.read)
        return ys

    @staticmethod
    @differentiable_once(
        'gradient="checkpoint" is differentiable once. Take gradient="direct"; a field that knows '
        "its parts is given as a function then, lambda t, y: field(t, y)."
    )
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        refuse_several(grad_ys, 'Or take gradient="direct", through which they pass.')
        starts = ctx.saved_tensors[: ctx.kept]
        y0 = starts[0].view(-1, ctx.shape.numel())[0].view(ctx.shape)
        path = Path(ctx.steps, starts, ctx.solved)
        with autocast_as(ctx.autocast):
            grad_y0, gradients = ctx.passes.backward(
                path, y0, ctx.parameters, grad_ys.reshape(len(grad_ys), -1)
            )
        return None, None, grad_y0.view(ctx.shape), None, *gradients


@dataclass(frozen=True)
class Eager:
    """Both passes step by step, as Python goes."""

    problem: Problem

    def forward(self, y0: Tensor, times: Tensor) -> tuple[Tensor, Path]:
        """Solve without a graph."""
        problem, settings, stats = self.problem, self.problem.settings, self.problem.stats
        before = Surroundings.of(problem.source)
        field = Counted(problem.field, stats)
        stages = BufferedStages(field, TABLEAUS[settings.method], y0)
        ys, steps, starts = [y0.reshape(-1)], [], []
        norm = shared(problem.norm, settings)
        for step in accepted_steps(stages, y0, times, settings, norm, stats):
            ys += outputs_of(stages, step)
            starts.append(step.y0)
            steps.append(Taken.of(step, stages.tableau))
        solved = Solved.since(before, problem.source)
        return torch.stack([y.view(y0.shape) for y in ys]), Path(steps, starts, solved)

    def backward(
        self, path: Path, y0: Tensor, parameters: Sequence[Tensor], grad_ys: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Evaluate the steps again, from the last to the first, and go back through them."""
        starts = unstacked(path.starts, y0.numel())
        replay = _Replay(self.problem, y0, starts, parameters)
        assert path.solved is not None
        with again(path.solved, parameters):
            grad_y0 = StagedSweep(replay, replay.tableau, y0).run(path.steps, grad_ys)
        return grad_y0, replay.gradients


class _Replay(BufferedStages):
    """Stages that are evaluated again, each with a graph of its own.

    Args:
        problem: Field, settings and statistics.
        y0: Gives shape, dtype and device of the state.
        starts: State at the start of each accepted step, ``(numbers,)``.
        parameters: The parameters of the field; ``gradients`` adds up what reaches them.
    """

    def __init__(
        self, problem: Problem, y0: Tensor, starts: Sequence[Tensor], parameters: Sequence[Tensor]
    ) -> None:
        super().__init__(problem.field, TABLEAUS[problem.settings.method], y0)
        self._stats, self._starts = problem.stats, starts
        self._pulls = Pulls(problem.field, parameters)
        self.gradients = self._pulls.gradients

    def begin(self, n: int, step: Taken, count: int) -> None:
        """Evaluate the first ``count`` slopes of step ``n``."""
        y = self._starts[n]
        for i in range(count):
            stage = self.stage(i, y, step.dt) if i else y
            time = self.time(step.t + self.tableau.c[i] * step.dt)
            self._evaluate(i, time, stage.view(self._shape))

    def pull(self, i: int, kappa: Tensor) -> Tensor | None:
        """Return g_i and add what reaches the parameters."""
        return self._pulls.pull(kappa)

    def _evaluate(self, i: int, t: Tensor, y: Tensor) -> None:
        self._stats.nfe_backward += 1
        self._slopes[i].copy_(self._pulls.evaluate(t, y))
