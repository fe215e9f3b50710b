"""Spirals of both directions, observed with noise at times of their own (Table 2)."""

import math
from typing import Literal, get_args

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

Shape = Literal["inward", "example", "example_reversed"]
SPACING = 6 * math.pi / 499  # radians between two points of the authors' example
OUTER = 6 * math.pi  # the example's curves, in radians: they end here,
INNER = 100 * SPACING  # and its trajectories start here
GROWTH = 0.3  # radius over angle


class Spirals(pl.LightningDataModule):
    """Two-dimensional spirals, half of them clockwise, each with a start of its own.

    A training batch is ``(times, seen, x)``: ``times`` are the ``grid`` equally spaced times of
    the observed span, from 0, ``(time,)``; ``seen`` says which ``points`` of them each trajectory
    was observed at, increasing, ``(series, points)``; ``x`` are the observations with noise,
    ``(series, points, 2)``. Validation and test batches go on with ``at``, the grid and the
    ``future`` times behind it, ``(grid + future,)``; the truth without noise at those,
    ``(series, grid + future, 2)``; and whether each turns clockwise, ``(series,)``.

    What the paper leaves open, as it is here:

    - ``inward``: r = 0.3 θ with θ between 6 π and 1.2 π, winding inwards as in Figure 8; every
      other one is mirrored, so that nothing but the direction tells the two kinds apart.
    - ``example``: the authors' later code. One kind r = 0.3 θ around (5, 0), the other r = 15/θ,
      turning the other way around (-5, 0), both outwards.
    - ``example_reversed``: the same run backwards, so that both wind inwards.
    - Starts are uniform over what leaves the observed span on the curve, as in that code (there
      they are whole numbers of points); for validation and test, also the future. Without
      ``wide_starts``, the future also for training, and then some futures in the test lie where
      no trajectory was observed.
    - Positions are multiplied by ``scale``; then noise is added. Time is the angle in radians.

    Everything depends on the seed alone: training, validation and test trajectories, the points
    drawn from each, and the order in which they train.

    Args:
        shape: Which curves.
        points: Observed points n of each trajectory, drawn without replacement.
        grid: Times of the observed span.
        future: Times behind it, at which predictions are tested.
        spacing: Time between two of them, in radians of the curve.
        noise: Standard deviation of the noise, in the unit of the positions.
        scale: Factor of the positions.
        wide_starts: Where training trajectories may start, see above.
        train_size: Trajectories to train with.
        test_size: Trajectories to test with, and as many others to validate with.
        batch_size: Trajectories of an update over all devices, which get equal shares.
        steps: Updates of an epoch.
        data_seed: Seed; None is that of ``seed_everything``, else 0.

    Raises:
        ValueError: If sizes do not fit together.
    """

    def __init__(
        self,
        shape: Shape = "inward",
        points: int = 30,
        grid: int = 100,
        future: int = 100,
        spacing: float = SPACING,
        noise: float = 0.1,
        scale: float = 0.3,
        wide_starts: bool = True,
        train_size: int = 1000,
        test_size: int = 500,
        batch_size: int = 1000,
        steps: int = 100,
        data_seed: int | None = None,
    ) -> None:
        super().__init__()
        if shape not in get_args(Shape):
            raise ValueError(
                f"Unknown shape {shape!r}. Choose one of {', '.join(get_args(Shape))}."
            )
        sizes = {"points": points, "grid": grid, "future": future, "train_size": train_size}
        sizes |= {"test_size": test_size, "batch_size": batch_size, "steps": steps}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; give at least 1.")
        if points > grid:
            raise ValueError(
                f"points is {points}, but there are only {grid} times to draw them from. Lower "
                "points or raise grid."
            )
        if batch_size > train_size:
            raise ValueError(
                f"batch_size is {batch_size}, but there are only {train_size} trajectories. Lower "
                "it or raise train_size."
            )
        if not 0 <= noise < math.inf or not 0 < scale < math.inf or not 0 < spacing < math.inf:
            raise ValueError(
                f"noise is {noise}, scale {scale}, spacing {spacing}; give a finite noise of at "
                "least 0, and a finite scale and spacing above 0."
            )
        if (grid + future - 1) * spacing > OUTER - INNER:
            raise ValueError(
                f"{grid} + {future} times of {spacing:g} radians leave the spiral, which has "
                f"{OUTER - INNER:.4g}. Lower grid, future or spacing."
            )
        self.shape, self.points, self.grid, self.future = shape, points, grid, future
        self.spacing, self.noise, self.scale = spacing, noise, scale
        self.wide_starts = wide_starts
        self.train_size, self.test_size = train_size, test_size
        self.batch_size, self.steps, self.data_seed = batch_size, steps, data_seed

    @property
    def times(self) -> Tensor:
        """The times of the observed span, then those behind it, ``(grid + future,)``."""
        return torch.arange(self.grid + self.future) * self.spacing

    def trajectories(self, purpose: str, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw trajectories.

        Args:
            purpose: ``train``, or ``val`` or ``test`` or any other word: others have others.
            count: How many.

        Returns:
            ``seen``, ``x``, the truth and the directions, as the class says. What trains has its
            truth at the times of the grid alone.
        """
        draw = generator(self._seed(), purpose)
        clockwise = torch.randperm(count, generator=draw) % 2 == 0
        training = purpose == "train"
        times = self.times[: self.grid] if training else self.times
        length = times[-1] if training and self.wide_starts else self.times[-1]
        starts = torch.rand(count, 1, generator=draw) * (OUTER - INNER - length)
        truth = self.curve(starts + times, clockwise.unsqueeze(1))
        order = torch.rand(count, self.grid, generator=draw).argsort(dim=1)
        seen = order[:, : self.points].sort(dim=1).values
        observed = truth[torch.arange(count).unsqueeze(1), seen]
        x = observed + self.noise * torch.randn(observed.shape, generator=draw)
        return seen, x, truth, clockwise

    def curve(self, gone: Tensor, clockwise: Tensor) -> Tensor:
        """Return positions without noise.

        Args:
            gone: How far along the curve they lie, in radians: from the outer end where it winds
                inwards, from the inner end where it winds outwards, ``(series, time)``.
            clockwise: Whether it turns clockwise, ``(series, 1)``.

        Returns:
            ``(series, time, 2)``.
        """
        gone = gone.double()
        if self.shape == "inward":
            angle = OUTER - gone
            x, y = GROWTH * angle * angle.cos(), GROWTH * angle * angle.sin()
            # Inwards means a falling angle: clockwise, unless mirrored.
            return self._scaled(x, torch.where(clockwise, y, -y))
        backwards = self.shape == "example_reversed"
        t = OUTER - gone if backwards else INNER + gone
        falling = clockwise ^ backwards  # the kind whose angle falls with t
        other = OUTER + 1 - t
        angle = torch.where(falling, other, t)
        radius = torch.where(falling, GROWTH * 50 / other, GROWTH * t)
        centre = torch.where(falling, -5.0, 5.0)
        return self._scaled(radius * angle.cos() + centre, radius * angle.sin())

    def train_dataloader(self) -> StepLoader:
        """Return this rank's share of every batch.

        Each pass over the trajectories has an order of its own and leaves out what fills no batch.

        Raises:
            ValueError: If the devices cannot share a batch equally.
        """
        share = share_of_rank(self.trainer, self.batch_size, "trajectories")
        seen, x, *_ = self.trajectories("train", self.train_size)
        times = self.times[: self.grid]

        def draw(step: int) -> tuple[Tensor, ...]:
            chosen = self._chosen(step, share)
            return times, seen[chosen], x[chosen]

        return StepLoader(self.steps, draw)

    def val_dataloader(self) -> OneBatch:
        """Return one batch that neither trains nor tests."""
        return OneBatch(self.fixed("val"))

    def test_dataloader(self) -> OneBatch:
        """Return the test trajectories as one batch."""
        return OneBatch(self.fixed("test"))

    def fixed(self, purpose: str) -> tuple[Tensor, ...]:
        """Return ``test_size`` trajectories of a purpose as a batch, with truth and directions."""
        seen, x, truth, clockwise = self.trajectories(purpose, self.test_size)
        return self.times[: self.grid], seen, x, self.times, truth, clockwise

    def _scaled(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.scale * torch.stack([x, y], dim=-1)).float()

    def _seed(self) -> int:
        return seed_or_that_of_the_run(self.data_seed)

    def _chosen(self, step: int, share: slice) -> Tensor | slice:
        """Return which training trajectories a rank takes in a step."""
        count, size = self.train_size, self.batch_size
        if size == count:
            return share
        one_pass, place = divmod(step, count // size)
        draw = generator(self._seed(), f"order/{one_pass}")
        order = torch.randperm(count, generator=draw)
        return order[place * size : (place + 1) * size][share]
