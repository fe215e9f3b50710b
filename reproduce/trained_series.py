"""Models of series that were trained before, from run folders and from the weights beside rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce import weights
from reproduce.jobs import Result
from reproduce.records import PROFILES

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules import Spirals
    from lightning_modules import TrajectoryModel

TABLE = "table2"
SHIPPED = Path(__file__).parent.parent / "results"


def finished(result: Result) -> TrajectoryModel:
    """Return the trained model of a job, in evaluation."""
    import torch

    from lightning_modules import TrajectoryModel

    path = result.folder / "checkpoints" / "last.ckpt"
    content = torch.load(path, map_location="cpu", weights_only=True)
    model = TrajectoryModel(**content["hyper_parameters"])
    model.load_state_dict(content["state_dict"])
    return model.eval()


def load(path: Path) -> tuple[TrajectoryModel, dict[str, Any]]:
    """Return the model of a weights file, in evaluation, and the facts written with it."""
    from lightning_modules import TrajectoryModel

    state, facts = weights.load(path)
    model = TrajectoryModel(**facts["hyper_parameters"])
    model.net.load_state_dict(state)
    return model.eval(), facts


def find(name: str, folders: list[Path], profile: str) -> Path:
    """Return the weights of a training of Table 2, of the longest that any folder has.

    Args:
        name: Network and points, such as ``latent_ode_30``.
        folders: Folders of results; the shipped ones come last.
        profile: Under ``short`` or ``paper``, only the same will do; under others, any.

    Raises:
        FileNotFoundError: If there are none; the message says how to make them.
    """
    profiles = (profile,) if profile in ("paper", "short") else PROFILES
    places = [folder / TABLE / "weights" for folder in (*folders, SHIPPED)]
    for path in (place / f"{p}-{name}.safetensors" for p in profiles for place in places):
        if path.exists():
            return path
    raise FileNotFoundError(
        f"No weights of {name} under {' or '.join(profiles)} in {', '.join(map(str, places))}. "
        f"Train it first: python -m reproduce table2 --profile {profiles[-1]}."
    )


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
