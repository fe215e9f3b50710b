"""One path of three bodies joined by springs, observed with noise (the deck's first question)."""

import math
from collections.abc import Sequence
from functools import cached_property

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules._drawing import (
    OneBatch,
    StepLoader,
    generator,
    seed_or_that_of_the_run,
    share_of_rank,
)
from datamodules.dynamics import System, springs

POSITIONS = 6  # numbers of an observation: x and y of three bodies
LEAST = 5  # observations: 18 numbers need three, and accelerations differences of five


class SpringObservations(pl.LightningDataModule):
    """Noisy positions of three bodies joined by springs, on a span of one path.

    A training batch is ``(times, x, seen)``: the times of all observations, equally spaced from
    0, ``(time,)``; the observed positions (x₁, y₁, x₂, y₂, x₃, y₃), ``(time, 6)``; which of them
    the update learns from, increasing, ``(points,)``. The test batch, with all of them seen, goes
    on with ``at``, ``grid`` equally spaced times from 0 to the end of the future, ``(grid,)``,
    and the noise-free truth there, ``(grid, 6)``. All are in float64, but ``seen``. Nothing
    validates.

    The bodies begin at the corners of the triangle of the rest lengths, each moved by normal
    noise, turning as a whole and each with a normal velocity of its own; their centre of mass is
    at rest in the origin. A longer path can be learned from its beginning onwards: the first
    updates see the ``first`` observations, later ones twice as many and so on, until all are seen
    after ``growth`` updates. Everything depends on seed and step alone.

    Args:
        stiffness: Stiffnesses of the springs 1-2, 1-3 and 2-3; masses are 1.
        rest_lengths: Rest lengths of the same.
        displacement: Standard deviation of what moves each coordinate of a corner.
        speed: Standard deviation of each coordinate of a velocity.
        turning: Angular velocity of the whole, radians a unit of time.
        span: Time from the first observation to the last one.
        observations: How many there are.
        noise: Standard deviation of the noise of each coordinate.
        future: Time behind the last observation that predictions are tested on.
        grid: Times of the test.
        first: Observations of the first updates.
        growth: Updates after which all are seen; 0 shows them from the beginning.
        batch_size: Observations of an update over all devices, drawn from those seen; all of
            those where there are no more.
        steps: Updates of an epoch.
        data_seed: Seed; None is that of ``seed_everything``, else 0.

    Raises:
        ValueError: If any of them cannot be.
    """

    def __init__(
        self,
        stiffness: Sequence[float] = (4.0, 2.0, 3.0),
        rest_lengths: Sequence[float] = (1.0, 1.2, 1.1),
        displacement: float = 0.1,
        speed: float = 0.2,
        turning: float = 0.8,
        span: float = 10.0,
        observations: int = 80,
        noise: float = 0.02,
        future: float = 30.0,
        grid: int = 801,
        first: int = 8,
        growth: int = 0,
        batch_size: int = 80,
        steps: int = 100,
        data_seed: int | None = None,
    ) -> None:
        super().__init__()
        self.stiffness, self.rest_lengths = tuple(stiffness), tuple(rest_lengths)
        self.system: System = springs(self.stiffness, self.rest_lengths)
        for name, length in {"span": span, "future": future, "noise": noise}.items():
            if not 0 < length < math.inf:
                raise ValueError(f"{name} is {length}; give a finite number above 0.")
        moved = {"displacement": displacement, "speed": speed, "turning": turning}
        for name, size in moved.items():
            if not 0 <= size < math.inf:
                raise ValueError(f"{name} is {size}; give a finite number of at least 0.")
        if observations < LEAST:
            raise ValueError(
                f"observations is {observations}; give at least {LEAST}: 18 numbers are to be "
                "found, and the first guess of them takes differences of five."
            )
        given = {"grid": grid, "first": first, "batch_size": batch_size, "steps": steps}
        for name, count in {**given, "growth": growth}.items():
            least = {"grid": 2, "growth": 0}.get(name, 1)
            if count < least:
                raise ValueError(f"{name} is {count}; give at least {least}.")
        for name in ("first", "batch_size"):
            if given[name] > observations:
                raise ValueError(
                    f"{name} is {given[name]}, but there are {observations} observations. Lower "
                    "it or raise observations."
                )
        self.displacement, self.speed, self.turning = displacement, speed, turning
        self.span, self.observations, self.noise = span, observations, noise
        self.future, self.grid, self.first, self.growth = future, grid, first, growth
        self.batch_size, self.steps, self.data_seed = batch_size, steps, data_seed

    @property
    def times(self) -> Tensor:
        """The times of the observations, ``(time,)``."""
        return torch.linspace(0, self.span, self.observations, dtype=torch.float64)

    @property
    def at(self) -> Tensor:
        """The times of the test, ``(grid,)``."""
        return torch.linspace(0, self.span + self.future, self.grid, dtype=torch.float64)

    @cached_property
    def start(self) -> Tensor:
        """The true initial state, positions and velocities, ``(12,)``."""
        draw = generator(self._seed(), "start")
        corners = torch.tensor(self.system.start[:POSITIONS], dtype=torch.float64).view(3, 2)
        moved, pushed = (torch.randn(3, 2, generator=draw, dtype=torch.float64) for _ in "xv")
        x = corners + self.displacement * moved
        x = x - x.mean(dim=0)
        v = self.speed * pushed
        v = v - v.mean(dim=0) + self.turning * torch.stack([-x[:, 1], x[:, 0]], dim=1)
        return torch.cat([x.flatten(), v.flatten()])

    def true_positions(self, times: Tensor) -> Tensor:
        """Return the true positions at times, strictly increasing from 0 or later, ``(time, 6)``.

        Raises:
            ValueError: If the times are not that.
        """
        if not bool((times >= 0).all()):
            raise ValueError("The path begins at 0. Ask for times of at least 0.")
        times = times.double()
        if float(times[0]) > 0:
            return self.true_positions(torch.cat([times.new_zeros(1), times]))[1:]
        return self.system.reference(times, self.start)[:, :POSITIONS]

    @cached_property
    def truth(self) -> Tensor:
        """The true positions at the times of the test, ``(grid, 6)``."""
        return self.true_positions(self.at)

    @cached_property
    def observed(self) -> Tensor:
        """The noisy positions, ``(time, 6)``."""
        true = self.true_positions(self.times)
        draw = generator(self._seed(), "noise")
        return true + self.noise * torch.randn(true.shape, generator=draw, dtype=torch.float64)

    def seen(self, step: int) -> int:
        """Return how many observations, from the first on, an update may learn from."""
        if step >= self.growth:
            return self.observations
        parts = -(-self.observations // self.first)
        return min(self.first * (1 + step * parts // self.growth), self.observations)

    def train_dataloader(self) -> StepLoader:
        """Return this rank's share of every batch.

        Raises:
            ValueError: If the devices cannot share every batch equally.
        """
        seed = seed_or_that_of_the_run(self.data_seed)
        counts = {min(self.batch_size, self.seen(step)) for step in range(self.growth + 1)}
        shares = {n: share_of_rank(self.trainer, n, "observations") for n in counts}
        times, x = self.times, self.observed

        def draw(step: int) -> tuple[Tensor, ...]:
            count = self.seen(step)
            order = torch.randperm(count, generator=generator(seed, f"train/{step}"))
            size = min(self.batch_size, count)
            return times, x, order[:size][shares[size]].sort().values

        return StepLoader(self.steps, draw)

    def test_dataloader(self) -> OneBatch:
        """Return observations and truth as one batch."""
        seen = torch.arange(self.observations)
        return OneBatch((self.times, self.observed, seen, self.at, self.truth))

    def _seed(self) -> int:
        return seed_or_that_of_the_run(self.data_seed)
