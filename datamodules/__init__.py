"""The suite's data sets, as LightningDataModules: the names that ``--data`` accepts."""

from datamodules._files import DataUnavailable
from datamodules.densities import BaseNoise, PlaneData
from datamodules.dynamics import NoSolution, System, Windows, find_system, springs
from datamodules.events import PoissonEvents
from datamodules.mnist import MNIST
from datamodules.spirals import Spirals
from datamodules.three_bodies import SpringObservations

__all__ = [
    "MNIST",
    "BaseNoise",
    "DataUnavailable",
    "NoSolution",
    "PlaneData",
    "PoissonEvents",
    "Spirals",
    "SpringObservations",
    "System",
    "Windows",
    "find_system",
    "springs",
]
