"""The suite's data sets, as LightningDataModules: the names that ``--data`` accepts."""

from datamodules._files import DataUnavailable
from datamodules.densities import BaseNoise, PlaneData
from datamodules.mnist import MNIST

__all__ = ["MNIST", "BaseNoise", "DataUnavailable", "PlaneData"]
