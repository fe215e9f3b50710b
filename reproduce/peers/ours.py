"""The suite's own solver core."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from lightning_modules.solvers import SolverSettings, collect_stats, is_factored, odeint
from reproduce.peers.base import MAX_STEPS, Counts, Skip
from reproduce.peers.in_torch import TorchPeer
from reproduce.precision import allow_tf32
from reproduce.timing import timed

if TYPE_CHECKING:
    from lightning_modules.solvers.base import Gradient
    from reproduce.problems import Problem


PROFILED = 20  # most steps of which shares are told
PATIENCE = 1.0  # seconds after which no further step begins
COMPILED = "## Call CompiledFxGraph"  # what a profile calls them


class Ours(TorchPeer):
    """The native methods.

    Args:
        problem: The problem.
        gradient: ``direct``, ``checkpoint`` or ``adjoint``.
        backend: ``native``, or what takes its steps.
    """

    def __init__(self, problem: Problem, gradient: Gradient, backend: str = "native") -> None:
        super().__init__(problem)
        # Made once, as a module makes its own.
        self._settings = cache(partial(_settings, gradient, backend))
        self.fused = gradient == "direct" and is_factored(problem.field)
        # A field that is solved natively after all is a failed row, not the native backend's time.
        warnings.filterwarnings("error", message=".* is solved step by step")

    def solve(self, field: nn.Module, y0: Tensor, times: Tensor, tolerance: float) -> Tensor:
        """Return the states at ``times``."""
        return odeint(field, y0, times, self._settings(tolerance)).ys

    def counts(self, tolerance: float) -> Counts:
        """Return what the solve says of itself: factored fields are not called as modules."""
        with collect_stats() as solves:
            self.step(tolerance)
        (stats,) = solves
        return Counts(stats.steps, stats.steps_rejected, stats.nfe_forward, stats.nfe_backward)


def _settings(gradient: Gradient, backend: str, tolerance: float) -> SolverSettings:
    return SolverSettings(
        backend,
        "dopri5",
        rtol=tolerance,
        atol=tolerance,
        max_steps=MAX_STEPS,
        gradient=gradient,
    )


class Unfactored(Ours):
    """Direct gradients of a field that is called like any other, although its parts are known.

    Args:
        problem: The problem.

    Raises:
        Skip: If its field has no known parts: then it is ``direct``.
    """

    def __init__(self, problem: Problem) -> None:
        if not is_factored(problem.field):
            raise Skip("the field has no parts that are known: this is direct")
        super().__init__(problem, "direct")
        self.fused = False

    def solve(self, field: nn.Module, y0: Tensor, times: Tensor, tolerance: float) -> Tensor:
        """Return the states at ``times``."""
        return super().solve(_Called(field), y0, times, tolerance)


class _Called(nn.Module):
    """A field of which nothing is known."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.field(t, y)
        return out


class Compiled(Ours):
    """Solves that are compiled for the CPU.

    Args:
        problem: The problem.

    Raises:
        Skip: If it is on a GPU.
    """

    def __init__(self, problem: Problem) -> None:
        if problem.times.is_cuda:
            raise Skip("it compiles for CPUs")
        super().__init__(problem, "checkpoint", "compiled")
        self.fused = self.hidden = True

    def shares(self, tolerance: float) -> dict[str, float]:
        """Return parts of a step's time.

        ``compiled_share`` is spent in compiled functions; ``bare_share`` is what a step takes
        whose solve and its way back cost nothing: loss, autograd and update. The rest is Python
        around the solve.
        """
        ys = self.forward(tolerance)
        bare = _seconds(lambda: self._step(lambda: self.problem(partial(_free, ys))))
        step = _seconds(lambda: self.step(tolerance))
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            profiled = sum(_repeated(lambda: self.step(tolerance)))
        inside = [e for e in seen.key_averages() if e.key.startswith(COMPILED)]
        compiled = sum(event.cpu_time_total for event in inside) / 1e6
        return {"compiled_share": compiled / profiled, "bare_share": bare / step}


class Captured(Ours):
    """Solves that are recorded as CUDA graphs.

    Args:
        problem: The problem.
        tf32: Whether products are rounded to TF32.

    Raises:
        Skip: If there is no GPU.
    """

    def __init__(self, problem: Problem, *, tf32: bool) -> None:
        if not problem.times.is_cuda:
            raise Skip("it records CUDA graphs, and this is a CPU")
        super().__init__(problem, "checkpoint", "captured")
        if tf32:  # in this process, which is its own
            allow_tf32(True)
        self._recorded: dict[int, torch.cuda.CUDAGraph] = {}

    def memory(self, tolerance: float) -> None:
        """Return nothing: what a graph computes with is its own all the time, and not counted."""

    def _evaluate(self, times: int) -> None:
        """Replay them as one graph, as the solve does."""
        if times not in self._recorded:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                super()._evaluate(2)  # libraries choose their kernels
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                super()._evaluate(times)
            self._recorded[times] = graph
        self._recorded[times].replay()


class _Free(torch.autograd.Function):
    """A solution that is known, and gradients of zero."""

    @staticmethod
    def forward(ctx: Any, ys: Tensor, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return ys.clone()

    @staticmethod
    def backward(ctx: Any, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return None, *(torch.zeros_like(x) if needed else None for x, needed in wanted)


def _free(ys: Tensor, field: nn.Module, y0: Tensor, times: Tensor) -> Tensor:
    found: Tensor = _Free.apply(ys, y0, *field.parameters())
    return found


def _seconds(call: Callable[[], object]) -> float:
    """Return the median time of a call."""
    return statistics.median(_repeated(call))


def _repeated(call: Callable[[], object]) -> list[float]:
    """Return the times of some calls, fewer where one takes long."""
    found = [timed(call)[1]]
    while len(found) < PROFILED and sum(found) < PATIENCE:
        found.append(timed(call)[1])
    return found
