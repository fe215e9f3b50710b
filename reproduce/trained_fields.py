"""Vector fields that were trained before, from the weights beside rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce import evidence, weights
from reproduce.records import Record

if TYPE_CHECKING:
    from lightning_modules import VectorFieldModel


def course(
    folder: Path, records: Sequence[Record], row: str
) -> list[tuple[int, VectorFieldModel]]:
    """Return what a row's model was on the way of its training, each with the updates until then.

    Args:
        folder: Folder of the rows.
        records: The rows, of one profile.
        row: The row.

    Returns:
        Models in float64, as drawn first and as trained last; none without the weights of a run
        that the rows have.
    """
    from lightning_modules import VectorFieldModel

    path = folder / "weights" / f"{records[0].profile}-{row}.safetensors"
    path = evidence.course_of(path)
    if not path.exists():
        return []
    stages, facts = weights.load(path)
    found = []
    with weights.fitting(path):
        if facts["run"] not in {record.run for record in records}:
            return []
        for k, update in enumerate(facts["updates"]):
            model = VectorFieldModel(**facts["hyper_parameters"])
            model.net.load_state_dict({name: tensors[k] for name, tensors in stages.items()})
            found.append((update, model.double().eval()))
    return found
