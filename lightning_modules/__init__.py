"""LightningModules of the suite: the names that ``--model`` accepts."""

from lightning_modules.classifier import Classifier, FieldClassifier, ImageClassifier
from lightning_modules.density import DensityModel
from lightning_modules.driver import end_search
from lightning_modules.path import PathModel
from lightning_modules.point_process import PointProcessModel
from lightning_modules.trajectories import TrajectoryModel
from lightning_modules.vector_field import VectorFieldModel

__all__ = [
    "Classifier",
    "DensityModel",
    "FieldClassifier",
    "ImageClassifier",
    "PathModel",
    "PointProcessModel",
    "TrajectoryModel",
    "VectorFieldModel",
]

end_search()  # after Lightning has been imported, and before anything is trained
