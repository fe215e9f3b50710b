"""What a field computes with beside its parameters, between a forward solve and its backward one.

Backward evaluates the field again. It must then be what it was in forward, and what its
evaluations write, running means above all, must not be written a second time.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from lightning_modules.solvers.identity import OWN, PLAIN
from lightning_modules.solvers.parts import parts_of
from lightning_modules.solvers.state import times_written

_Name = tuple[int, str]  # id of a module, which the field keeps alive, and an attribute's name
_Marks = dict[_Name, Hashable]  # equal for the same thing, and for nothing else in its place


@dataclass(frozen=True)
class Surroundings:
    """A field's parameters, buffers and attributes at one moment, without their values.

    Args:
        parameters: Which they are, how often each was written to, whether it wants a gradient.
        buffers: Which they are, and how often each was written to.
        averages: Likewise those of normalisations in training, which only write them.
        attributes: Numbers, texts and tensors that are no buffers.
        training: Whether any module of it is in training.
        held: The tensors, so that no other has their place in memory.
    """

    parameters: _Marks
    buffers: _Marks
    averages: _Marks
    attributes: _Marks
    training: bool
    held: list[Tensor]

    @classmethod
    def of(cls, field: object) -> "Surroundings":
        """Look at a field; what is no module has nothing to look at."""
        found = cls({}, {}, {}, {}, False, [])
        training = False
        for part in parts_of(field):
            training |= part.training
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    found.held.append(parameter)
                    mark = id(parameter), times_written(parameter), parameter.requires_grad
                    found.parameters[id(part), name] = mark
            if part._buffers:
                passing = part.training and isinstance(part, _NormBase)
                found._add(part, part._buffers, found.averages if passing else found.buffers)
            found._add(part, part.__dict__, found.attributes)
            if isinstance(part, _NormBase | _DropoutNd):
                found.attributes[id(part), "training"] = part.training
        return replace(found, training=training)

    def _add(self, part: nn.Module, values: Mapping[str, object], marks: _Marks) -> None:
        for name, value in values.items():
            if isinstance(value, Tensor):
                self.held.append(value)
                marks[id(part), name] = id(value), times_written(value)
            elif type(value) in PLAIN and name not in OWN and name != "training":
                marks[id(part), name] = type(value), value  # 1, 1.0 and True are equal


@dataclass(frozen=True)
class Solved:
    """What a forward solve found around the field.

    Args:
        field: The field.
        after: What there was when it had ended.
        given: The attributes that the field's evaluations only read.
        writes: Whether they write buffers, or may: functions such as ``F.batch_norm`` write
            without counting it.
    """

    field: object
    after: Surroundings
    given: _Marks
    writes: bool

    @classmethod
    def since(cls, before: Surroundings, field: object) -> "Solved":
        """Compare what there was before a solve with what there is after it."""
        after = Surroundings.of(field)
        was, now = before.attributes, after.attributes
        given = {name: mark for name, mark in now.items() if was.get(name) == mark}
        may = bool(after.buffers or after.averages) and after.training
        written = (before.buffers, before.averages) != (after.buffers, after.averages)
        return cls(field, after, given, may or written)

    @classmethod
    def untouched(cls, field: object) -> "Solved":
        """Look at a field that was not evaluated, and will write nothing when it is."""
        after = Surroundings.of(field)
        return cls(field, after, after.attributes, writes=False)

    def check(self) -> None:
        """Look at the field before backward.

        Raises:
            RuntimeError: If it is not what it was when the forward solve had ended.
        """
        now = Surroundings.of(self.field)
        changed = [name for name, was in self.given.items() if now.attributes.get(name) != was]
        if changed:
            _, attribute = changed[0]
            raise other(f"The field's {attribute!r} was changed")
        if now.buffers != self.after.buffers:
            raise other("A buffer of the field was replaced or written to")
        if now.parameters != self.after.parameters:
            raise other("The field's parameters were replaced, written to, frozen or unfrozen")


@dataclass(frozen=True)
class Read:
    """Tensors that a solve read, and how often each was written to."""

    tensors: list[Tensor]
    written: list[int]

    @classmethod
    def from_tensors(cls, tensors: list[Tensor]) -> "Read":
        """Look at tensors."""
        return cls(tensors, list(map(times_written, tensors)))

    def check(self) -> None:
        """Look at them before backward.

        Raises:
            RuntimeError: If their values may be others.
        """
        if list(map(times_written, self.tensors)) != self.written:
            raise other("A tensor that the field reads was written to")


def other(what: str) -> RuntimeError:
    """Return the error of a field that is another one in backward than in forward."""
    return RuntimeError(
        f"{what} between forward and backward, which evaluates the field again and would meet "
        "another one. Run backward first, make what changes part of the state, or use "
        "gradient='direct'; a field that knows its parts is given as a function then, "
        "lambda t, y: field(t, y)."
    )


@contextmanager
def again(solved: Solved, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Let a field be evaluated again, for gradients.

    Raises:
        RuntimeError: If it is not what it was in forward, or its weights are cached without a
            graph.
    """
    solved.check()
    cached = getattr(parametrize, "_cache_enabled", 0)
    if cached and any(map(parametrize.is_parametrized, parts_of(solved.field))):
        raise RuntimeError(
            "Backward evaluates the field again within parametrize.cached(), whose weights have "
            "no graph by then. End that block before backward, or use gradient='direct'."
        )
    with _without_hooks(parameters), unwritten(solved.field if solved.writes else None):
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
        for part in parts_of(field)
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
