"""Networks: convolutional parts, vector fields, flows and energies, models of series."""

from lightning_modules.nets.convnets import (
    ResidualBlock,
    Stem,
    build_head,
    build_mlp,
    build_stem,
)
from lightning_modules.nets.energies import BOX, ENERGIES, find_energy, log_normaliser
from lightning_modules.nets.events import Events
from lightning_modules.nets.fields import ConcatConvField, ConvField, TimeConv2d
from lightning_modules.nets.flows import ContinuousFlow, Flow
from lightning_modules.nets.latent import LatentODE, divergence_from_unit, gaussian_nll
from lightning_modules.nets.odeblock import OdeBlock
from lightning_modules.nets.paths import FieldPath, SpringPath, TimePath
from lightning_modules.nets.perceptron_field import PerceptronField
from lightning_modules.nets.planar_field import PlanarField
from lightning_modules.nets.planar_flow import NotInvertible, PlanarFlow
from lightning_modules.nets.point_process import IntensityField, PointProcess
from lightning_modules.nets.recurrent import Fill, GridRNN, ObservationRNN
from lightning_modules.nets.series import Series, check_queries
from lightning_modules.nets.spring_field import SpringField
from lightning_modules.nets.tanh_field import TanhField
from lightning_modules.nets.traces import TimeMLP, Trace, TracedField

__all__ = [
    "BOX",
    "ENERGIES",
    "ConcatConvField",
    "ContinuousFlow",
    "ConvField",
    "Events",
    "FieldPath",
    "Fill",
    "Flow",
    "GridRNN",
    "IntensityField",
    "LatentODE",
    "NotInvertible",
    "ObservationRNN",
    "OdeBlock",
    "PerceptronField",
    "PlanarField",
    "PlanarFlow",
    "PointProcess",
    "ResidualBlock",
    "Series",
    "SpringField",
    "SpringPath",
    "Stem",
    "TanhField",
    "TimeConv2d",
    "TimeMLP",
    "TimePath",
    "Trace",
    "TracedField",
    "build_head",
    "build_mlp",
    "build_stem",
    "check_queries",
    "divergence_from_unit",
    "find_energy",
    "gaussian_nll",
    "log_normaliser",
]
