"""Events of a Poisson process whose intensity is known (Figure 7)."""

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

Shape = Literal["bumps", "wave"]
GRID = 2001  # times of the test's quadrature
FLOOR = 0.25  # of the bumps, before they are scaled to a mean of 1
BUMPS = ((0.28, 0.07, 1.0), (0.68, 0.10, 0.7))  # centre and width over T, and height
TURNS, DEPTH = 4 * math.pi, 0.8  # of the wave: two periods
MARGIN = 1.01  # of the bound over the largest intensity on the grid, which may miss the peak


class PoissonEvents(pl.LightningDataModule):
    """Sequences of events on [0, T] that share one intensity, each a realisation of its own.

    A training batch is ``(times, lengths, horizon)``: the times of all events in float64, one
    sequence behind the other, each in order, ``(events,)``; how many events each sequence has, and
    that may be none, ``(sequences,)``; and T, a scalar. Validation and test batches go on with
    ``at``, equally spaced times from 0 to T, ``(time,)``; the intensity there, ``(time,)``; the
    intensity at the events, ``(events,)``; and the expected number of events, a scalar.

    Intensities, in events per unit of time, with s = t/T:

    - ``bumps``: two Gaussian bumps over a constant, the first one higher and narrower.
    - ``wave``: ``rate`` (1 + 0.8 sin 4πs), two periods.

    Every update takes all training sequences: since they share one path, a solve takes about as
    many evaluations for many of them as for one. Everything depends on the seed alone, and the
    first sequences of many are those of few.

    Args:
        shape: Which intensity.
        rate: Its mean, in events per unit of time.
        horizon: T.
        batch_size: Sequences to train with, over all devices, which get equal shares.
        test_size: Sequences to test with, and as many others to validate with.
        steps: Updates of an epoch.
        data_seed: Seed; None is that of ``seed_everything``, else 0.

    Raises:
        ValueError: If any of them cannot be.
    """

    def __init__(
        self,
        shape: Shape = "bumps",
        rate: float = 3.0,
        horizon: float = 10.0,
        batch_size: int = 1,
        test_size: int = 100,
        steps: int = 100,
        data_seed: int | None = None,
    ) -> None:
        super().__init__()
        if shape not in get_args(Shape):
            raise ValueError(
                f"Unknown shape {shape!r}. Choose one of {', '.join(get_args(Shape))}."
            )
        for name, value in (("rate", rate), ("horizon", horizon)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; give a finite number above 0.")
        sizes = {"batch_size": batch_size, "test_size": test_size, "steps": steps}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; give at least 1.")
        self.shape, self.rate, self.horizon = shape, rate, horizon
        self.batch_size, self.test_size = batch_size, test_size
        self.steps, self.data_seed = steps, data_seed

    def intensity(self, times: Tensor) -> Tensor:
        """Return the intensity at times from 0 to T, shaped alike, in events per unit of time."""
        s = times.double() / self.horizon
        if self.shape == "wave":
            return self.rate * (1 + DEPTH * (TURNS * s).sin())
        return self.rate * _bumps(s) / _bumps_until(torch.ones_like(s))

    def expected_count(self, times: Tensor) -> Tensor:
        """Return the integral of the intensity from 0 to times, shaped alike, in closed form."""
        s = times.double() / self.horizon
        if self.shape == "wave":
            return self.rate * self.horizon * (s + DEPTH * (1 - (TURNS * s).cos()) / TURNS)
        return self.rate * self.horizon * _bumps_until(s) / _bumps_until(torch.ones_like(s))

    def sequences(self, purpose: str, count: int) -> list[Tensor]:
        """Draw sequences by thinning.

        Args:
            purpose: ``train``, or ``val`` or ``test`` or any other word: others have others.
            count: How many.

        Returns:
            The times of each, increasing, ``(events of this sequence,)`` in float64.
        """
        seed, grid = seed_or_that_of_the_run(self.data_seed), torch.linspace(0, self.horizon, GRID)
        most = MARGIN * float(self.intensity(grid).max())
        return [self._draw(most, generator(seed, f"{purpose}/{i}")) for i in range(count)]

    def train_dataloader(self) -> StepLoader:
        """Return this rank's sequences, as often as an epoch has updates.

        Raises:
            ValueError: If the devices cannot share the sequences equally, or if nothing happens in
                any of this rank's.
        """
        share = share_of_rank(self.trainer, self.batch_size, "sequences")
        batch = self._batch(self.sequences("train", self.batch_size)[share])
        return StepLoader(self.steps, lambda step: batch)

    def val_dataloader(self) -> OneBatch:
        """Return one batch that neither trains nor tests."""
        return OneBatch(self.fixed("val"))

    def test_dataloader(self) -> OneBatch:
        """Return the test sequences as one batch."""
        return OneBatch(self.fixed("test"))

    def fixed(self, purpose: str) -> tuple[Tensor, ...]:
        """Return ``test_size`` sequences of a purpose as a batch, with the true intensity."""
        times, lengths, horizon = self._batch(self.sequences(purpose, self.test_size))
        at = torch.linspace(0, self.horizon, GRID, dtype=torch.float64)
        truth = self.intensity(at), self.intensity(times), self.expected_count(horizon)
        return times, lengths, horizon, at, *truth

    def _draw(self, most: float, draw: torch.Generator) -> Tensor:
        """Return the events of one sequence, given a bound of the intensity."""
        candidates = torch.poisson(torch.tensor(most * self.horizon).double(), generator=draw)
        places, levels = torch.rand(2, int(candidates), dtype=torch.float64, generator=draw)
        times = self.horizon * places
        return times[most * levels < self.intensity(times)].sort().values

    def _batch(self, sequences: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        lengths = torch.tensor([len(times) for times in sequences])
        if not int(lengths.sum()):
            expected = self.rate * self.horizon
            raise ValueError(
                f"Nothing happens in {len(sequences)} sequence(s) of {expected:g} expected events "
                "each. Raise rate or horizon, or take more sequences."
            )
        return torch.cat(sequences), lengths, torch.tensor(self.horizon, dtype=torch.float64)


def _bumps(s: Tensor) -> Tensor:
    bumps = [height * (-((s - m) / w).square() / 2).exp() for m, w, height in BUMPS]
    return FLOOR + torch.stack(bumps).sum(dim=0)


def _bumps_until(s: Tensor) -> Tensor:
    """Return the integral of the bumps and their floor from 0 to s."""
    total = FLOOR * s
    for m, w, height in BUMPS:
        reach = math.sqrt(2) * w
        from_0 = torch.erf((s - m) / reach) + math.erf(m / reach)
        total = total + height * w * math.sqrt(math.pi / 2) * from_0
    return total
