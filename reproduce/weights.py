"""Trained weights as shipped: one safetensors file per network, under a megabyte.

A network whose float32 weights are larger is written with eight bits a number: every tensor of
two or more dimensions as integers from -127 to 127 and one scale for each output channel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce import storage

if TYPE_CHECKING:
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
        if not isinstance(facts, dict):
            raise ValueError("its facts are no mapping")
        scales = {name: tensors.pop(name + _SCALE) for name in packed}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} holds no weights of this suite ({error}). Remove it and run again."
        ) from error
    return {name: _unpacked(t, scales.get(name)) for name, t in tensors.items()}, facts


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
