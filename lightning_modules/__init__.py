"""LightningModules of the suite: the names that ``--model`` accepts."""

from lightning_modules.classifier import ImageClassifier
from lightning_modules.density import DensityModel
from lightning_modules.trajectories import TrajectoryModel

__all__ = ["DensityModel", "ImageClassifier", "TrajectoryModel"]
