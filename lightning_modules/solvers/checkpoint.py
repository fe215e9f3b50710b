"""The exact gradient of a discrete solve from its accepted states alone.

Backward walks the accepted steps from the last to the first, evaluates the stages of each again,
with a graph per stage, and goes back through them.

Source: the memory of accepted states alone as in Zhuang et al. (2020), "Adaptive checkpoint
adjoint method", arXiv 2006.02493.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_modules.solvers.distributed import shared
from lightning_modules.solvers.integration import accepted_steps, outputs_of
from lightning_modules.solvers.registry import Problem
from lightning_modules.solvers.replay import (
    autocast_now,
    check_unchanged,
    refuse_strangers,
    versions,
    vjp,
)
from lightning_modules.solvers.state import counted
from lightning_modules.solvers.stepping import BufferedStages
from lightning_modules.solvers.sweep import Sweep, Taken
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
    if times.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "times requires a gradient, which gradient='checkpoint' does not give. Detach it, or "
            "use gradient='adjoint' or 'direct'."
        )
    if not torch.is_grad_enabled():  # nothing will be replayed, so nothing is kept
        field, settings = counted(problem.field, problem.stats), problem.settings
        norm = shared(problem.norm, settings)
        return problem.backend.solve(field, y0, times, settings, norm, problem.stats)
    ys: Tensor = _Checkpoint.apply(problem, y0, times, *problem.parameters())
    return ys


class _Checkpoint(torch.autograd.Function):
    """Parameters enter as inputs: only then do DistributedDataParallel's hooks fire."""

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, y0: Tensor, times: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.problem, ctx.parameters, ctx.shape = problem, parameters, y0.shape
        ctx.autocast = autocast_now(y0.device.type)
        y0 = y0.detach()
        field, settings, stats = problem.field, problem.settings, problem.stats
        stages = BufferedStages(counted(field, stats), TABLEAUS[settings.method], y0)
        ys, steps, starts = [y0.reshape(-1)], [], []
        with torch.autocast(**ctx.autocast):
            norm = shared(problem.norm, settings)
            for step in accepted_steps(stages, y0, times, settings, norm, stats):
                ys += outputs_of(stages, step)
                starts.append(step.y0)
                steps.append(Taken.of(step, stages.tableau))
        ctx.steps, ctx.buffers = steps, versions(problem)
        # Saved, not kept: this notices changes made in place and frees them after backward.
        ctx.save_for_backward(*starts, *parameters)
        return torch.stack([y.view(y0.shape) for y in ys])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        starts = ctx.saved_tensors[: len(ctx.steps)]
        check_unchanged(ctx.problem, ctx.parameters, ctx.buffers)
        y0 = starts[0].view(ctx.shape)
        replay = _Replay(ctx.problem, y0, starts, ctx.parameters)
        sweep = Sweep(replay, replay.tableau, y0)
        with torch.autocast(**ctx.autocast):
            grad_y0 = sweep.run(ctx.steps, grad_ys.reshape(len(grad_ys), -1))
        return None, grad_y0.view(ctx.shape), None, *replay.gradients


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
        self._stats, self._starts, self._parameters = problem.stats, starts, parameters
        self._known = set(map(id, parameters))
        self._graphs: list[tuple[Tensor, Tensor]] = []
        self.gradients = [torch.zeros_like(p) for p in parameters]

    def begin(self, n: int, step: Taken, count: int) -> None:
        """Evaluate the first ``count`` slopes of step ``n``."""
        y = self._starts[n]
        for i in range(count):
            stage = self.stage(i, y, step.dt) if i else y
            time = self.time(step.t + self.tableau.c[i] * step.dt)
            self._evaluate(i, time, stage.view(self._shape))

    def pull(self, i: int, kappa: Tensor) -> Tensor | None:
        """Return g_i and add what reaches the parameters."""
        y, slope = self._graphs.pop()
        refuse_strangers(slope, y, self._known)
        pulled, *shares = vjp(slope, (y, *self._parameters), kappa.view(y.shape))
        pairs = zip(self.gradients, shares, strict=True)
        reached = [(total, share) for total, share in pairs if share is not None]
        if reached:  # one call for all parameters
            torch._foreach_add_([total for total, _ in reached], [share for _, share in reached])
        return pulled

    def _evaluate(self, i: int, t: Tensor, y: Tensor) -> None:
        self._stats.nfe_backward += 1
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = self._field(t, y)
        self._slopes[i].copy_(slope.detach())
        self._graphs.append((y, slope))
