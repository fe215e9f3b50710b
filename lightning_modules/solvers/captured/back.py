"""The vector-Jacobian product of one step, recorded, and replayed over all steps."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lightning_modules.solvers.base import SolveStats
from lightning_modules.solvers.captured.recording import Recorder, Work
from lightning_modules.solvers.captured.stages import DeviceStages
from lightning_modules.solvers.captured.walk import on_host
from lightning_modules.solvers.registry import TensorField
from lightning_modules.solvers.replay import Pulls
from lightning_modules.solvers.sweep import StagedSweep, Taken, stages_back
from lightning_modules.solvers.tableaus import TABLEAUS

Kind = tuple[int, bool]
"""How many stages of a step are pulled back, and whether outputs pass something to its slopes."""


class _Replay(DeviceStages):
    """The stages of one step, each with a graph of its own; it begins at the static ``y``."""

    def __init__(
        self, field: TensorField, method: str, y0: Tensor, parameters: Sequence[Tensor]
    ) -> None:
        super().__init__(field, TABLEAUS[method], y0)
        self.y = torch.zeros_like(y0.reshape(-1))
        self.pulls = Pulls(field, parameters)

    def begin(self, n: int, step: Taken, count: int) -> None:
        """Evaluate the first ``count`` slopes."""
        self.aim(cast(Tensor, step.t), cast(Tensor, step.dt))
        for i in range(count):
            self.evaluate_stage(i, self.stage(i, self.y, step.dt) if i else self.y)

    def pull(self, i: int, kappa: Tensor) -> Tensor | None:
        """Return g_i and add what reaches the parameters."""
        return self.pulls.pull(kappa)

    def _evaluate(self, i: int, t: Tensor, y: Tensor) -> None:
        self._slopes[i].copy_(self.pulls.evaluate(t, y))


class RecordedSweep(StagedSweep):
    """A backward pass over the accepted steps that replays one piece of work for each.

    Args:
        field: The field over one tensor, its evaluations not counted.
        method: Name of the method.
        y0: Gives shape, dtype and device of the state.
        parameters: The parameters of the field.
    """

    def __init__(
        self, field: TensorField, method: str, y0: Tensor, parameters: Sequence[Tensor]
    ) -> None:
        self._replay = _Replay(field, method, y0, parameters)
        super().__init__(self._replay, self._replay.tableau, y0)
        self._clock = torch.zeros(2, dtype=torch.float64, device=y0.device)
        self._received = y0.new_zeros(self._tableau.stages, y0.numel())
        self._works: dict[Kind, Work] = {}
        self._starts: Sequence[Tensor] = ()
        self._clocks: Sequence[Tensor] = ()
        self._stats = SolveStats()

    def record(
        self, recorder: Recorder, module: nn.Module, steps: Sequence[Taken], start: Tensor
    ) -> None:
        """Record what a backward pass over these steps will replay.

        Here and not in that pass, which autograd runs in a thread of its own.

        Args:
            recorder: Records it.
            module: The field.
            steps: The accepted steps.
            start: A state at which to rehearse, ``(numbers,)``.
        """
        for kind in self._kinds(steps) - self._works.keys():
            self._replay.y.copy_(start)
            self._clock.copy_(self._clocks_of(steps[:1])[0])
            self._works[kind] = recorder.record(self._work(kind), module)

    def back(
        self,
        steps: Sequence[Taken],
        starts: Sequence[Tensor],
        grad_ys: Tensor,
        stats: SolveStats,
    ) -> tuple[Tensor, list[Tensor]]:
        """Go back through all steps.

        Args:
            steps: The accepted steps in the order they were taken.
            starts: States at their starts, ``(numbers,)`` each.
            grad_ys: Gradient of the loss by the states at the output times, ``(time, numbers)``.
            stats: Evaluations are counted here.

        Returns:
            The gradients by the initial state, ``(numbers,)``, and by the parameters, in memory
            of their own.
        """
        totals = self._replay.pulls.gradients
        self._g.zero_()
        if totals:
            torch._foreach_zero_(totals)
        self._starts = starts
        self._clocks = self._clocks_of(steps)
        self._stats = stats
        try:
            return self.run(steps, grad_ys), [total.clone() for total in totals]
        finally:
            self._starts, self._clocks = (), ()  # until the next pass they would only take room

    def _clocks_of(self, steps: Sequence[Taken]) -> tuple[Tensor, ...]:
        """Return start and size of each step, on the device."""
        device = self._clock.device
        clocks = on_host([(step.t, step.dt) for step in steps], torch.float64, device)
        return clocks.to(device, non_blocking=True).unbind()

    def _kinds(self, steps: Sequence[Taken]) -> set[Kind]:
        found: set[Kind] = set()
        for n, step in enumerate(steps):
            count = stages_back(self._tableau, step, last=n == len(steps) - 1)
            found.add((count, bool(step.inside or (n and steps[n - 1].inside))))
        return found

    def _work(self, kind: Kind) -> Work:
        count, receives = kind
        through = super()._through

        def work() -> None:
            t, dt = self._clock.unbind()
            through(0, Taken(t, dt, 0, None), count, self._received if receives else None, None)

        return work

    def _through(
        self,
        n: int,
        step: Taken,
        count: int,
        shares: Tensor | None,
        inherited: Tensor | None,
    ) -> None:
        """Bring a step to the device and replay."""
        receives = shares is not None or inherited is not None
        if receives:
            self._received.zero_()
        if shares is not None:
            self._received.copy_(shares)
        if inherited is not None:
            self._received[0].add_(inherited)
        self._replay.y.copy_(self._starts[n])
        self._clock.copy_(self._clocks[n])
        self._works[count, receives]()
        self._stats.nfe_backward += count
