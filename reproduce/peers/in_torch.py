"""What all libraries for torch have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from reproduce import memory
from reproduce.peers.base import Array, Counts, Peer

if TYPE_CHECKING:
    from reproduce.problems import Problem


class TorchPeer(Peer):
    """A problem in a library whose solve returns states ``(time, *state)`` with a graph.

    Args:
        problem: The problem.
    """

    hidden = False  # whether its tensors are within compiled functions, where none is seen

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._on_gpu = problem.times.is_cuda
        # Of rate 0, so that weights and with them evaluations stay; the cost is that of any rate.
        self._optimizer = torch.optim.Adam(problem.parameters(), lr=0.0, fused=True)
        with torch.no_grad():
            self._y0 = problem.start().clone()

    @abstractmethod
    def solve(self, field: nn.Module, y0: Tensor, times: Tensor, tolerance: float) -> Tensor:
        """Return the states at ``times``, ``(time, *state)``."""

    def forward(self, tolerance: float) -> Tensor:
        """Solve without a graph."""
        with torch.no_grad():
            ys = self.solve(self.problem.field, self._y0, self.problem.times, tolerance)
        self._wait()
        return ys

    def step(self, tolerance: float) -> Tensor:
        """Solve, take loss and gradient, and update where the problem is a training."""
        return self._step(lambda: self._loss(tolerance))

    def _step(self, loss_of: Callable[[], Tensor]) -> Tensor:
        self._optimizer.zero_grad()
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        if self.problem.updates:
            self._optimizer.step()
        self._wait()
        return loss

    def _loss(self, tolerance: float) -> Tensor:
        found: Tensor = self.problem(lambda f, y0, times: self.solve(f, y0, times, tolerance))
        return found

    def evaluate(self, times: int) -> None:
        """Evaluate the field so often at the start."""
        self._evaluate(times)
        self._wait()

    def states(self, tolerance: float) -> Array:
        """Return the states at the output times."""
        found: Array = self.forward(tolerance).double().cpu().numpy()
        return found

    def gradient(self, tolerance: float) -> Array:
        """Return the gradient by all parameters in their order; zeros where there is none."""
        self.step(tolerance)
        parts = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self.problem.parameters()
        ]
        found: Array = torch.cat([part.ravel() for part in parts]).double().cpu().numpy()
        return found

    def counts(self, tolerance: float) -> Counts:
        """Count the calls of the field: six a step beside the two for the size of the first."""
        calls: list[int] = []
        hook = self.problem.field.register_forward_pre_hook(lambda *_: calls.append(1))
        try:
            loss = self._loss(tolerance)
            forward = len(calls)
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        finally:
            hook.remove()
        return Counts((forward - 2) / 6, None, forward, len(calls) - forward)

    def memory(self, tolerance: float) -> float | None:
        """Return the peak of the tensors that are alive at once in a step, in MiB, if seen."""
        if self.hidden:
            return None
        return memory.peak(lambda: self.step(tolerance), self.problem.times.device)

    def _evaluate(self, times: int) -> None:
        t, y, field = self.problem.times[0], self._y0, self.problem.field
        with torch.no_grad():
            for _ in range(times):
                field(t, y)

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
