"""What normalizing flows have in common, and the continuous one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, find_backend, odeint


class Flow(nn.Module, ABC):
    """A bijection between base and data space whose change of volume is known.

    Points are ``(members, dim, points)``, coordinates first: products then run along the points.
    Members are flows of the same kind side by side, which share nothing.

    Args:
        dim: Dimension of the points.
        members: Number of flows.
    """

    def __init__(self, dim: int, members: int) -> None:
        super().__init__()
        self.dim, self.members = dim, members

    @abstractmethod
    def push(self, z: Tensor, part: float = 1.0) -> tuple[Tensor, Tensor]:
        """Map base to data, or as far as ``part`` of the way.

        Args:
            z: Base points, ``(members, dim, points)``.
            part: From above 0 to 1: of the time, or of the layers, rounded.

        Returns:
            The points x and log|det dx/dz|, ``(members, points)``.
        """

    @abstractmethod
    def pull(self, x: Tensor, part: float = 1.0) -> tuple[Tensor, Tensor]:
        """Map data to base, or back from ``part`` of the way; the inverse of ``push``.

        Args:
            x: Points, ``(members, dim, points)``.
            part: As in ``push``.

        Returns:
            The base points z and log|det dz/dx|, ``(members, points)``.
        """

    def check(self, points: Tensor, part: float = 1.0) -> None:
        """Raise ValueError unless ``points`` fits this flow and ``part`` is one."""
        if not 0 < part <= 1:
            raise ValueError(f"part is {part}; give a number above 0, at most 1.")
        if points.ndim != 3 or points.shape[:2] != (self.members, self.dim):
            raise ValueError(
                f"The points are {tuple(points.shape)}; this flow takes ({self.members}, "
                f"{self.dim}, points): members, coordinates, points."
            )


class ContinuousFlow(Flow):
    """The solution of dz/dt = f(t, z) from t = 0, the base, to t = T, the data (Section 4).

    The state carries log|det| of the map in a further row, d log|det|/dt = tr ∂f/∂z (Theorem 1,
    whose log-density falls by as much).

    Args:
        field: Called as ``field(t, y)`` with ``y`` of shape ``(members, dim + 1, points)``: the
            coordinates, then log|det|; returns their derivatives. A field with a method
            ``begin(y)`` is told before each solve.
        dim: Dimension of the points.
        members: Number of flows in the field.
        horizon: T.
        solver: How the equation is solved. Members share the steps of the worst of them.
    """

    def __init__(
        self, field: nn.Module, dim: int, members: int, horizon: float, solver: SolverSettings
    ) -> None:
        super().__init__(dim, members)
        if not 0 < horizon < math.inf:
            raise ValueError(f"horizon is {horizon}; give a finite time above 0.")
        self._measures = find_backend(solver).norm is None
        self.field, self.horizon, self.solver = field, horizon, solver

    def push(self, z: Tensor, part: float = 1.0) -> tuple[Tensor, Tensor]:
        """Solve from t = 0 to that part of T."""
        self.check(z, part)
        return self._last(z, (0.0, part * self.horizon))

    def pull(self, x: Tensor, part: float = 1.0) -> tuple[Tensor, Tensor]:
        """Solve from that part of T to t = 0."""
        self.check(x, part)
        return self._last(x, (part * self.horizon, 0.0))

    def path(self, points: Tensor, times: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Solve from the first of ``times`` through all others.

        Args:
            points: Points at the first time, ``(members, dim, points)``.
            times: Monotone times from 0, the base, to T, the data.

        Returns:
            Points ``(time, members, dim, points)`` and log|det| of the map from the first time,
            ``(time, members, points)``.
        """
        self.check(points)
        y0 = torch.cat([points, torch.zeros_like(points[:, :1])], dim=1)
        begin = getattr(self.field, "begin", None)
        if begin is not None:
            begin(y0)
        norm = self.worst_member if self._measures else None
        ys = odeint(self.field, y0, points.new_tensor(times), self.solver, norm).ys
        return ys[:, :, : self.dim], ys[:, :, self.dim]

    def worst_member(self, error: Tensor) -> Tensor:
        """Return the largest RMS of any member's coordinates or log|det|, torchdiffeq's norm."""
        squares = error.view(self.members, self.dim + 1, -1).detach().square().mean(dim=-1)
        coordinates, volume = squares[:, : self.dim].mean(dim=1), squares[:, self.dim]
        return torch.maximum(coordinates, volume).max().sqrt()

    def _last(self, points: Tensor, times: tuple[float, float]) -> tuple[Tensor, Tensor]:
        path, volume = self.path(points, times)
        return path[-1], volume[-1]
