"""MNIST in memory: batches are index look-ups, and what is in them depends on the seed alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules._drawing import generator, seed_or_that_of_the_run, share_of_rank
from datamodules._files import ensure_files
from datamodules._mnist_sources import MNIST_FILES, MNIST_SOURCES
from datamodules.deskewing import deskewed

SIDE = 28  # pixels of a batch's images, each way
MARGIN = 4  # zero pixels around a training image that is to be cropped


class ImageSet(NamedTuple):
    """Images ``(size, height, width)`` uint8 and labels ``(size,)`` int64, on one device."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "ImageSet":
        """Return the set on ``device``: itself where it is there already."""
        return ImageSet(self.images.to(device), self.labels.to(device))


class MNIST(pl.LightningDataModule):
    """MNIST digits: all 60,000 training images train, the 10,000 test images test.

    Batches are tuples: images ``(batch, 1, 28, 28)`` float32 in [0, 1], not normalised further,
    and labels ``(batch,)`` int64. As in the authors' public example, an incomplete last training
    batch is dropped, so a batch of 128 makes 468 steps an epoch. The set is held as uint8 on the
    trainer's device. Order and crops come from the seed, the epoch and the image, so the same
    global batch holds the same images however many devices share it.

    Args:
        root: Folder of ``MNIST/raw``; by default REPRODUCE_DATA, else ``data``.
        batch_size: Training images a step over all devices, which get equal contiguous shares.
        test_batch_size: Test images a step.
        augment: Crop training images at random after zero padding by 4 pixels.
        deskew: Shear all images so that their strokes stand upright.
        seed: Draws order and crops; by default the seed of ``seed_everything``, else 0.

    Raises:
        ValueError: If a batch holds no image, or more than there are to train or to test.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        test_batch_size: int = 1000,
        augment: bool = True,
        deskew: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        sizes = (("batch_size", batch_size, 60_000), ("test_batch_size", test_batch_size, 10_000))
        for name, size, images in sizes:
            if not 1 <= size <= images:
                raise ValueError(f"{name} is {size}. Choose a number from 1 to {images}.")
        self.root = Path(root or os.environ.get("REPRODUCE_DATA") or "data").expanduser()
        self.batch_size = batch_size
        self.test_batch_size = test_batch_size
        self.augment = augment
        self.deskew = deskew
        self.seed = seed
        self._train: ImageSet | None = None
        self._test: ImageSet | None = None

    def prepare_data(self) -> None:
        """Verify the files, and fetch what is missing."""
        ensure_files(self.root / "MNIST" / "raw", MNIST_FILES, MNIST_SOURCES)

    def setup(self, stage: str | None = None) -> None:
        """Verify and read the part that ``stage`` needs, once; ``None`` reads both."""
        if stage in (None, "fit") and self._train is None:
            images, labels = self._read(train=True)
            margin = [MARGIN] * 4 if self.augment else [0] * 4
            self._train = ImageSet(F.pad(images, margin), labels)
        if stage in (None, "test") and self._test is None:
            self._test = self._read(train=False)

    def train_dataloader(self) -> "ShuffledLoader":
        """Return this rank's share of every global training batch.

        Raises:
            ValueError: If the devices cannot share a batch equally.
        """
        share = share_of_rank(self.trainer, self.batch_size, "images")
        if self._train is None:
            self.setup("fit")
        assert self._train is not None
        self._train = self._train.to(self._device())
        sampler = EpochSampler(self._train, seed_or_that_of_the_run(self.seed))
        return ShuffledLoader(self._train, self.batch_size, sampler, share)

    def test_dataloader(self) -> "BatchLoader":
        """Return every test image once, in order.

        Raises:
            ValueError: If there are several devices, which would each test every image.
        """
        if self.trainer and self.trainer.world_size > 1:
            raise ValueError("Testing runs on one device. Use a Trainer with devices=1.")
        if self._test is None:
            self.setup("test")
        assert self._test is not None
        self._test = self._test.to(self._device())
        return BatchLoader(self._test, self.test_batch_size)

    def _read(self, *, train: bool) -> ImageSet:
        from torchvision import datasets

        self.prepare_data()
        # torchvision prefers an old processed/*.pt, which nothing verifies, over the raw files.
        verified = {"_check_legacy_exist": lambda _: False}
        digits = type("MNIST", (datasets.MNIST,), verified)(self.root, train=train)
        images = deskewed(digits.data) if self.deskew else digits.data
        return ImageSet(images, digits.targets)

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")


class EpochSampler:
    """Draws the order and the crops of an epoch; Lightning tells it the epoch's number.

    Args:
        data: The set to be drawn from, with the margin to be cropped.
        seed: With the epoch and the purpose, the key of every draw.
    """

    def __init__(self, data: ImageSet, seed: int) -> None:
        self.size = len(data.labels)
        self.shifts = data.images.shape[-1] - SIDE + 1
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """Return the image numbers of this epoch, ``(size,)``."""
        return torch.randperm(self.size, generator=generator(self.seed, f"{self.epoch}/order"))

    def offsets(self) -> Tensor:
        """Return the upper left corner of every image's crop by image number, ``(size, 2)``."""
        draw = generator(self.seed, f"{self.epoch}/crop")
        return torch.randint(self.shifts, (self.size, 2), generator=draw)


class BatchLoader:
    """Iterates over a set in order; the last batch may be smaller.

    Has no ``sampler``: Lightning would take this for a DataLoader and look for more.

    Args:
        data: Images and labels.
        batch_size: Images a batch.
    """

    def __init__(self, data: ImageSet, batch_size: int) -> None:
        self.data = data
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.data.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        parts = (part.split(self.batch_size) for part in self.data)
        for images, labels in zip(*parts, strict=True):
            yield _scaled(images), labels


class ShuffledLoader:
    """Iterates over one rank's share of an epoch's batches: one look-up each, no workers.

    Lightning finds the sampler by its name to tell it the epoch, and resumes inside an epoch
    through ``state_dict``. An incomplete last batch is dropped.

    Args:
        data: Images, with the margin to be cropped, and labels.
        batch_size: Size of the global batch.
        sampler: Draws the order and the crops.
        share: Which part of a batch to return.
    """

    def __init__(
        self, data: ImageSet, batch_size: int, sampler: EpochSampler, share: slice
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        self.sampler = sampler
        self._share = share
        self._given = 0  # batches of this epoch that have been handed out
        self._resume: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.data.labels) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Runs at the first next(): Lightning calls iter() before it tells the epoch.
        images, labels = self.data
        order = self.sampler.order().to(labels.device)
        offsets = self.sampler.offsets().to(labels.device)
        windows = images.unfold(1, SIDE, 1).unfold(2, SIDE, 1)
        for batch in range(self._first(), len(self)):
            self._given = batch + 1
            chosen = order[batch * self.batch_size :][: self.batch_size][self._share]
            top, left = offsets[chosen].unbind(1)
            yield _scaled(windows[chosen, top, left]), labels[chosen]

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches have been handed out."""
        return {"epoch": self.sampler.epoch, "batches": self._given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Make the next iteration go on from there, if it belongs to the same epoch."""
        self._resume = state_dict

    def _first(self) -> int:
        state, self._resume = self._resume, {}
        return state["batches"] if state.get("epoch") == self.sampler.epoch else 0


def _scaled(images: Tensor) -> Tensor:
    return images.unsqueeze(1).to(torch.float32).div_(255)
