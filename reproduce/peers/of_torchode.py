"""torchode, which steps every sample by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reproduce.peers.base import MAX_STEPS, Counts, Skip
from reproduce.peers.in_torch import TorchPeer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from reproduce.problems import Problem


def load() -> Any:
    """Import torchode.

    Raises:
        Skip: If it is not installed.
    """
    try:
        import torchode
    except ImportError as error:
        raise Skip(f"torchode is not there ({error}). pip install torchode") from error
    return torchode


class Torchode(TorchPeer):
    """dopri5 with the integral controller, as the others have it.

    Args:
        problem: The problem.
        gradient: ``direct`` takes the whole batch as one sample, ``adjoint`` solves it back so;
            ``each`` solves every sample apart and differentiates directly; ``compiled`` is
            ``direct`` with the solver by `torch.compile`, as its documentation has it.

    Raises:
        Skip: If torchode is not installed or the field takes no time of each sample.
    """

    def __init__(self, problem: Problem, gradient: str) -> None:
        self._torchode = load()
        if gradient == "each" and not problem.each:
            raise Skip("the field takes one time for the whole batch")
        super().__init__(problem)
        self._kind = gradient
        self.fused = self.hidden = gradient == "compiled"
        self._stats: dict[str, Any] = {}
        self._controller: Any = None
        self._compiled: Any = None

    def solve(self, field: nn.Module, y0: Tensor, times: Tensor, tolerance: float) -> Tensor:
        """Return the states at ``times``."""
        library, shape = self._torchode, y0.shape
        samples = len(y0) if self._kind == "each" else 1
        if self._compiled is None:
            solve = self._solver(_on_rows(field, shape, samples), tolerance).solve
            if self._kind == "compiled":
                import torch

                solve = self._compiled = torch.compile(solve)
        else:
            solve = self._compiled
            for name in ("atol", "rtol"):  # buffers, so that nothing is compiled anew
                getattr(self._controller, name).fill_(tolerance)
        ask = times.expand(samples, -1) if len(times) > 2 else None
        problem = library.InitialValueProblem(
            y0=y0.reshape(samples, -1),
            t_start=times[0].expand(samples),
            t_end=times[-1].expand(samples),
            t_eval=ask,
        )
        solution = solve(problem)
        if bool((solution.status != 0).any()):
            raise RuntimeError(f"torchode stopped with status {int(solution.status.max())}.")
        self._stats = solution.stats
        ys = solution.ys.transpose(0, 1).reshape(-1, *shape)
        if ask is not None:
            return ys
        import torch

        return torch.cat([y0.unsqueeze(0), ys])

    def _solver(self, field: nn.Module, tolerance: float) -> Any:
        library = self._torchode
        term = library.ODETerm(field)
        controller = library.IntegralController(atol=tolerance, rtol=tolerance, term=term)
        self._controller = controller
        method = library.Dopri5(term=term)
        if self._kind == "adjoint":
            # Its parameters are those of the module that it is given.
            return library.JointBacksolveAdjoint(term, method, controller)
        return library.AutoDiffAdjoint(
            method, controller, max_steps=MAX_STEPS, backprop_through_step_size_control=False
        )

    def counts(self, tolerance: float) -> Counts:
        """Return what the solution says of its steps, and count evaluations.

        Of what is compiled nothing is counted, which would compile it anew.
        """
        if self._kind == "compiled":
            self.forward(tolerance)
            taken = float(self._stats["n_steps"].max())
            counted = Counts(taken, None, 2 + 6 * taken, None)
        else:
            counted = super().counts(tolerance)
        steps, accepted = self._stats["n_steps"], self._stats["n_accepted"]
        most = int(steps.argmax())
        rejected = float(steps[most] - accepted[most])
        return Counts(float(steps[most]), rejected, counted.nfe_forward, counted.nfe_backward)


def _on_rows(field: nn.Module, shape: Any, samples: int) -> nn.Module:
    """Return the field on states ``(samples, numbers)`` and times ``(samples,)``."""
    from torch import nn

    class OnRows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            at = t[0] if samples == 1 else t.view(samples, *[1] * (len(shape) - 1))
            out: Tensor = self.field(at, y.reshape(shape)).reshape(samples, -1)
            return out

    return OnRows()


def torchode_steps(
    field: Callable[[Tensor, Tensor], Tensor], y0: Tensor, tolerance: float
) -> Tensor:
    """Solve from t = 0 to 1 with torchode's dopri5, which steps every sample by itself.

    Args:
        field: Called with times ``(batch, 1, …)``, one for each sample, and states like ``y0``.
        y0: Initial states, ``(batch, *features)``.
        tolerance: Both tolerances.

    Returns:
        The steps of each sample, accepted and rejected, ``(batch,)``.

    Raises:
        Skip: If torchode is not installed.
    """
    torchode = load()
    batch, features = len(y0), y0.shape[1:]
    of_each = (batch, *[1] * len(features))

    def flat(t: Tensor, y: Tensor) -> Tensor:
        return field(t.view(of_each), y.view(batch, *features)).flatten(1)

    term = torchode.ODETerm(flat)
    controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), controller)
    start, end = y0.new_zeros(batch), y0.new_ones(batch)
    problem = torchode.InitialValueProblem(y0=y0.flatten(1), t_start=start, t_end=end)
    steps: Tensor = solver.solve(problem).stats["n_steps"]
    return steps
