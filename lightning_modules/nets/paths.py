"""Paths of three bodies as functions of time: by their springs, by a learned field, by neither.

All three return positions at any times and begin with what the observations of a path suggest.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_modules.nets.spring_field import PAIRS, POSITIONS, SpringField
from lightning_modules.nets.tanh_field import TanhField
from lightning_modules.solvers import SolverSettings, odeint

APART = 2  # observations between those whose second differences are taken: one is too noisy
HALF = 5.0  # of the observed span as the network of time sees it: several waves fit into it


class SolvedPath(nn.Module):
    """The positions of the path that a field takes from a learned initial state.

    The initial state is a guess from the observations plus ``shift``, which is learned.

    Args:
        field: The field, of states ``(…, 12)``: positions, then velocities or what takes their
            place.
        solver: How the equation is solved.
    """

    guess: Tensor
    origin: Tensor

    def __init__(self, field: nn.Module, solver: SolverSettings) -> None:
        super().__init__()
        self.field, self.solver = field, solver
        self.register_buffer("guess", torch.zeros(2 * POSITIONS))
        self.register_buffer("origin", torch.zeros(()))
        self.shift = nn.Parameter(torch.zeros(2 * POSITIONS))

    @property
    def start(self) -> Tensor:
        """The initial state, ``(12,)``."""
        return self.guess + self.shift

    def begin(self, times: Tensor, x: Tensor) -> None:
        """Guess the initial state: first positions, and velocities by their first difference.

        Args:
            times: Times of the observations, strictly increasing, ``(time,)``.
            x: Observed positions, ``(time, 6)``.
        """
        velocity = (x[1] - x[0]) / (times[1] - times[0])
        self.guess.copy_(torch.cat([x[0], velocity]))
        self.origin.copy_(times[0])

    def forward(self, times: Tensor, solver: SolverSettings | None = None) -> Tensor:
        """Return the positions at times, ``(time, 6)``.

        Args:
            times: Strictly increasing, none before the first observation, ``(time,)``.
            solver: How the equation is solved; None is as in training.

        Raises:
            ValueError: If a time lies before the first observation.
            SolverFailed: If the path cannot be followed to the last time.
        """
        if bool(times[0] < self.origin):
            raise ValueError(
                f"The path begins at {float(self.origin):g}, before which {float(times[0]):g} "
                "lies. Ask for later times."
            )
        later = times[times > self.origin]
        start = self.start.unsqueeze(0)  # one state of a batch
        ys = start
        if len(later):
            at = torch.cat([self.origin.view(1), later])
            ys = odeint(self.field, start, at, solver or self.solver).ys[:, 0]
        return ys[len(ys) - len(times) :, :POSITIONS]


class SpringPath(SolvedPath):
    """Three bodies joined by springs: 18 numbers, initial state, stiffnesses and rest lengths.

    Args:
        solver: How the equation is solved.
    """

    field: SpringField

    def __init__(self, solver: SolverSettings) -> None:
        super().__init__(SpringField(torch.ones(len(PAIRS)), torch.ones(len(PAIRS))), solver)

    @property
    def numbers(self) -> Tensor:
        """Initial positions, initial velocities, stiffnesses and rest lengths, ``(18,)``."""
        return torch.cat([self.start, self.field.stiffness, self.field.rest_lengths])

    def begin(self, times: Tensor, x: Tensor) -> None:
        """Guess all numbers: rest lengths by mean distances, and one stiffness for all springs.

        That stiffness is the one whose forces, with these rest lengths, are nearest to the second
        differences of the positions.
        """
        super().begin(times, x)
        field = self.field
        field.rest_guess.copy_(field.distances(x).mean(dim=0))
        unit = field.accelerations(torch.ones_like(field.rest_guess), field.rest_guess, x)
        before, now, after = x[: -2 * APART], x[APART:-APART], x[2 * APART :]
        gaps = (times[2 * APART :] - times[: -2 * APART]).unsqueeze(1) / 2
        found, unit = (after - 2 * now + before) / gaps**2, unit[APART:-APART]
        common = (found * unit).sum() / unit.square().sum()
        field.stiffness_guess.fill_(float(common.clamp_min(1e-3)))


class FieldPath(SolvedPath):
    """A Neural ODE: 12 numbers of state, whose first six are the positions; the field is learned.

    Args:
        units: Units of the field's hidden layer.
        solver: How the equation is solved.
    """

    def __init__(self, units: int, solver: SolverSettings) -> None:
        super().__init__(TanhField(2 * POSITIONS, units, 1, "glorot"), solver)


class TimePath(nn.Module):
    """An ordinary network: from time to positions, by hidden layers of tanh.

    It sees the observed span as [-5, 5].

    Args:
        units: Units of each hidden layer.
        layers: Hidden layers.
    """

    centre: Tensor
    unit: Tensor

    def __init__(self, units: int, layers: int) -> None:
        super().__init__()
        sizes = pairwise([1, *[units] * layers, POSITIONS])
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in sizes)
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))

    def begin(self, times: Tensor, x: Tensor) -> None:
        """Take the unit of time from the span of the observations."""
        self.centre.copy_((times[0] + times[-1]) / 2)
        self.unit.copy_((times[-1] - times[0]) / (2 * HALF))

    def forward(self, times: Tensor, solver: SolverSettings | None = None) -> Tensor:
        """Return the positions at any times, ``(time, 6)``; there is nothing to solve."""
        y = ((times - self.centre) / self.unit).unsqueeze(1)
        *hidden, last = self.layers
        for layer in hidden:
            y = torch.tanh(layer(y))
        out: Tensor = last(y)
        return out
