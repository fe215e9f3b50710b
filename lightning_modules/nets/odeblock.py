"""A layer whose output is the solution of a differential equation."""

import torch
from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, find_backend, odeint


class OdeBlock(nn.Module):
    """Carries its input from t = 0 to t = 1 along a field (Eq. 2).

    Args:
        field: Called as ``field(t, y)``; its parameters are trained.
        solver: How the equation is solved and how gradients are taken.

    Raises:
        ValueError: If no backend offers these settings.
    """

    times: Tensor

    def __init__(self, field: nn.Module, solver: SolverSettings) -> None:
        super().__init__()
        find_backend(solver)  # an unknown method is refused now, not in the first batch
        self.field = field
        self.solver = solver
        # Not persistent: the weights of the public example have no such entry.
        self.register_buffer("times", torch.tensor([0.0, 1.0]), persistent=False)

    def forward(self, y0: Tensor) -> Tensor:
        """Return the state at t = 1, shaped like ``y0``."""
        return odeint(self.field, y0, self.times, self.solver).ys[-1]
