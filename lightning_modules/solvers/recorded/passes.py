"""The two passes of a solve, by a plan where there is one and natively where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from lightning_modules.solvers import native_backend
from lightning_modules.solvers.base import SolverSettings, SolveStats
from lightning_modules.solvers.checkpoint import (
    Eager,
    Path,
    differentiable,
    solve_checkpointed,
)
from lightning_modules.solvers.factored import solve_factored
from lightning_modules.solvers.fields import Counted
from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.recorded.engine import Engine, Task, Walked
from lightning_modules.solvers.recorded.plans import Found, find
from lightning_modules.solvers.registry import Backend, Norm, Problem, TensorField
from lightning_modules.solvers.surroundings import Solved


def backend_of(engine: Engine) -> Backend:
    """Return the backend of an engine; it has the methods and gradients of the native one."""
    return Backend(
        name=engine.name,
        solve=partial(_solve, engine),
        methods=native_backend.methods,
        gradients=("direct", "adjoint", "checkpoint"),
        checkpointed=partial(_solve_checkpointed, engine),
        factored=solve_factored,
        absent=native_backend.BACKEND.absent,
    )


def _solve(
    engine: Engine,
    field: TensorField,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Norm,
    stats: SolveStats,
) -> Tensor:
    """Solve by a plan where no graph is recorded; arguments as in ``registry.Solve``."""
    if not torch.is_grad_enabled():
        found = find(engine, field, y0, times, settings, norm, keep=False)
        if found is not None:
            assert isinstance(field, Counted)
            walked = _walked(found, field, y0, times, settings, stats, keep=False)
            if walked is not None:
                return _with_start(y0, walked.outputs)
    return native_backend.solve(field, y0, times, settings, norm, stats)


def _solve_checkpointed(engine: Engine, problem: Problem, y0: Tensor, times: Tensor) -> Tensor:
    if torch.is_grad_enabled() and not times.requires_grad:
        counted = Counted(problem.field, problem.stats)
        found = find(engine, counted, y0, times, problem.settings, problem.norm, keep=True)
        if found is not None:
            return differentiable(Planned(problem, found), problem, y0, times)
    return solve_checkpointed(problem, y0, times)


@dataclass(frozen=True)
class Planned:
    """Both passes of a checkpointed solve by a plan.

    Args:
        problem: Field, settings and statistics.
        found: The plan.
    """

    problem: Problem
    found: Found

    def forward(self, y0: Tensor, times: Tensor) -> tuple[Tensor, Path]:
        """Solve, and make what backward will take."""
        problem, plan = self.problem, self.found.plan
        settings, stats = problem.settings, problem.stats
        counted = Counted(problem.field, stats)
        walked = _walked(self.found, counted, y0, times, settings, stats, keep=True)
        if walked is None:
            return Eager(problem).forward(y0, times)
        wanted = set(map(id, problem.parameters))
        # Those of inference mode cannot be saved, and nobody may write to them.
        read = [x for x in self.found.tensors if id(x) not in wanted and not x.is_inference()]
        solved = None
        try:
            plan.record_back(self.found.module, y0, problem.parameters, walked.steps)
        except Unrecordable as reason:
            self.found.refuse(reason)
            solved = Solved.untouched(problem.source)  # backward will go step by step
        path = Path(walked.steps, walked.starts, solved, read)
        return _with_start(y0, walked.outputs), path

    def backward(
        self, path: Path, y0: Tensor, parameters: Sequence[Tensor], grad_ys: Tensor
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Go back through the steps that were taken."""
        if path.solved is None:
            plan, stats = self.found.plan, self.problem.stats
            found = plan.back(y0, parameters, path.steps, path.starts, grad_ys, stats)
            if found:
                return found
            # The way back is gone, for want of memory.
            path = replace(path, solved=self.found.as_it_was())
        return Eager(self.problem).backward(path, y0, parameters, grad_ys)


def _walked(
    found: Found,
    field: Counted,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    stats: SolveStats,
    *,
    keep: bool,
) -> Walked | None:
    """Solve by a plan; None, and nothing counted, where it needs more than can be made."""
    task = Task(y0, times.tolist(), settings, stats, field, times)
    try:
        return found.plan.solve(task, keep)
    except Unrecordable as reason:
        found.refuse(reason)
        return None


def _with_start(y0: Tensor, outputs: Tensor) -> Tensor:
    """Return the states at all output times, ``(time, *y0.shape)``."""
    return torch.cat([y0.detach().unsqueeze(0), outputs.view(-1, *y0.shape)])
