"""The exact gradient of a discrete solve from its accepted states alone.

Backward walks the accepted steps from the last to the first. For each it evaluates the stages
again, with a graph per stage, and goes back through

    Y_i = y + h Σ_j a_ij k_j,    k_i = f(t + c_i h, Y_i),    y⁺ = y + h Σ_i b_i k_i

by hand: with λ = dL/dy⁺ and g_i = (∂f/∂Y_i)ᵀ κ_i, the cotangent of a slope is
κ_i = h (b_i λ + Σ_{j>i} a_ji g_j), and dL/dy = λ + Σ_i g_i. Step sizes are constants.

Source: Hairer, Lubich, Wanner, "Geometric Numerical Integration", VI.9.3, for the adjoint of a
Runge-Kutta step; the memory of accepted states alone as in Zhuang et al. (2020), "Adaptive
checkpoint adjoint method", arXiv 2006.02493.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_modules.solvers.distributed import shared
from lightning_modules.solvers.integration import Accepted, accepted_steps, outputs_of
from lightning_modules.solvers.registry import Problem
from lightning_modules.solvers.replay import (
    autocast_now,
    check_unchanged,
    refuse_strangers,
    versions,
    vjp,
)
from lightning_modules.solvers.state import counted
from lightning_modules.solvers.stepping import BufferedStages, number
from lightning_modules.solvers.tableaus import TABLEAUS, ButcherTableau, Row


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
                steps.append(_Taken.of(step, stages.tableau))
        ctx.steps, ctx.buffers = steps, versions(problem)
        # Saved, not kept: this notices changes made in place and frees them after backward.
        ctx.save_for_backward(*starts, *parameters)
        return torch.stack([y.view(y0.shape) for y in ys])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        starts = ctx.saved_tensors[: len(ctx.steps)]
        check_unchanged(ctx.problem, ctx.parameters, ctx.buffers)
        sweep = _Sweep(ctx.problem, starts[0].view(ctx.shape), ctx.parameters)
        with torch.autocast(**ctx.autocast):
            grad_y0 = sweep.run(ctx.steps, starts, grad_ys.reshape(len(grad_ys), -1))
        return None, grad_y0.view(ctx.shape), None, *sweep.gradients


@dataclass(frozen=True)
class _Taken:
    """An accepted step without its states.

    Args:
        t: Time at its start.
        dt: Its size.
        ends: How many output times are its end: 0 or 1.
        weights: Weights of the slopes for each output time that was interpolated in it.
    """

    t: float
    dt: float
    ends: int
    weights: tuple[Row, ...]

    @staticmethod
    def of(step: Accepted, tableau: ButcherTableau) -> "_Taken":
        inside = [number(x) for x in step.fractions if x is not None]
        weights = tuple(tableau.weights_at(x) for x in inside)
        return _Taken(number(step.t), number(step.dt), len(step.fractions) - len(inside), weights)

    @property
    def outputs(self) -> int:
        """The number of output times in it."""
        return self.ends + len(self.weights)


class _Replay(BufferedStages):
    """Stages that are evaluated again, each with a graph of its own."""

    def __init__(self, problem: Problem, y0: Tensor) -> None:
        super().__init__(problem.field, TABLEAUS[problem.settings.method], y0)
        self._stats = problem.stats
        self.graphs: list[tuple[Tensor, Tensor]] = []

    def run(self, t: float, dt: float, y: Tensor, count: int) -> None:
        """Evaluate the first ``count`` slopes of a step; ``graphs`` holds (input, slope)."""
        for i in range(count):
            stage = self.stage(i, y, dt) if i else y
            self._evaluate(i, self.time(t + self.tableau.c[i] * dt), stage.view(self._shape))

    def _evaluate(self, i: int, t: Tensor, y: Tensor) -> None:
        self._stats.nfe_backward += 1
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = self._field(t, y)
        self._slopes[i].copy_(slope.detach())
        self.graphs.append((y, slope))


def _shares_of_last_slope(step: _Taken, grads: Tensor) -> list[tuple[float, Tensor]]:
    """Return what the interpolated outputs of a step pass to the slope at its end.

    That slope is the first of the next step, where it is evaluated again. The gradient of an
    output at the end itself comes last in ``grads`` and has no such share.
    """
    inside = grads[: len(step.weights)]
    return [(step.dt * w[-1], grad) for w, grad in zip(step.weights, inside, strict=True)]


class _Sweep:
    """One backward pass over the accepted steps.

    Row i of ``_g`` is g_i, and the last row is the cotangent of the state at the end of a step:
    for a method whose last stage is evaluated there (FSAL) that is the input of this stage, whose
    own g is added to what the row holds already.
    """

    def __init__(self, problem: Problem, y0: Tensor, parameters: Sequence[Tensor]) -> None:
        self._replay = _Replay(problem, y0)
        self._parameters = parameters
        rows = self._replay.tableau.inputs
        self._g = y0.new_zeros(len(rows), y0.numel())
        self._below = [self._g[i + 1 :].t() for i in range(len(rows))]
        self._weights = [
            torch.tensor([row[i] for row in rows[i + 1 :]], dtype=y0.dtype, device=y0.device)
            for i in range(len(rows))
        ]
        self._known = set(map(id, parameters))
        self._kappa = y0.new_empty(y0.numel())
        self.gradients = [torch.zeros_like(p) for p in parameters]

    def run(self, steps: list[_Taken], starts: Sequence[Tensor], grad_ys: Tensor) -> Tensor:
        """Go back through all steps.

        Args:
            steps: The accepted steps in the order they were taken.
            starts: The state at the start of each, ``(numbers,)``.
            grad_ys: Gradient of the loss by the states at the output times, ``(time, numbers)``.

        Returns:
            Its gradient by the initial state, ``(numbers,)``; ``gradients`` is filled.
        """
        grad_ys0, *after = grad_ys.split([1, *(step.outputs for step in steps)])
        for n in range(len(steps) - 1, -1, -1):
            inherited = _shares_of_last_slope(steps[n - 1], after[n - 1]) if n else []
            self._back(steps[n], starts[n], after[n], inherited, last=n == len(steps) - 1)
        return self._g[-1] + grad_ys0[0]

    def _back(
        self,
        step: _Taken,
        y: Tensor,
        grads: Tensor,
        inherited: list[tuple[float, Tensor]],
        *,
        last: bool,
    ) -> None:
        tableau, g = self._replay.tableau, self._g
        inside, ends = grads[: len(step.weights)], grads[len(step.weights) :]
        for grad in ends:
            g[-1].add_(grad)
        count = tableau.stages - (tableau.fsal and not (last and step.weights))
        self._replay.run(step.t, step.dt, y, count)
        for i in range(count - 1, -1, -1):
            shares = [(step.dt * w[i], grad) for w, grad in zip(step.weights, inside, strict=True)]
            kappa = self._cotangent(i, step.dt, shares + (inherited if i == 0 else []))
            self._pull(i, kappa)
        before = g.sum(dim=0)
        for grad in inside:
            before.add_(grad)
        g[-1].copy_(before)

    def _cotangent(self, i: int, dt: float, shares: list[tuple[float, Tensor]]) -> Tensor:
        kappa = self._kappa
        if len(self._weights[i]):
            torch.addmv(kappa, self._below[i], self._weights[i], beta=0, alpha=dt, out=kappa)
        else:
            kappa.zero_()
        for weight, grad in shares:
            kappa.add_(grad, alpha=weight)
        return kappa

    def _pull(self, i: int, kappa: Tensor) -> None:
        """Put g_i into its row and add what reaches the parameters."""
        y, slope = self._replay.graphs.pop()
        refuse_strangers(slope, y, self._known)
        pulled, *shares = vjp(slope, (y, *self._parameters), kappa.view(y.shape))
        row = self._g[i]
        if i == len(self._g) - 1:
            row.add_(0.0 if pulled is None else pulled.reshape(-1))
        elif pulled is None:
            row.zero_()
        else:
            row.view(y.shape).copy_(pulled)
        pairs = zip(self.gradients, shares, strict=True)
        reached = [(total, share) for total, share in pairs if share is not None]
        if reached:  # one call for all parameters
            torch._foreach_add_([total for total, _ in reached], [share for _, share in reached])
