"""Points for density models, drawn as they are needed from the seed and the step alone."""

import math
from collections.abc import Iterator, Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules._drawing import (
    StepLoader,
    generator,
    seed_or_that_of_the_run,
    share_of_rank,
)

BLOCK = 64  # training batches that are drawn at once: seeding a generator takes a while
SHAPES = ("moons", "circles")
NODES = 400  # of the quadrature over a curve, at least; their distance is far below the noise


class _Drawn(pl.LightningDataModule):
    """Fresh points for every step, and fixed ones to validate and to test with.

    Args:
        batch_size: Points of each member a step over all devices, which get equal shares.
        steps: Steps an epoch; nothing else ends one, since no point comes twice.
        test_points: Points of each member that test.
        test_batch_size: Points of each member a test step.
        member_seeds: Seeds of the members' points; None is one member with the seed of
            ``seed_everything``, else 0.

    Raises:
        ValueError: If any of the sizes is below 1.
    """

    dim = 2

    def __init__(
        self,
        batch_size: int = 512,
        steps: int = 1000,
        test_points: int = 10_000,
        test_batch_size: int = 5_000,
        member_seeds: list[int] | None = None,
    ) -> None:
        super().__init__()
        if member_seeds is not None and not member_seeds:
            raise ValueError("member_seeds is empty; give one seed a member, or leave it out.")
        sizes = {"batch_size": batch_size, "steps": steps, "test_points": test_points}
        for name, size in {**sizes, "test_batch_size": test_batch_size}.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; give at least 1.")
        self.batch_size, self.steps = batch_size, steps
        self.test_points, self.test_batch_size = test_points, test_batch_size
        self.member_seeds = member_seeds

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw points ``(*shape, dim)``."""
        raise NotImplementedError

    def train_dataloader(self) -> StepLoader:
        """Return this rank's share of fresh batches, each a tuple ``((members, points, dim),)``.

        Raises:
            ValueError: If the devices cannot share a batch equally.
        """
        share = share_of_rank(self.trainer, self.batch_size, "points")
        return StepLoader(self.steps, _Blocks(self, self._seeds(), share))

    def val_dataloader(self) -> "FixedLoader":
        """Return fixed points that neither train nor test."""
        return FixedLoader(self.fixed("val"), self.test_batch_size)

    def test_dataloader(self) -> "FixedLoader":
        """Return the test points."""
        return FixedLoader(self.fixed("test"), self.test_batch_size)

    def fixed(self, purpose: str) -> Tensor:
        """Return the points of a purpose, ``(members, test_points, dim)``."""
        shape = (self.test_points,)
        return torch.stack([self.draw(shape, generator(s, purpose)) for s in self._seeds()])

    def _seeds(self) -> list[int]:
        return self.member_seeds or [seed_or_that_of_the_run(None)]


class BaseNoise(_Drawn):
    """Standard normal numbers, the base points of a flow that is trained by an energy.

    Args:
        dim: Dimension of the points.
        batch_size: Points of each member a step over all devices, which get equal shares.
        steps: Steps an epoch.
        test_points: Points of each member that test.
        test_batch_size: Points of each member a test step.
        member_seeds: Seeds of the members' points; None is one member with the seed of
            ``seed_everything``, else 0.
    """

    def __init__(
        self,
        dim: int = 2,
        batch_size: int = 512,
        steps: int = 1000,
        test_points: int = 10_000,
        test_batch_size: int = 5_000,
        member_seeds: list[int] | None = None,
    ) -> None:
        super().__init__(batch_size, steps, test_points, test_batch_size, member_seeds)
        if dim < 1:
            raise ValueError(f"dim is {dim}; give at least 1.")
        self.dim = dim

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw points ``(*shape, dim)``."""
        return torch.randn(*shape, self.dim, generator=generator)


