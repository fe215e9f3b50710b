"""The continuous adjoint over any backend's solve.

With a(t) = dL/dz(t), one backward solve carries [z, a, g] by
dz/dt = f, da/dt = -aᵀ ∂f/∂z, dg/dt = -aᵀ ∂f/∂θ from [z(t1), dL/dz(t1), 0];
then dL/dz(t0) = a(t0) and dL/dθ = g(t0). Between output times it runs interval by interval.

Source: Chen et al. (2018), Section 2, Algorithm 1, Appendices B and C.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lightning_modules.solvers.base import SolverFailed, SolverSettings, SolveStats
from lightning_modules.solvers.registry import Backend, Norm, TensorField
from lightning_modules.solvers.state import Layout, check_finite, counted, rms


@dataclass(frozen=True)
class AdjointProblem:
    """One solve, and what its backward pass needs beside tensors.

    Args:
        backend: Solves forward and backward.
        field: The field f over one tensor.
        parameters: Returns the parameters of f that want a gradient, as they are now.
        settings: Method, tolerances and the norm of the backward solve.
        norm: Error norm of the state.
        stats: Filled in as the solves run.
    """

    backend: Backend
    field: TensorField
    parameters: Callable[[], tuple[Tensor, ...]]
    settings: SolverSettings
    norm: Norm
    stats: SolveStats

    def forward_settings(self) -> SolverSettings:
        """Return the settings without those that concern the adjoint."""
        return replace(
            self.settings,
            gradient="direct",
            adjoint_rtol=None,
            adjoint_atol=None,
            adjoint_norm="per_tensor",
        )

    def backward_settings(self) -> SolverSettings:
        """Return the forward settings with the adjoint's tolerances."""
        rtol, atol = self.settings.adjoint_rtol, self.settings.adjoint_atol
        return replace(
            self.forward_settings(),
            rtol=self.settings.rtol if rtol is None else rtol,
            atol=self.settings.atol if atol is None else atol,
        )


def solve_with_adjoint(problem: AdjointProblem, y0: Tensor, times: Tensor) -> Tensor:
    """Solve forward without a graph; gradients come from a backward solve.

    Args:
        problem: Field, backend and settings.
        y0: Initial state, any shape.
        times: Output times, ``(time,)``.

    Returns:
        States ``(time, *y0.shape)``, once differentiable with respect to ``y0``, ``times`` and
        the parameters. Backward keeps these states and nothing else of the forward solve.
    """
    ys: Tensor = _Adjoint.apply(problem, y0, times, *problem.parameters())
    return ys


class _Adjoint(torch.autograd.Function):
    """Parameters enter as inputs: only then do DistributedDataParallel's hooks fire."""

    @staticmethod
    def forward(
        ctx: Any, problem: AdjointProblem, y0: Tensor, times: Tensor, *parameters: Tensor
    ) -> Tensor:
        device = y0.device.type
        ctx.problem, ctx.parameters = problem, parameters
        ctx.autocast = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
            "cache_enabled": False,  # a cast cached without graph would cut gradients elsewhere
        }
        with torch.autocast(**ctx.autocast):
            ys = problem.backend.solve(
                counted(problem.field, problem.stats),
                y0,
                times,
                problem.forward_settings(),
                problem.norm,
                problem.stats,
            )
        # Saved although ctx.parameters holds them: this notices changes made in place.
        ctx.save_for_backward(ys, times, *parameters)
        return ys

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        ys, times, *_ = ctx.saved_tensors
        current = ctx.problem.parameters()
        if list(map(id, current)) != list(map(id, ctx.parameters)):
            raise RuntimeError(
                "The field's parameters were replaced, frozen or unfrozen between forward and "
                "backward; the adjoint evaluates the field again and needs them unchanged. "
                "Run backward first, or use gradient='direct'."
            )
        sweep = _Sweep(ctx.problem, ys[0].shape, ctx.parameters)
        with torch.autocast(**ctx.autocast):
            a, a_before_jump, g = sweep.run(ys, grad_ys, times)
            grad_times = None
            if ctx.needs_input_grad[2]:
                grad_times = sweep.time_gradient(ys, grad_ys, times, a_before_jump)
        grads = [part.to(p.dtype) for part, p in zip(g, ctx.parameters, strict=True)]
        return None, a, grad_times, *grads


