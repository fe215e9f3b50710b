"""What data modules share whose points are drawn and not read."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return the source of the randomness that a seed has for a purpose."""
    key = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:4]))


class EpochOfSteps:
    """Holds the epoch's number, which Lightning tells to whatever is called a sampler."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration draws."""
        self.epoch = epoch


class OneBatch:
    """A loader of one fixed batch; a list would be taken for several loaders.

    Args:
        batch: The batch.
    """

    def __init__(self, batch: tuple[Tensor, ...]) -> None:
        self._batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        yield self._batch