class PlaneData(_Drawn):
    """Two moons or two circles with Gaussian noise, independent points.

    Moons: half circles of radius 1 around (0, 0) and (1, 1/2), as in scikit-learn, which spaces
    the points evenly where these are drawn. Circles: radii 1 and ``factor``.

    Args:
        name: ``moons`` or ``circles``.
        noise: Standard deviation of the noise.
        factor: Radius of the inner circle.
        batch_size: Points of each member a step over all devices, which get equal shares.
        steps: Steps an epoch.
        test_points: Points that test.
        test_batch_size: Points a test step.
        member_seeds: Seeds of the members' points; None is one member with the seed of
            ``seed_everything``, else 0.
    """

    def __init__(
        self,
        name: str = "moons",
        noise: float = 0.08,
        factor: float = 0.5,
        batch_size: int = 512,
        steps: int = 1000,
        test_points: int = 10_000,
        test_batch_size: int = 5_000,
        member_seeds: list[int] | None = None,
    ) -> None:
        super().__init__(batch_size, steps, test_points, test_batch_size, member_seeds)
        if name not in SHAPES:
            raise ValueError(f"Unknown data {name!r}. Choose one of {', '.join(SHAPES)}.")
        if not noise > 0:
            raise ValueError(f"noise is {noise}; give a number above 0, or there is no density.")
        self.name, self.noise, self.factor = name, noise, factor

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw points ``(*shape, 2)``."""
        angle = torch.rand(*shape, generator=generator)
        second = torch.rand(*shape, generator=generator) < 0.5
        points = self._circles(angle, second) if self.name == "circles" else _moons(angle, second)
        return points + self.noise * torch.randn(points.shape, generator=generator)

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density that the points are drawn from, in nats.

        Args:
            x: Points, ``(points, 2)``.

        Returns:
            ``(points,)`` in float64, by the midpoint rule over the angle.
        """
        nodes = max(NODES, math.ceil(16 / self.noise))
        angle = ((torch.arange(nodes) + 0.5) / nodes).double()
        shape = self._circles if self.name == "circles" else _moons
        curves = [shape(angle, torch.full_like(angle, side, dtype=torch.bool)) for side in (0, 1)]
        found = []
        for part in x.double().split(2000):
            squares = torch.cdist(part, torch.cat(curves)).square() / (2 * self.noise**2)
            found.append(torch.logsumexp(-squares, dim=1))
        constant = math.log(2 * nodes * 2 * math.pi * self.noise**2)
        return torch.cat(found) - constant

    def _circles(self, angle: Tensor, inner: Tensor) -> Tensor:
        radius = torch.where(inner, self.factor, 1.0)
        around = 2 * math.pi * angle
        return torch.stack([radius * around.cos(), radius * around.sin()], dim=-1)


def _moons(angle: Tensor, lower: Tensor) -> Tensor:
    around = math.pi * angle
    upper_x, upper_y = around.cos(), around.sin()
    x = torch.where(lower, 1 - upper_x, upper_x)
    y = torch.where(lower, 0.5 - upper_y, upper_y)
    return torch.stack([x, y], dim=-1)


class _Blocks:
    """Fresh batches that depend on the members' seeds and the step alone.

    Args:
        data: Draws the points.
        seeds: One a member.
        share: The points of a batch that this rank gets.
    """

    def __init__(self, data: _Drawn, seeds: Sequence[int], share: slice) -> None:
        self._data, self._seeds, self._share = data, seeds, share
        self._block, self._points = -1, torch.empty(0)

    def __call__(self, step: int) -> tuple[Tensor]:
        """Return the batch of a step."""
        if step // BLOCK != self._block:
            self._block = step // BLOCK
            shape, purpose = (BLOCK, self._data.batch_size), f"train/{self._block}"
            drawn = [self._data.draw(shape, generator(seed, purpose)) for seed in self._seeds]
            self._points = torch.stack(drawn)[:, :, self._share]
        return (self._points[:, step % BLOCK],)


class FixedLoader:
    """Iterates over fixed points, ``(members, points, dim)``, in order.

    Args:
        points: The points.
        batch_size: Points a batch.
    """

    def __init__(self, points: Tensor, batch_size: int) -> None:
        self._parts = points.split(batch_size, dim=1)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        return ((part,) for part in self._parts)
