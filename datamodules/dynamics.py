"""Known systems, solved by SciPy far more exactly than by any solver under test, and windows."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules._drawing import (
    OneBatch,
    StepLoader,
    generator,
    seed_or_that_of_the_run,
    share_of_rank,
)

Array = NDArray[np.float64]
TOLERANCE = 1e-13  # of the reference, absolute and relative: near what float64 can hold


class NoSolution(RuntimeError):
    """A system has no solution at some of the times asked for.

    Args:
        message: Which system, and from where to where it goes.
        time: Time that the reference reached.
    """

    def __init__(self, message: str, time: float) -> None:
        super().__init__(message)
        self.time = time


@dataclass(frozen=True)
class System:
    """A system dy/dt = f(t, y) whose solution is known to about twelve digits.

    Args:
        name: What a data module calls it.
        field: Returns f at a time for states ``(…, dim)``, shaped alike.
        start: Default initial state, ``(dim,)``.
    """

    name: str
    field: Callable[[float, Array], Array]
    start: tuple[float, ...]

    def reference(self, times: Tensor, y0: Tensor | None = None) -> Tensor:
        """Return the solution at given times, by DOP853 with both tolerances at 1e-13.

        Args:
            times: Strictly monotone, in either direction, ``(time,)``; the first is that of y0.
            y0: Initial state, ``(dim,)``; None is ``start``.

        Returns:
            ``(time, dim)`` in float64.

        Raises:
            ValueError: If times or state do not fit.
            NoSolution: If the solution ends before the last time; carries where.
        """
        from scipy.integrate import solve_ivp

        ticks, state = self._checked(times, y0)
        options: dict[str, Any] = {"method": "DOP853", "rtol": TOLERANCE, "atol": TOLERANCE}
        with np.errstate(over="ignore", invalid="ignore"):
            found = solve_ivp(
                self.field, (ticks[0], ticks[-1]), state, dense_output=True, **options
            )
        if not found.success:
            reached = float(found.t[-1])
            raise NoSolution(
                f"{self.name} from {state.tolist()} at t = {ticks[0]:g} has no solution at "
                f"t = {ticks[-1]:g}: it ends at about {reached:.6g}. Ask for times before that.",
                reached,
            )
        return torch.from_numpy(found.sol(ticks).T.copy())

    def slopes(self, t: float, y: Tensor) -> Tensor:
        """Return f at one time for states ``(…, dim)``, in float64."""
        return torch.from_numpy(self.field(t, y.detach().cpu().double().numpy()))

    def _checked(self, times: Tensor, y0: Tensor | None) -> tuple[Array, Array]:
        ticks = times.detach().cpu().double().numpy()
        steps = np.diff(ticks) if ticks.ndim == 1 else np.empty(0)
        one_way = bool((steps > 0).all()) or bool((steps < 0).all())
        if not steps.size or not one_way or not bool(np.isfinite(ticks).all()):
            raise ValueError(
                f"The times are {tuple(times.shape)}; give at least two finite ones, strictly "
                "increasing or strictly decreasing, (time,)."
            )
        given = torch.tensor(self.start, dtype=torch.float64) if y0 is None else y0
        state = given.detach().cpu().double().numpy()
        if state.shape != (len(self.start),) or not bool(np.isfinite(state).all()):
            raise ValueError(
                f"The initial state is {state.tolist()}; {self.name} takes {len(self.start)} "
                "finite numbers."
            )
        return ticks, state


_TURN = np.array([[-0.1, 2.0], [-2.0, -0.1]])


def _spiral(t: float, y: Array) -> Array:
    slopes: Array = y**3 @ _TURN
    return slopes


# dy/dt = y³ A with row vectors, each number by itself to the third: it winds inwards, ever slower.
# Source: rtqichen/torchdiffeq, examples/ode_demo.py.
SPIRAL = System("spiral", _spiral, (2.0, 0.0))
SYSTEMS = {system.name: system for system in (SPIRAL,)}


def springs(stiffness: Sequence[float], rest_lengths: Sequence[float]) -> System:
    """Return three bodies of mass 1 in the plane, each pair joined by a spring (Hooke's law).

    A state is the positions (x₁, y₁, x₂, y₂, x₃, y₃), then the velocities in the same order. A
    spring of stiffness k and rest length l between bodies r apart pulls both by k (r - l) along
    the line between them. Energy, momentum and angular momentum are conserved. The default
    initial state is at rest: the triangle of the rest lengths around the origin.

    Args:
        stiffness: k of the springs 1-2, 1-3 and 2-3.
        rest_lengths: l of the same.

    Raises:
        ValueError: If they are not three positive numbers each, or the lengths make no triangle.
    """
    for name, values in (("stiffness", stiffness), ("rest_lengths", rest_lengths)):
        if len(values) != 3 or not all(0 < value < math.inf for value in values):
            raise ValueError(
                f"{name} is {list(values)}; give three finite numbers above 0, for the springs "
                "1-2, 1-3 and 2-3."
            )
    first, second, third = rest_lengths
    if 2 * max(rest_lengths) >= sum(rest_lengths):
        raise ValueError(
            f"rest_lengths is {list(rest_lengths)}, which are the sides of no triangle. Give "
            "three of which none is as long as the other two together."
        )
    along = (first**2 + second**2 - third**2) / (2 * first)
    corners = np.array([[0.0, 0.0], [first, 0.0], [along, math.sqrt(second**2 - along**2)]])
    corners -= corners.mean(axis=0)
    joined = list(zip(((0, 1), (0, 2), (1, 2)), stiffness, rest_lengths, strict=True))

    def field(t: float, y: Array) -> Array:
        x = y[..., :6].reshape(*y.shape[:-1], 3, 2)
        slopes = np.zeros_like(x)
        for (i, j), k, rest in joined:
            apart = x[..., j, :] - x[..., i, :]
            length = np.sqrt(np.square(apart).sum(axis=-1, keepdims=True))
            pulled = k * (length - rest) * apart / length
            slopes[..., i, :] += pulled
            slopes[..., j, :] -= pulled
        return np.concatenate([y[..., 6:], slopes.reshape(*y.shape[:-1], 6)], axis=-1)

    return System("springs", field, (*corners.ravel().tolist(), *[0.0] * 6))


def find_system(name: str) -> System:
    """Return the system of a name.

    Raises:
        ValueError: If there is none.
    """
    if name not in SYSTEMS:
        raise ValueError(f"Unknown system {name!r}. Choose one of {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]


class Windows(pl.LightningDataModule):
    """Short windows of one path of a known system, to learn its field from.

    A training batch is ``(times, path)``: the times of a window from 0, ``(points,)``, the same
    for all since the field does not depend on time; the states, ``(windows, points, dim)``. The
    test batch is the whole path as a single window, ``(grid,)`` and ``(1, grid, dim)``. All are
    in float64. Nothing validates.

    The path begins at the system's ``start`` and is the reference at ``grid`` equally spaced
    times. The windows of an update begin at different points, which depend on seed and step alone.

    Args:
        system: Which system.
        span: Length of the path, in the system's unit of time.
        grid: Points of the path.
        points: Consecutive points of a window.
        late: By how many points the last state of a training window is later on the path than its
            time says: 0 is right, 1 is the deck's slip, which teaches a field that is
            points / (points - 1) times too fast.
        batch_size: Windows of an update over all devices, which get equal shares.
        steps: Updates of an epoch.
        data_seed: Seed; None is that of ``seed_everything``, else 0.

    Raises:
        ValueError: If sizes do not fit together.
    """

    def __init__(
        self,
        system: str = "spiral",
        span: float = 25.0,
        grid: int = 1000,
        points: int = 10,
        late: int = 0,
        batch_size: int = 20,
        steps: int = 100,
        data_seed: int | None = None,
    ) -> None:
        super().__init__()
        self.system = find_system(system)
        if not 0 < span < float("inf"):
            raise ValueError(f"span is {span}; give a finite length of time above 0.")
        least = {"points": 2, "late": 0, "batch_size": 1, "steps": 1}
        given = {"points": points, "late": late, "batch_size": batch_size, "steps": steps}
        for name, value in given.items():
            if value < least[name]:
                raise ValueError(f"{name} is {value}; give at least {least[name]}.")
        starts = grid - (points - 1) - late
        if starts < batch_size:
            raise ValueError(
                f"batch_size is {batch_size}, but windows of {points} of {grid} points"
                f"{f', {late} late,' if late else ''} begin at {max(starts, 0)} different ones. "
                "Lower batch_size or points, or raise grid."
            )
        self.span, self.grid, self.points, self.late = span, grid, points, late
        self.batch_size, self.steps, self.data_seed = batch_size, steps, data_seed
        self._starts = starts

    @property
    def times(self) -> Tensor:
        """The times of the whole path, ``(grid,)``."""
        return torch.linspace(0, self.span, self.grid, dtype=torch.float64)

    @cached_property
    def path(self) -> Tensor:
        """The whole path, ``(grid, dim)``."""
        return self.system.reference(self.times)

    def train_dataloader(self) -> StepLoader:
        """Return this rank's share of every batch.

        Raises:
            ValueError: If the devices cannot share a batch equally.
        """
        share = share_of_rank(self.trainer, self.batch_size, "windows")
        seed = seed_or_that_of_the_run(self.data_seed)
        ahead = torch.arange(self.points)
        ahead[-1] += self.late
        times = self.times[: self.points]

        def draw(step: int) -> tuple[Tensor, Tensor]:
            order = torch.randperm(self._starts, generator=generator(seed, f"train/{step}"))
            first = order[: self.batch_size][share]
            return times, self.path[first.unsqueeze(1) + ahead]

        return StepLoader(self.steps, draw)

    def test_dataloader(self) -> OneBatch:
        """Return the whole path as one batch."""
        return OneBatch((self.times, self.path.unsqueeze(0)))
