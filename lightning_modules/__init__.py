"""LightningModules of the suite: the names that ``--model`` accepts."""

from lightning_modules.classifier import ImageClassifier
from lightning_modules.density import DensityModel

__all__ = ["DensityModel", "ImageClassifier"]
