"""torchdiffeq, the paper's authors' library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from reproduce.peers.base import MAX_STEPS, Skip
from reproduce.peers.in_torch import TorchPeer

if TYPE_CHECKING:
    from reproduce.problems import Problem


class Torchdiffeq(TorchPeer):
    """`odeint`, or `odeint_adjoint` with its default norm.

    Args:
        problem: The problem.
        gradient: ``direct``, ``adjoint``, or ``compiled``: direct, the field by `torch.compile`.

    Raises:
        Skip: If torchdiffeq is not installed.
    """

    def __init__(self, problem: Problem, gradient: str) -> None:
        try:
            import torchdiffeq
        except ImportError as error:
            raise Skip(f"torchdiffeq is not there ({error}). pip install torchdiffeq") from error
        super().__init__(problem)
        adjoint = gradient == "adjoint"
        self.hidden = gradient == "compiled"
        if self.hidden:
            problem.field.compile()
        self._odeint = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint

    def solve(self, field: nn.Module, y0: Tensor, times: Tensor, tolerance: float) -> Tensor:
        """Return the states at ``times``."""
        found: Tensor = self._odeint(
            field,
            y0,
            times,
            rtol=tolerance,
            atol=tolerance,
            method="dopri5",
            options={"max_num_steps": MAX_STEPS},
        )
        return found
