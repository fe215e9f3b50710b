"""Vector fields f(t, y): the right-hand sides of the suite's differential equations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def as_rows(x: Tensor) -> Tensor:
    """Return states ``(…, dim)`` as the rows of a matrix, ``(rows, dim)``, in the same memory."""
    return x if x.dim() == 2 else x.view(-1, x.shape[-1])


class TimeConv2d(nn.Conv2d):
    """A 3x3 convolution of the feature maps with time as one further, constant input channel.

    The public example concatenates ``t`` as the first channel. A convolution is linear, so the
    same result is ``conv(x; W[:, 1:]) + t * conv(1; W[:, :1]) + b``: the second term does not
    depend on the batch, nothing is concatenated, and 64 instead of 65 input channels suit the
    kernels. Zero padding makes the second term vary along the border, hence a map and no scalar.

    Args:
        width: Channels in and out; the weight is ``(width, 1 + width, 3, 3)``.
    """

    def __init__(self, width: int) -> None:
        super().__init__(1 + width, width, 3, padding=1)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve ``x`` of shape ``(batch, width, height, width)`` at the scalar time ``t``."""
        # Split, not sliced: backward joins the two gradients instead of padding and adding them.
        for_time, for_state = self.weight.split([1, x.shape[1]], dim=1)
        ones = x.new_ones(1, 1, *x.shape[-2:])
        of_time = F.conv2d(ones, for_time, padding=1)
        shift = torch.addcmul(self.bias.view(-1, 1, 1), of_time, t)  # type: ignore[union-attr]
        out = F.conv2d(x, for_state, padding=1).contiguous()
        return out + shift if _is_transformed(shift) else out.add_(shift)


class _TimelessConv2d(nn.Conv2d):
    """The same convolution without the time channel, called with the same arguments."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, padding=1)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x).contiguous()


class ConvField(nn.Module):
    """The ODE-Net's field: norm, ReLU, convolution, twice, and a last norm; no skip inside.

    Args:
        width: Channels of the state.
        groups: Groups of the three normalisations.
        time_input: Whether both convolutions see ``t``.
    """

    def __init__(self, width: int, groups: int, time_input: bool = True) -> None:
        super().__init__()
        convolution = TimeConv2d if time_input else _TimelessConv2d
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = convolution(width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = convolution(width)
        self.norm3 = nn.GroupNorm(groups, width)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(batch, width, height, width)``."""
        hidden = self.conv1(t, _rectified(self.norm1(y)))
        hidden = self.conv2(t, _rectified(self.norm2(hidden)))
        return self.norm3(hidden)


class ConcatConvField(nn.Module):
    """`ConvField` as the public example writes it: time concatenated as the first channel.

    The same function of the same parameters, for comparison with its source.

    Args:
        width: Channels of the state.
        groups: Groups of the three normalisations.
    """

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(1 + width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv2d(1 + width, width, 3, padding=1)
        self.norm3 = nn.GroupNorm(groups, width)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(batch, width, height, width)``."""
        hidden = self.conv1(_with_time(t, F.relu(self.norm1(y), inplace=True)))
        hidden = self.conv2(_with_time(t, F.relu(self.norm2(hidden), inplace=True)))
        return self.norm3(hidden)


def _with_time(t: Tensor, x: Tensor) -> Tensor:
    return torch.cat([torch.ones_like(x[:, :1]) * t, x], dim=1)


def _rectified(x: Tensor) -> Tensor:
    """Return ReLU of ``x``, which it overwrites, in the layout that convolutions read fastest.

    On the CPU a convolution of channels-last maps and the two copies around it take less time
    than the convolution alone; group norms prefer the usual layout, so they keep it.
    Elsewhere the layout stays.
    """
    if x.device.type == "cpu" and not _is_transformed(x):
        x = x.contiguous(memory_format=torch.channels_last)
    return F.relu(x, inplace=True)


def _is_transformed(x: Tensor) -> bool:
    """Return whether ``x`` belongs to torch.func, whose vmap knows neither layouts nor this."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(x))