class _Sweep:
    """One backward pass: the augmented field, its norm, and the way through the intervals."""

    def __init__(
        self, problem: AdjointProblem, shape: torch.Size, parameters: Sequence[Tensor]
    ) -> None:
        self.problem = problem
        self.parameters = parameters
        self.layout = Layout((shape, shape, *(p.shape for p in parameters)))
        self._graph_checked = False

    def run(
        self, ys: Tensor, grad_ys: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Integrate [z, a, g] from the last output time to the first.

        Returns:
            dL/dz(t0), the same before the loss's own gradient at t0 is added, and dL/dθ.
        """
        settings, counts = self.problem.backward_settings(), SolveStats()
        a = grad_ys[-1]
        g = tuple(torch.zeros_like(p, dtype=ys.dtype) for p in self.parameters)
        try:
            for i in range(len(times) - 1, 0, -1):
                start, ends = self.layout.pack([ys[i], a, *g]), times[i - 1 : i + 1].flip(0)
                solved = self.problem.backend.solve(
                    self._field, start, ends, settings, self._norm, counts
                )
                check_finite(solved, ends, settings, counts)
                # z is not carried on: the stored state is nearer to the truth.
                _, before_jump, *blocks = self.layout.unpack(solved[-1])
                a, g = before_jump + grad_ys[i - 1], tuple(blocks)
        except SolverFailed as error:
            raise _in_backward(error) from error
        finally:
            self.problem.stats.steps_accepted_backward += counts.steps_accepted
            self.problem.stats.steps_rejected_backward += counts.steps_rejected
        return a, before_jump, g

    def time_gradient(
        self, ys: Tensor, grad_ys: Tensor, times: Tensor, a_before_jump: Tensor
    ) -> Tensor:
        """Return dL/dt_i = dL/dz(t_i)·f(z(t_i), t_i), and -a(t0)·f(z(t0), t0) at the start."""
        weights = [-a_before_jump, *grad_ys[1:]]
        gradients = []
        for weight, y, t in zip(weights, ys, times, strict=True):
            self.problem.stats.nfe_backward += 1
            gradients.append((weight * self.problem.field(t, y)).sum())
        return torch.stack(gradients)

    def _field(self, t: Tensor, state: Tensor) -> Tensor:
        self.problem.stats.nfe_backward += 1
        z, a, *_ = self.layout.unpack(state)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            dz = self.problem.field(t.detach(), z)
        inputs = (z, *self.parameters)
        if not self._graph_checked:
            _refuse_strangers(dz, inputs)
            self._graph_checked = True
        vjps = _vjp(dz, inputs, -a)
        return self.layout.pack([dz.detach(), *(vjp.to(state.dtype) for vjp in vjps)])

    def _norm(self, error: Tensor) -> Tensor:
        kind = self.problem.settings.adjoint_norm
        if kind == "rms":
            return rms(error)
        z, a, *blocks = self.layout.unpack(error)
        norms = [self.problem.norm(z), self.problem.norm(a)]
        if kind == "per_tensor":
            norms += map(rms, blocks)
        return torch.stack(norms).max()


def _vjp(output: Tensor, inputs: Sequence[Tensor], vector: Tensor) -> list[Tensor]:
    """Return vectorᵀ ∂output/∂input for each input, zeros where there is no dependence."""
    if not output.requires_grad:
        return [torch.zeros_like(i) for i in inputs]
    found = torch.autograd.grad(output, inputs, vector, allow_unused=True)
    return [torch.zeros_like(i) if v is None else v for i, v in zip(inputs, found, strict=True)]


def _refuse_strangers(output: Tensor, inputs: Sequence[Tensor]) -> None:
    """Raise where ``output`` depends on a leaf that the adjoint would give no gradient."""
    known = set(map(id, inputs))
    seen: set[Any] = set()
    todo: list[Any] = [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # only leaves' AccumulateGrad nodes have one
        if isinstance(leaf, Tensor) and id(leaf) not in known:
            raise RuntimeError(
                f"The field uses a tensor of shape {tuple(leaf.shape)} that requires a gradient "
                "and is no parameter of it, so the adjoint would drop that gradient. Pass an "
                "nn.Module that owns it, make it part of the state, or use gradient='direct'."
            )
        todo.extend(parent for parent, _ in node.next_functions)


def _in_backward(error: SolverFailed) -> SolverFailed:
    return SolverFailed(
        f"The adjoint's backward solve failed: {error} Its tolerances are adjoint_rtol and "
        "adjoint_atol (unset, they follow rtol and atol). gradient='direct' has no such solve.",
        error.time,
        error.step_size,
        error.steps,
    )
