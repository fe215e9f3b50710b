"""What a field computes with beside its parameters, between a forward solve and its backward one.

Backward evaluates the field again. It must then be what it was in forward, and what its
evaluations write, running means above all, must not be written a second time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from lightning_modules.solvers.identity import OWN, PLAIN
from lightning_modules.solvers.state import times_written

_Name = tuple[int, str]  # id of a module, which the field keeps alive, and an attribute's name


@dataclass(frozen=True)
class Surroundings:
    """The attributes and buffers of a field at one moment.

    Args:
        attributes: Numbers, texts and tensors that are no buffers; of a tensor also how often it
            was written to.
        buffers: All buffers, alike.
        training: Whether any module of it is in training.
    """

    attributes: dict[_Name, tuple[object, int]]
    buffers: dict[_Name, tuple[object, int]]
    training: bool

    @classmethod
    def of(cls, field: object) -> "Surroundings":
        """Look at a field; what is no module has nothing to look at."""
        attributes: dict[_Name, tuple[object, int]] = {}
        buffers: dict[_Name, tuple[object, int]] = {}
        training = False
        for part in field.modules() if isinstance(field, nn.Module) else ():
            training |= part.training
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    buffers[id(part), name] = buffer, times_written(buffer)
            for name, value in part.__dict__.items():
                if isinstance(value, Tensor):
                    attributes[id(part), name] = value, times_written(value)
                elif type(value) in PLAIN and name not in OWN and name != "training":
                    attributes[id(part), name] = value, 0
            if isinstance(part, _NormBase | _DropoutNd):
                attributes[id(part), "training"] = part.training, 0
        return cls(attributes, buffers, training)


@dataclass(frozen=True)
class Solved:
    """What a forward solve found around the field.

    Args:
        given: Attributes that the field's evaluations only read.
        writes: Whether they write buffers, or may: functions such as ``F.batch_norm`` write
            without counting it.
    """

    given: dict[_Name, tuple[object, int]]
    writes: bool

    @classmethod
    def between(cls, before: Surroundings, after: Surroundings) -> "Solved":
        """Compare what there was before a solve and after it, while the field was in training."""
        given = {
            name: value
            for name, value in after.attributes.items()
            if _same(before.attributes.get(name), value)
        }
        may = bool(after.buffers) and after.training
        return cls(given, may or _differ(before, after))


@contextmanager
def again(field: object, parameters: Sequence[Tensor], solved: Solved) -> Iterator[None]:
    """Let a field be evaluated again, for gradients.

    Raises:
        RuntimeError: If it is not what it was in forward.
    """
    if getattr(parametrize, "_cache_enabled", 0) and _is_parametrized(field):
        raise RuntimeError(
            "Backward evaluates the field again within parametrize.cached(), whose weights have "
            "no graph by then. End that block before backward, or use gradient='direct'."
        )
    found = Surroundings.of(field).attributes
    changed = [name for name, was in solved.given.items() if not _same(was, found.get(name))]
    if changed:
        _, attribute = changed[0]
        raise RuntimeError(
            f"The field's {attribute!r} was changed between forward and backward, which evaluates "
            "the field again and would meet another one. Run backward first, make it part of the "
            "state, or use gradient='direct'."
        )
    with _without_hooks(parameters), unwritten(field if solved.writes else None):
        yield


@contextmanager
def _without_hooks(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Keep the hooks of parameters from the parts of a gradient; they are called for the sum.

    Two threads must not go back through the same parameters at once if those have hooks.
    """
    hooked = [p for p in parameters if p._backward_hooks]
    kept = [dict(p._backward_hooks) for p in hooked if p._backward_hooks]
    for p in hooked:
        assert p._backward_hooks is not None
        p._backward_hooks.clear()
    try:
        yield
    finally:
        for p, hooks in zip(hooked, kept, strict=True):
            assert p._backward_hooks is not None
            p._backward_hooks.update(hooks)


@contextmanager
def unwritten(field: object) -> Iterator[None]:
    """Put back what is written to a module's buffers, as if nobody had."""
    there = [
        (part._buffers, name, buffer, buffer.clone())
        for part in (field.modules() if isinstance(field, nn.Module) else ())
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    tensors = tuple(buffer for _, _, buffer, _ in there)
    # Normalisations write without counting it, so versions do not tell.
    with torch.autograd._unsafe_preserve_version_counter(tensors):
        try:
            yield
        finally:
            with torch.no_grad():
                for owner, name, buffer, value in there:
                    owner[name] = buffer
                    buffer.copy_(value)


def _is_parametrized(field: object) -> bool:
    parts: Any = field.modules() if isinstance(field, nn.Module) else ()
    return any(parametrize.is_parametrized(part) for part in parts)


def _same(one: tuple[object, int] | None, other: tuple[object, int] | None) -> bool:
    if one is None or other is None or one[1] != other[1]:
        return False
    if one[0] is other[0]:
        return True
    if isinstance(one[0], Tensor) or isinstance(other[0], Tensor):
        return False
    return type(one[0]) is type(other[0]) and one[0] == other[0]


def _differ(before: Surroundings, after: Surroundings) -> bool:
    first, second = before.buffers, after.buffers
    return first.keys() != second.keys() or not all(
        _same(value, second[name]) for name, value in first.items()
    )
