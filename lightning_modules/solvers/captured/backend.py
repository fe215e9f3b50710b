"""The backend ``captured``: what ``native`` does, recorded once and replayed.

Step for step it is the native backend: the same methods, accepted and rejected steps, evaluations
and gradients, up to rounding. It records

- forward solves without a graph: evaluation, and those of ``gradient="adjoint"`` and
  ``"checkpoint"``;
- the backward pass of ``"checkpoint"``, the vector-Jacobian product of one step;
- the backward solve of ``"adjoint"``, a solve as any other.

``gradient="direct"`` records a graph of autograd and so runs as it does natively. So does every
solve on a device that records nothing, the CPU, and one whose field is no ``nn.Module``, waits for
the device, draws random numbers, decides by the values of tensors, writes to its buffers, or has
hooks; that is found out before it is recorded. Forgotten are recordings with their field.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.solvers import native_backend
from lightning_modules.solvers.base import SolverSettings, SolveStats
from lightning_modules.solvers.captured.plans import Found, find
from lightning_modules.solvers.checkpoint import (
    Eager,
    Path,
    differentiable,
    solve_checkpointed,
)
from lightning_modules.solvers.factored import solve_factored
from lightning_modules.solvers.fields import Counted
from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.registry import Backend, Norm, Problem, TensorField


def solve(
    field: TensorField,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Norm,
    stats: SolveStats,
) -> Tensor:
    """Solve by replaying where no graph is recorded; arguments as in ``registry.Solve``."""
    if not torch.is_grad_enabled():
        found = find(field, y0, times, settings, norm, keep=False)
        if found is not None:
            assert isinstance(field, Counted)
            walked = found.plan.solve(field, y0, times, settings, stats)
            return _with_start(y0, walked.outputs)
    return native_backend.solve(field, y0, times, settings, norm, stats)


def _solve_checkpointed(problem: Problem, y0: Tensor, times: Tensor) -> Tensor:
    if torch.is_grad_enabled() and not times.requires_grad:
        counted = Counted(problem.field, problem.stats)
        found = find(counted, y0, times, problem.settings, problem.norm, keep=True)
        if found is not None:
            return differentiable(Recorded(problem, found), problem, y0, times)
    return solve_checkpointed(problem, y0, times)


@dataclass(frozen=True)
class Recorded:
    """Both passes of a checkpointed solve by replaying.

    Args:
        problem: Field, settings and statistics.
        found: The recording.
    """

    problem: Problem
    found: Found

    def forward(self, y0: Tensor, times: Tensor) -> tuple[Tensor, Path]:
        """Solve, and record what backward will replay."""
        problem, plan = self.problem, self.found.plan
        counted = Counted(problem.field, problem.stats)
        walked = plan.solve(counted, y0, times, problem.settings, problem.stats)
        try:
            plan.record_back(self.found.module, y0, problem.parameters(), walked.steps)
        except Unrecordable as reason:
            self.found.refuse(reason)
        return _with_start(y0, walked.outputs), Path(walked.steps, walked.starts)

    def backward(
        self, path: Path, y0: Tensor, parameters: Sequence[Tensor], grad_ys: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Go back through the steps that were taken."""
        plan, stats = self.found.plan, self.problem.stats
        replayed = plan.back(y0, path.steps, path.starts, grad_ys, stats)
        return replayed or Eager(self.problem).backward(path, y0, parameters, grad_ys)


def _with_start(y0: Tensor, outputs: Tensor) -> Tensor:
    """Return the states at all output times, ``(time, *y0.shape)``."""
    return torch.cat([y0.detach().unsqueeze(0), outputs.view(-1, *y0.shape)])


BACKEND = Backend(
    name="captured",
    solve=solve,
    methods=native_backend.methods,
    gradients=("direct", "adjoint", "checkpoint"),
    checkpointed=_solve_checkpointed,
    factored=solve_factored,
    absent=native_backend.BACKEND.absent,
)
