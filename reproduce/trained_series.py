"""Models of series that were trained before, from the weights beside rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce import evidence, restored

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules import Spirals
    from lightning_modules import TrajectoryModel


def load(path: Path) -> tuple[TrajectoryModel, dict[str, Any]]:
    """Return the model of a weights file, in evaluation, and the facts written with it."""
    from lightning_modules import TrajectoryModel

    return restored.of_file(path, TrajectoryModel)


def of_table_2(
    name: str, folders: list[Path], profile: str
) -> tuple[TrajectoryModel, dict[str, Any]]:
    """Return the model of a training of Table 2, such as ``latent_ode_30``; and its facts.

    See `evidence.find_weights` for folders, profile and what is raised where there is none.
    """
    return load(evidence.find_weights("table2", name, folders, profile)[0])


def spirals(facts: dict[str, Any], points: int | None = None) -> Spirals:
    """Return the data that a model was trained on, or other points of the same trajectories."""
    from datamodules import Spirals

    given = dict(facts["data"])
    if points is not None:
        given["points"] = points
    return Spirals(**{**given, "data_seed": facts["seed"]})


def predicted(model: TrajectoryModel, data: Spirals) -> Tensor:
    """Return the means at all times of the test trajectories, ``(series, grid + future, 2)``.

    Nan where a recurrent network has observed nothing yet.
    """
    import torch

    times, seen, x, at, *_ = data.fixed("test")
    with torch.no_grad():
        return model.predict(times[seen], x, at).float()
