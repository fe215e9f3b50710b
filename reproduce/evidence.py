"""What stands beside the rows of a training: its curves, misclassified images and weights.

Curves and images are CSV files like the rows', one for each profile, in ``curves/`` and
``errors/`` beside them; a run that is repeated replaces its own lines. The weights of the lowest
seed of each row go to ``weights/``, those of every seed where other experiments measure the nets.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import yaml

from reproduce import storage, tables, weights
from reproduce.records import PROFILES, Record

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = Path(__file__).parent.parent / "results"
_OURS = "lightning_modules."
WINDOW = 50  # updates that a point of a curve is the mean over; a multiple in long trainings
POINTS = 200  # of a curve at most; more cannot be told apart in a figure
_RUN = ("row", "seed", "overrides", "run")
CURVE = (*_RUN, "update", "metric", "value")
ERROR = (*_RUN, "image", "label", "prediction")
_NUMBERS = {
    "seed": int,
    "update": int,
    "value": float,
    "image": int,
    "label": int,
    "prediction": int,
}


def keep(
    rows: Path,
    folder: Path,
    record: Record,
    *,
    code: Mapping[str, str] = MappingProxyType({}),
    every_seed: bool = False,
) -> None:
    """Copy what a finished run left in its folder to where its rows are.

    Args:
        rows: The CSV of the rows; its name is that of the profile.
        folder: The run folder.
        record: A row of the run, for row, seed, changes and identity.
        code: The user's code that the model is made of, as in `Job.code`.
        every_seed: Whether the weights are kept whatever the seed, in a file of its own.
    """
    run = (record.row, str(record.seed), record.overrides, record.run)
    _replace(rows.parent / "curves" / rows.name, CURVE, run, curves(folder))
    answers = folder / "predictions.csv"
    if answers.exists():
        _replace(rows.parent / "errors" / rows.name, ERROR, run, _wrong(answers))
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if record.overrides or not checkpoint.exists():
        return
    suffix = f"-seed{record.seed}" if every_seed else ""
    path = rows.parent / "weights" / f"{rows.stem}-{record.row}{suffix}.safetensors"
    if every_seed or _seed_of(path) >= record.seed:
        _keep_weights(path, checkpoint, record, code)


def find_weights(
    experiment: str, name: str, folders: Sequence[Path], profile: str | None = None
) -> list[Path]:
    """Return the weights that `keep` wrote, by seed: of the first folder's longest training.

    Args:
        experiment: Name of the experiment that trained them.
        name: What they are kept under: the row.
        folders: Folders of results, such as the user's own; the shipped ones come last.
        profile: Profile of what is to be measured. Under one that carries verdicts, only what was
            trained under the same will do; under others, or None, anything.

    Returns:
        At least one file; all are of the same profile and lie in the same folder.

    Raises:
        FileNotFoundError: If there are none; the message says how to make them.
    """
    places = [folder / experiment / "weights" for folder in (*folders, SHIPPED)]
    profiles = (profile,) if profile in ("paper", "short") else PROFILES
    for stem, place in ((f"{p}-{name}", place) for place in places for p in profiles):
        by_seed = {
            int(path.stem.rpartition("-seed")[2]): path
            for path in place.glob(f"{stem}-seed*.safetensors")
            if path.stem.rpartition("-seed")[2].isdecimal()
        }
        paths = [by_seed[seed] for seed in sorted(by_seed)] or [place / f"{stem}.safetensors"]
        if paths[0].exists():
            return paths
    raise FileNotFoundError(
        f"No weights of {name} under {' or '.join(profiles)} in {', '.join(map(str, places))}. "
        f"Train it first: python -m reproduce {experiment} --profile {profiles[-1]}."
    )


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the lines of curves or misclassified images as text by column.

    Raises:
        ValueError: If the file is malformed; the message names it, the line and what to do.
    """
    numbers = {name: kind for name, kind in _NUMBERS.items() if name in columns}
    return [cells for _, cells in tables.rows(path, columns, numbers)]


def curves(folder: Path) -> Iterator[tuple[str, ...]]:
    """Yield update, metric and value of a run: means over windows, named by their last update.

    Args:
        folder: The run folder.
    """
    path = folder / "metrics.csv"
    values: dict[tuple[str, int], list[float]] = {}
    lines = list(tables.rows(path, ("step", "..."), {"step": int})) if path.exists() else []
    last = max([0, *(int(line["step"]) for _, line in lines)])
    width = WINDOW * (1 + last // (WINDOW * POINTS))
    for number, line in lines:
        window = (int(line["step"]) // width + 1) * width
        for name, text in line.items():
            if name.startswith("train/") and text:
                with storage.naming(path, number):
                    values.setdefault((name, window), []).append(tables.number(name, text))
    for (name, window), found in sorted(values.items()):
        yield str(window), name.removeprefix("train/"), f"{sum(found) / len(found):.6g}"


def _wrong(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield image, label and prediction where they differ: all others were right."""
    for _, line in tables.rows(path, ("image", "label", "prediction")):
        if line["label"] != line["prediction"]:
            yield line["image"], line["label"], line["prediction"]


def _replace(
    path: Path, columns: Sequence[str], run: tuple[str, ...], lines: Iterable[tuple[str, ...]]
) -> None:
    """Put the lines of a run in the place of those that its row and seed had."""
    with storage.exclusive(path):
        earlier = [tuple(line.values()) for line in read(path, columns)] if path.exists() else []
        kept: list[tuple[str, ...]] = [line for line in earlier if line[:3] != run[:3]]
        kept += [(*run, *line) for line in lines]
        kept.sort(key=lambda line: (line[0], int(line[1]), line[2]))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(kept)
        storage.write(path, text.getvalue())


def _seed_of(path: Path) -> float:
    """Return the seed of a weights file; infinity if there is none that can be read."""
    try:
        return float(weights.load(path)[1]["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def _keep_weights(path: Path, checkpoint: Path, record: Record, code: Mapping[str, str]) -> None:
    """Write the weights of a run; not those of a class that this suite does not know."""
    job = checkpoint.parents[1] / "job.yaml"
    config = yaml.safe_load(job.read_text()) if job.exists() else {}
    if not config.get("model", {}).get("class_path", _OURS).startswith(_OURS):
        return
    content = weights.checkpoint(checkpoint)
    facts = {
        "row": record.row,
        "seed": record.seed,
        "run": record.run,
        "budget": record.budget,
        "hyper_parameters": content["hyper_parameters"],
        "dtype": str(weights.precision(content["state_dict"])).removeprefix("torch."),
    }
    if code:
        facts["code"] = dict(code)
    if config:
        data = config["data"]["init_args"]
        # Where the files lay is no fact about the weights.
        facts["data"] = {key: value for key, value in data.items() if key != "root"}
        field = config["model"]["init_args"].get("field")
        facts |= {"field": field} if field is not None else {}
    weights.save(path, _of_net(content["state_dict"]), facts)
    course = content.get("callbacks", {}).get("Course")
    if course:
        stages = _of_net(course["weights"])
        weights.save(course_of(path), stages, {**facts, "updates": course["updates"]})


def course_of(path: Path) -> Path:
    """Return where the weights are that a training had on its way.

    Args:
        path: Where its last ones are.
    """
    return path.with_name(f"{path.stem}-course{path.suffix}")


def _of_net(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix("net."): t for n, t in state.items() if n.startswith("net.")}
