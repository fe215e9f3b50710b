"""Models put together again, from a run folder or from the weights beside rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reproduce import weights
from reproduce.jobs import Result
from reproduce.records import Record

if TYPE_CHECKING:
    from torch import Tensor, nn

M = TypeVar("M", bound="nn.Module")
T = TypeVar("T")


def finished(result: Result, kind: Callable[..., M]) -> M:
    """Return the trained model of a job, in evaluation and in the precision it was trained in.

    Args:
        result: What came of the job.
        kind: The model's class.
    """
    content = weights.checkpoint(result.folder / "checkpoints" / "last.ckpt")
    model = kind(**content["hyper_parameters"])
    # Before loading, which would round a float64 model's numbers.
    model.to(weights.precision(content["state_dict"]))
    model.load_state_dict(content["state_dict"])
    return model.eval()


def of_file(path: Path, kind: Callable[..., M]) -> tuple[M, dict[str, Any]]:
    """Return the model of a weights file, in evaluation, and the facts written with it.

    Args:
        path: The file.
        kind: The model's class; what the file has are the weights of its ``net``.

    Raises:
        ValueError: If the file holds no weights, or those of another network.
    """
    state, facts = weights.load(path)
    with weights.fitting(path):
        return _built(kind, state, facts), facts


def beside(
    folder: Path,
    records: Sequence[Record],
    name: str,
    kind: Callable[..., M],
    drawn: Callable[[M, dict[str, Any]], T],
) -> T | None:
    """Return what the model is drawn with whose weights lie beside these rows.

    Args:
        folder: Folder of the rows.
        records: The rows, of one profile.
        name: What the weights are kept under: a row, or the name of several rows' training.
        kind: The model's class.
        drawn: Returns it, given the model and the facts written with it.

    Returns:
        None if there are no weights, or if they are those of another run than the rows.

    Raises:
        ValueError: As `of_file`, and if the facts lack what is drawn.
    """
    path = folder / "weights" / f"{records[0].profile}-{name}.safetensors"
    if not path.exists():
        return None
    state, facts = weights.load(path)
    with weights.fitting(path):
        if facts["run"] not in {record.run for record in records}:
            return None  # whatever network it was
        return drawn(_built(kind, state, facts), facts)


def _built(kind: Callable[..., M], state: dict[str, Tensor], facts: dict[str, Any]) -> M:
    """Return a model of these weights of its ``net``, in evaluation."""
    import torch

    model = kind(**facts["hyper_parameters"])
    dtype = getattr(torch, facts.get("dtype", "float32"), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"its dtype is {facts['dtype']!r}, which is none of torch")
    if dtype.is_floating_point:  # older files have that of their first tensor, be it a mask
        model.to(dtype)
    model.get_submodule("net").load_state_dict(state)
    return model.eval()
