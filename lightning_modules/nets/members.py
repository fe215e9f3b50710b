"""Networks of the same kind side by side: every parameter has a leading member dimension."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one generator a member, from which its weights are drawn.

    A member's weights are the same whoever its neighbours are.
    """
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def normal(shape: Sequence[int], std: float, draw: Sequence[torch.Generator]) -> nn.Parameter:
    """Return a parameter ``(members, *shape)``, each member's part from its own generator."""
    return nn.Parameter(torch.stack([std * torch.randn(*shape, generator=g) for g in draw]))


def uniform(shape: Sequence[int], bound: float, draw: Sequence[torch.Generator]) -> nn.Parameter:
    """Return a parameter ``(members, *shape)`` uniform between ``-bound`` and ``bound``."""
    parts = [torch.empty(*shape).uniform_(-bound, bound, generator=g) for g in draw]
    return nn.Parameter(torch.stack(parts))


class MemberLinear(nn.Module):
    """A linear layer for every member, drawn as ``nn.Linear`` draws its own.

    Args:
        inputs: Numbers in.
        outputs: Numbers out.
        draw: One generator a member; consecutive layers draw from the same.
    """

    def __init__(self, inputs: int, outputs: int, draw: Sequence[torch.Generator]) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = uniform((inputs, outputs), bound, draw)
        self.bias = uniform((1, outputs), bound, draw)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(members, rows, inputs)`` to ``(members, rows, outputs)``."""
        return torch.baddbmm(self.bias, x, self.weight)
