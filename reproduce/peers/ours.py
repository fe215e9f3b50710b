"""The suite's own solver core."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, collect_stats, odeint
from reproduce.peers.base import MAX_STEPS, Counts
from reproduce.peers.in_torch import TorchPeer

if TYPE_CHECKING:
    from lightning_modules.solvers.base import Gradient
    from reproduce.problems import Problem


class Ours(TorchPeer):
    """The native methods.

    Args:
        problem: The problem.
        gradient: ``direct``, ``checkpoint`` or ``adjoint``.
        backend: ``native``, or ``compiled`` with ``checkpoint``.
    """

    def __init__(self, problem: Problem, gradient: Gradient, backend: str = "native") -> None:
        super().__init__(problem)
        self._gradient, self._backend = gradient, backend
        # A field that is not compiled after all is a failed row, not the native backend's time.
        warnings.filterwarnings("error", message=".* is solved step by step")

    def solve(self, field: nn.Module, y0: Tensor, times: Tensor, tolerance: float) -> Tensor:
        """Return the states at ``times``."""
        settings = SolverSettings(
            self._backend,
            "dopri5",
            rtol=tolerance,
            atol=tolerance,
            max_steps=MAX_STEPS,
            gradient=self._gradient,
        )
        return odeint(field, y0, times, settings).ys

    def memory(self, tolerance: float) -> float | None:
        """Return the peak of a step's tensors; none is seen of those within compiled functions."""
        return None if self._backend == "compiled" else super().memory(tolerance)

    def counts(self, tolerance: float) -> Counts:
        """Return what the solve says of itself: factored fields are not called as modules."""
        with collect_stats() as solves:
            self.step(tolerance)
        (stats,) = solves
        return Counts(stats.steps, stats.steps_rejected, stats.nfe_forward, stats.nfe_backward)
