"""Networks that were trained before, from the weights beside their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lightning_modules import ImageClassifier
from lightning_modules.nets import OdeBlock
from reproduce import weights

SHIPPED = Path(__file__).parent.parent / "results"
PROFILES = ("paper", "short", "quick", "smoke")  # the one that was trained longest first


def find(experiment: str, row: str, folders: Sequence[Path]) -> Path:
    """Return the weights of a row, of the longest training that any folder has.

    Args:
        experiment: Name of the experiment that trained it.
        row: Its row.
        folders: Folders of results; the shipped ones come last.

    Raises:
        FileNotFoundError: If there are none; the message says how to make them.
    """
    places = [folder / experiment / "weights" for folder in (*folders, SHIPPED)]
    paths = [place / f"{p}-{row}.safetensors" for p in PROFILES for place in places]
    for path in paths:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"No weights of {row} in {', '.join(map(str, places))}. Train it first: "
        f"python -m reproduce {experiment}."
    )


def classifier(path: Path, **changes: Any) -> tuple[ImageClassifier, dict[str, Any]]:
    """Return the classifier of a weights file, and the facts that were written with it.

    Args:
        path: The file.
        changes: Settings that take the place of those it was trained with, such as ``solver``.
    """
    state, facts = weights.load(path)
    model = ImageClassifier(**{**facts["hyper_parameters"], **changes})
    model.net.load_state_dict(state)
    return model.eval(), facts


def parts(path: Path) -> tuple[nn.Module, nn.Module, nn.Module, dict[str, Any]]:
    """Return stem, field and head of a trained ODE-Net, and the facts that go with it.

    Raises:
        ValueError: If the file holds another network.
    """
    model, facts = classifier(path)
    stem, block, head = model.net
    if not isinstance(block, OdeBlock):
        raise ValueError(f"{path} holds the network of {facts['row']}, which has no field.")
    return stem, block.field, head, facts
