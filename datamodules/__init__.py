"""The suite's data sets, as LightningDataModules: the names that ``--data`` accepts."""

from datamodules._files import DataUnavailable
from datamodules.densities import BaseNoise, PlaneData
from datamodules.mnist import MNIST
from datamodules.spirals import Spirals

__all__ = ["MNIST", "BaseNoise", "DataUnavailable", "PlaneData", "Spirals"]
