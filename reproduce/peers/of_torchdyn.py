"""TorchDyn."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import Tensor, nn

from reproduce.peers.base import Skip
from reproduce.peers.in_torch import TorchPeer

if TYPE_CHECKING:
    from reproduce.problems import Problem


class Torchdyn(TorchPeer):
    """Its functional `odeint`, or `ODEProblem` with the adjoint; both land on output times.

    Args:
        problem: The problem.
        gradient: ``direct`` or ``adjoint``.

    Raises:
        Skip: If TorchDyn is not installed.
    """

    def __init__(self, problem: Problem, gradient: str) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torchdyn.core import ODEProblem
                from torchdyn.numerics import odeint
                from torchdyn.numerics.solvers.ode import DormandPrince45
        except ImportError as error:
            raise Skip(f"TorchDyn is not there ({error}). pip install torchdyn") from error
        super().__init__(problem)
        self._adjoint = gradient == "adjoint"
        self._odeint, self._problem = odeint, ODEProblem
        self._method = DormandPrince45(dtype=problem.times.dtype)

    def solve(self, field: nn.Module, y0: Tensor, times: Tensor, tolerance: float) -> Tensor:
        """Return the states at ``times``."""
        tolerances = {"atol": tolerance, "rtol": tolerance}
        found: Tensor
        if self._adjoint:
            backward = {"atol_adjoint": tolerance, "rtol_adjoint": tolerance}
            solver = self._problem(
                field, self._method, sensitivity="adjoint", **tolerances, **backward
            )
            _, found = solver.odeint(y0, times)
        else:
            _, found = self._odeint(field, y0, times, self._method, **tolerances)
        return found
