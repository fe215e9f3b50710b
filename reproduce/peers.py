"""Other libraries behind one signature; a library that is not there is a reason to skip a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Skip(RuntimeError):
    """A row that cannot be measured here, and why."""


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
    try:
        import torchode
    except ImportError as error:
        raise Skip(f"torchode is not there ({error}). pip install torchode") from error

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
