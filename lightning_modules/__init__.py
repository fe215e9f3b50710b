"""LightningModules of the suite: the names that ``--model`` accepts."""

from lightning_modules.classifier import ImageClassifier

__all__ = ["ImageClassifier"]
