"""Discrete parts of the image classifiers: stems, residual block, head and multilayer perceptron.

Layers, biases and the order of parameters follow the authors' public example
(rtqichen/torchdiffeq, ``examples/odenet_mnist.py``), so that its weights map one to one.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Stem = Literal["res", "conv"]


class ResidualBlock(nn.Module):
    """Pre-activation residual block (He et al., 2016b), without convolution biases.

    Args:
        width: Channels in and out.
        groups: Groups of both normalisations.
        stride: Stride of the first convolution. Where it is not 1, the shortcut is a strided 1x1
            convolution of the normalised and rectified input, as in the public example.
    """

    def __init__(self, width: int, groups: int, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.shortcut = nn.Conv2d(width, width, 1, stride, bias=False) if stride != 1 else None
        self.conv1 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, width, height, width)`` to the same shape, or half of it with stride 2."""
        hidden = F.relu(self.norm1(x), inplace=True)
        shortcut = x if self.shortcut is None else self.shortcut(hidden)
        hidden = F.relu(self.norm2(self.conv1(hidden)), inplace=True)
        return self.conv2(hidden) + shortcut


def build_stem(stem: Stem, width: int, groups: int) -> nn.Sequential:
    """Build the part that downsamples ``(batch, 1, 28, 28)`` twice.

    Args:
        stem: ``res`` ends in two strided residual blocks, ``(batch, width, 7, 7)``; ``conv`` in
            strided convolutions, ``(batch, width, 6, 6)``.
        width: Channels.
        groups: Groups of every normalisation.
    """
    first = nn.Conv2d(1, width, 3)
    if stem == "res":
        blocks = (ResidualBlock(width, groups, stride=2) for _ in range(2))
        return nn.Sequential(first, *blocks)
    if stem == "conv":
        layers: list[nn.Module] = [first]
        for _ in range(2):
            layers += [
                nn.GroupNorm(groups, width),
                nn.ReLU(inplace=True),
                nn.Conv2d(width, width, 4, 2, padding=1),
            ]
        return nn.Sequential(*layers)
    raise ValueError(f"Unknown stem {stem!r}. Choose one of res, conv.")


def build_head(width: int, groups: int, classes: int) -> nn.Sequential:
    """Build the classifier on top of ``(batch, width, height, width)`` features."""
    return nn.Sequential(
        nn.GroupNorm(groups, width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


def build_mlp(pixels: int, hidden: int, classes: int) -> nn.Sequential:
    """Build the perceptron with one hidden layer: Table 1's first row with 300 hidden units."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes)
    )
