"""The continuous adjoint over any backend's solve.

With a(t) = dL/dz(t), one backward solve carries [z, a, g] by
dz/dt = f, da/dt = -aᵀ ∂f/∂z, dg/dt = -aᵀ ∂f/∂θ from [z(t1), dL/dz(t1), 0];
then dL/dz(t0) = a(t0) and dL/dθ = g(t0). Between output times it runs interval by interval.

Source: Chen et al. (2018), Section 2, Algorithm 1, Appendices B and C.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_modules.solvers.augmented import Augmented
from lightning_modules.solvers.base import SolverFailed, SolverSettings, SolveStats
from lightning_modules.solvers.distributed import shared
from lightning_modules.solvers.fields import Counted
from lightning_modules.solvers.once import differentiable_once, refuse_several
from lightning_modules.solvers.registry import Problem
from lightning_modules.solvers.replay import autocast_as, autocast_now
from lightning_modules.solvers.state import check_finite
from lightning_modules.solvers.surroundings import Solved, Surroundings, again


def solve_with_adjoint(problem: Problem, y0: Tensor, times: Tensor) -> Tensor:
    """Solve forward without a graph; gradients come from a backward solve.

    Args:
        problem: Field, backend and settings.
        y0: Initial state, any shape.
        times: Output times, ``(time,)``.

    Returns:
        States ``(time, *y0.shape)``, once differentiable with respect to ``y0``, ``times`` and
        the parameters. Backward keeps these states and nothing else of the forward solve.
    """
    if not torch.is_grad_enabled():
        return _forward(problem, y0, times)
    parameters = problem.parameters
    if any(p.is_complex() for p in parameters):
        raise ValueError(
            "A parameter of the field is complex; the adjoint carries real numbers and would lose "
            "its imaginary part. Use gradient='checkpoint' or 'direct'."
        )
    ys: Tensor = _Adjoint.apply(problem, y0, times, *parameters)
    return ys


def _forward(problem: Problem, y0: Tensor, times: Tensor) -> Tensor:
    settings, stats = problem.settings, problem.stats
    field, norm = Counted(problem.field, stats), shared(problem.norm, settings)
    return problem.backend.solve(field, y0, times, _forward_settings(settings), norm, stats)


class _Adjoint(torch.autograd.Function):
    """Parameters enter as inputs: only then do DistributedDataParallel's hooks fire."""

    @staticmethod
    def forward(
        ctx: Any, problem: Problem, y0: Tensor, times: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.problem, ctx.parameters = problem, parameters
        ctx.autocast = autocast_now(y0.device.type)
        before = Surroundings.of(problem.source)
        with autocast_as(ctx.autocast):
            ys = _forward(problem, y0.detach(), times)
        ctx.solved = Solved.since(before, problem.source)
        # Saved although ctx.parameters holds them: this notices changes made in place.
        ctx.save_for_backward(ys, times, *parameters)
        return ys

    @staticmethod
    @differentiable_once(
        'gradient="adjoint" is differentiable once. Take gradient="direct", with another backend '
        "than scipy; a field that knows its parts is given as a function then, "
        "lambda t, y: field(t, y)."
    )
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        refuse_several(grad_ys, 'Or take gradient="direct", through which they pass.')
        ys, times, *_ = ctx.saved_tensors
        sweep = _Sweep(ctx.problem, ys[0].shape, ctx.parameters)
        with again(ctx.solved, ctx.parameters), autocast_as(ctx.autocast):
            a, a_before_jump, g = sweep.run(ys, grad_ys, times)
            grad_times = None
            if ctx.needs_input_grad[2]:
                grad_times = sweep.time_gradient(ys, grad_ys, times, a_before_jump)
        grads = [part.to(p.dtype) for part, p in zip(g, ctx.parameters, strict=True)]
        return None, a, grad_times, *grads


class _Sweep:
    """One backward pass: the way through the intervals."""

    def __init__(self, problem: Problem, shape: torch.Size, parameters: Sequence[Tensor]) -> None:
        self._problem = problem
        self._parameters = parameters
        kind = problem.settings.adjoint_norm
        self._field = Augmented(problem.field, problem.norm, kind, shape, parameters)

    def run(
        self, ys: Tensor, grad_ys: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Integrate [z, a, g] from the last output time to the first.

        Returns:
            dL/dz(t0), the same before the loss's own gradient at t0 is added, and dL/dθ.
        """
        settings, counts = _backward_settings(self._problem.settings), SolveStats()
        layout, norm = self._field.layout, shared(self._field.norm, settings)
        field = Counted(self._field, self._problem.stats, "nfe_backward")
        a = grad_ys[-1]
        g = tuple(torch.zeros_like(p, dtype=ys.dtype) for p in self._parameters)
        try:
            for i in range(len(times) - 1, 0, -1):
                start, ends = layout.pack([ys[i], a, *g]), times[i - 1 : i + 1].flip(0)
                solved = self._problem.backend.solve(field, start, ends, settings, norm, counts)
                check_finite(solved, ends, settings, counts)
                # z is not carried on: the stored state is nearer to the truth.
                _, before_jump, *blocks = layout.unpack(solved[-1])
                a, g = before_jump + grad_ys[i - 1], tuple(blocks)
        except SolverFailed as error:
            raise _in_backward(error) from error
        finally:
            self._problem.stats.steps_accepted_backward += counts.steps_accepted
            self._problem.stats.steps_rejected_backward += counts.steps_rejected
        return a, before_jump, g

    def time_gradient(
        self, ys: Tensor, grad_ys: Tensor, times: Tensor, a_before_jump: Tensor
    ) -> Tensor:
        """Return dL/dt_i = dL/dz(t_i)·f(z(t_i), t_i), and -a(t0)·f(z(t0), t0) at the start."""
        weights = [-a_before_jump, *grad_ys[1:]]
        gradients = []
        for weight, y, t in zip(weights, ys, times, strict=True):
            self._problem.stats.nfe_backward += 1
            gradients.append((weight * self._problem.field(t, y)).sum())
        return torch.stack(gradients)


def _forward_settings(settings: SolverSettings) -> SolverSettings:
    """Return the settings without those that concern the adjoint."""
    return replace(
        settings,
        gradient="direct",
        adjoint_rtol=None,
        adjoint_atol=None,
        adjoint_norm="per_tensor",
    )


def _backward_settings(settings: SolverSettings) -> SolverSettings:
    """Return the forward settings with the adjoint's tolerances."""
    rtol, atol = settings.adjoint_rtol, settings.adjoint_atol
    return replace(
        _forward_settings(settings),
        rtol=settings.rtol if rtol is None else rtol,
        atol=settings.atol if atol is None else atol,
    )


def _in_backward(error: SolverFailed) -> SolverFailed:
    return type(error)(
        f"The adjoint's backward solve failed: {error} Its tolerances are adjoint_rtol and "
        "adjoint_atol (unset, they follow rtol and atol). gradient='direct' has no such solve.",
        error.time,
        error.step_size,
        error.steps,
    )
