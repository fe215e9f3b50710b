"""What data modules share whose batches are drawn."""

import hashlib
import os
from collections.abc import Callable, Iterator

import pytorch_lightning as pl
import torch
from torch import Tensor

Batch = tuple[Tensor, ...]


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return the source of the randomness that a seed has for a purpose."""
    key = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:4]))  # the engine keeps 32 bits


def seed_or_that_of_the_run(data_seed: int | None) -> int:
    """Return a seed, or where there is none that of ``seed_everything``, else 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0)) if data_seed is None else data_seed


def share_of_rank(trainer: pl.Trainer | None, batch_size: int, things: str) -> slice:
    """Return which part of every batch this process trains with.

    Args:
        trainer: Knows rank and ranks; without one, the whole batch.
        batch_size: Size of the batch over all of them.
        things: What is in it, for the message.

    Raises:
        ValueError: If the devices cannot share a batch equally.
    """
    rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
    if batch_size % ranks:
        raise ValueError(
            f"A batch of {batch_size} {things} cannot be shared equally by {ranks} "
            f"devices. Set --data.batch_size to a multiple of {ranks}."
        )
    share = batch_size // ranks
    return slice(rank * share, (rank + 1) * share)


class EpochOfSteps:
    """Holds the epoch's number, which Lightning tells to whatever is called a sampler."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch


class StepLoader:
    """Batches that depend on the step alone, so that an epoch can go on from anywhere in it.

    Args:
        steps: Batches of an epoch.
        draw: Returns the batch of a step; steps are counted over all epochs.
    """

    def __init__(self, steps: int, draw: Callable[[int], Batch]) -> None:
        self.sampler = EpochOfSteps()
        self._steps, self._draw = steps, draw
        self._given = 0
        self._resume: dict[str, int] = {}

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        state, self._resume = self._resume, {}
        first = state["batches"] if state.get("epoch") == self.sampler.epoch else 0
        for batch in range(first, self._steps):
            self._given = batch + 1
            yield self._draw(self.sampler.epoch * self._steps + batch)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and how many of its batches have been handed out."""
        return {"epoch": self.sampler.epoch, "batches": self._given}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Make the next iteration go on from there, if it belongs to the same epoch."""
        self._resume = state_dict


class OneBatch:
    """A loader of one fixed batch; a list would be taken for several loaders.

    Args:
        batch: The batch.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield self._batch
