"""Networks: convolutional parts, vector fields, ODE blocks, flows and energies."""

from lightning_modules.nets.convnets import (
    ResidualBlock,
    Stem,
    build_head,
    build_mlp,
    build_stem,
)
from lightning_modules.nets.energies import BOX, ENERGIES, find_energy, log_normaliser
from lightning_modules.nets.fields import ConcatConvField, ConvField, TimeConv2d
from lightning_modules.nets.flows import ContinuousFlow, Flow
from lightning_modules.nets.odeblock import OdeBlock
from lightning_modules.nets.planar_field import PlanarField
from lightning_modules.nets.planar_flow import NotInvertible, PlanarFlow
from lightning_modules.nets.traces import TimeMLP, Trace, TracedField

__all__ = [
    "BOX",
    "ENERGIES",
    "ConcatConvField",
    "ContinuousFlow",
    "ConvField",
    "Flow",
    "NotInvertible",
    "OdeBlock",
    "PlanarField",
    "PlanarFlow",
    "ResidualBlock",
    "Stem",
    "TimeConv2d",
    "TimeMLP",
    "Trace",
    "TracedField",
    "build_head",
    "build_mlp",
    "build_stem",
    "find_energy",
    "log_normaliser",
]
