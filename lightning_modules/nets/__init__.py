"""Networks: convolutional parts, vector fields and ODE blocks."""

from lightning_modules.nets.convnets import (
    ResidualBlock,
    Stem,
    build_head,
    build_mlp,
    build_stem,
)
from lightning_modules.nets.fields import ConcatConvField, ConvField, TimeConv2d
from lightning_modules.nets.odeblock import OdeBlock

__all__ = [
    "ConcatConvField",
    "ConvField",
    "OdeBlock",
    "ResidualBlock",
    "Stem",
    "TimeConv2d",
    "build_head",
    "build_mlp",
    "build_stem",
]
