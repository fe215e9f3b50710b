"""The test images, for measurements on nets that were trained before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def test_images(root: str | None, device: str, count: int) -> tuple[Tensor, Tensor]:
    """Return the first test images and their labels.

    Args:
        root: Folder of the data sets; None for the default.
        device: Where to put them.
        count: How many.

    Returns:
        Images ``(count, 1, 28, 28)`` in [0, 1] and labels ``(count,)``.

    Raises:
        ValueError: If there are fewer.
    """
    import torch

    from datamodules import MNIST

    data = MNIST(root=root)
    data.prepare_data()
    data.setup("test")
    images, labels = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    if count > len(labels):
        raise ValueError(f"{count} test images were asked for; there are {len(labels)}.")
    return images[:count].to(device), labels[:count].to(device)
