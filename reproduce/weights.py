"""Trained weights as shipped: one safetensors file per network, under a megabyte.

A network whose float32 weights are larger is written with eight bits a number: every tensor of
two or more dimensions as integers from -127 to 127 and one scale for each output channel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce import storage

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LARGEST = 1_000_000  # bytes
_SCALE = ".scale"
_LEVELS = 127


def save(path: Path, state: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a state dict.

    Args:
        path: The file; replaced as a whole, its folder is created.
        state: Floating-point tensors by name.
        facts: What belongs to them, such as the hyper-parameters; JSON keeps it.
    """
    import torch
    from safetensors.torch import save as to_bytes

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    packed: list[str] = []
    if sum(tensor.numel() * 4 for tensor in tensors.values()) > LARGEST:
        packed = [name for name, tensor in tensors.items() if tensor.dim() >= 2]
        taken = [name for name in packed if name + _SCALE in tensors]
        if taken:
            raise ValueError(f"{taken[0]}{_SCALE} is the name that the scale of {taken[0]} needs.")
        tensors = {n: t for name, tensor in tensors.items() for n, t in _packed(name, tensor)}
    else:
        tensors = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(facts), "packed": json.dumps(packed)}
    with storage.exclusive(path), storage.replacing(path) as scratch:
        scratch.write_bytes(to_bytes(tensors, metadata=metadata))


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the state dict and the facts that `save` wrote; nothing in the file is executed.

    Raises:
        ValueError: If the file is none of these; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
            facts, packed = json.loads(metadata["facts"]), json.loads(metadata["packed"])
        if not isinstance(facts, dict) or not isinstance(packed, list):
            raise ValueError("its facts are no mapping, or what is packed no list")
        scales = {name: tensors.pop(name + _SCALE) for name in packed}
        return {name: _unpacked(t, scales.get(name)) for name, t in tensors.items()}, facts
    except FileNotFoundError:
        raise
    except (
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        RuntimeError,
    ) as error:
        raise ValueError(
            f"{path} holds no weights of this suite ({_one_line(error)}). Remove it and run again."
        ) from error


def checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint: tensors and plain values; nothing in it is executed.

    Raises:
        ValueError: If the file is none, or holds anything else; the message names it.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
            raise TypeError("it has no state_dict")
    except FileNotFoundError:
        raise
    except Exception as error:  # of the unpickler, of the archive, of torch
        raise ValueError(
            f"{path} is no checkpoint of this suite ({_one_line(error)}). Remove it and run again."
        ) from error
    return content


def precision(state: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype in which a network computes, given its weights."""
    return next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Name a weights file within whose block a network cannot be built from its facts.

    Raises:
        ValueError: In the place of what building it raised.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else _one_line(error)
        raise ValueError(
            f"{path} does not fit the network that it names ({reason}). Remove it and run again."
        ) from error


def _one_line(error: Exception) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0]
    sentence = line.split(". ")[0].removesuffix(".")
    return "".join(c for c in sentence if c.isprintable())


def _packed(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    import torch

    if tensor.dim() < 2:
        return [(name, tensor.to(torch.float32))]
    scale = tensor.flatten(1).abs().amax(dim=1).clamp_min(1e-12) / _LEVELS
    levels = (tensor / _over_channels(scale, tensor)).round().to(torch.int8)
    return [(name, levels), (name + _SCALE, scale.to(torch.float32))]


def _unpacked(tensor: Tensor, scale: Tensor | None) -> Tensor:
    return tensor if scale is None else tensor.float() * _over_channels(scale, tensor)


def _over_channels(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (tensor.dim() - 1))
