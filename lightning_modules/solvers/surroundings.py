"""What a field is and computes with, between a forward solve and its backward one.

Backward evaluates the field again. It must then be what it was in forward, and what its
evaluations write, running means above all, must not be written a second time. The inside of lists,
dicts and other objects that a field refers to is not looked at.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lightning_modules.solvers.attributes import (
    Kind,
    closed_over,
    is_plain,
    kind_of,
    of_class,
    reads_mode,
)
from lightning_modules.solvers.identity import OWN
from lightning_modules.solvers.state import times_written, writable
from lightning_modules.solvers.tree import modules_of, only_written


@dataclass(frozen=True, eq=False, slots=True)
class _Identity:
    """Something that equals itself alone; it is held, so that nothing else gets its id."""

    of: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.of is self.of

    __hash__ = None  # type: ignore[assignment]


_Marks = dict[tuple[object, str], object]


@dataclass(frozen=True)
class Surroundings:
    """What there is of a field at one moment, without the values in its tensors.

    Of a tensor it is known which one it is, in which memory, and how often it was written to.

    Args:
        modules: The field and the modules within.
        parameters: Those that want a gradient.
        buffers: All but averages that are only written.
        averages: These.
        attributes: Frozen parameters, tensors that are nothing of the above, functions, numbers,
            texts and the like, of their classes too; whether those are in training that read it.
    """

    modules: list[nn.Module]
    parameters: _Marks
    buffers: _Marks
    averages: _Marks
    attributes: _Marks

    @classmethod
    def of(cls, field: object) -> "Surroundings":
        """Look at a field: a module, or a function with what it reads from around it."""
        found = cls(modules_of(field), {}, {}, {}, {})
        kinds: dict[type, Kind] = {}
        for module in found.modules:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    wanted = parameter.requires_grad
                    marks = found.parameters if wanted else found.attributes
                    marks[module, name] = _mark(parameter)
            marks = found.averages if only_written(module) else found.buffers
            for name, buffer in module._buffers.items():
                marks[module, name] = _mark(buffer)
            for name, value in module.__dict__.items():
                if name not in OWN and name != "training":
                    found._add(module, name, value)
                    found._add_read(value)
            owner = type(module)
            if owner not in kinds:
                kinds[owner] = kind_of(owner)
                if kinds[owner].code:
                    found.attributes[owner, "methods"] = kinds[owner].code
            kind = kinds[owner]
            for name, value in of_class(module, kind) if kind.names else ():
                found._add(module, name, value)
            if reads_mode(module, kind):
                found.attributes[module, "training"] = module.training
        found._add_read(field)
        return found

    def _add_read(self, function: object) -> None:
        """Add what a function reads from around it; of anything else nothing."""
        if isinstance(function, FunctionType):
            for name, value in closed_over(function):
                if is_plain(value) or isinstance(value, Tensor):
                    self._add(function, name, value)

    def _add(self, owner: object, name: str, value: object) -> None:
        mark = _mark(value)
        if mark is not None:
            self.attributes[owner, name] = mark


def _mark(value: object) -> object:
    """Return what tells a value from others; None if nobody can."""
    if isinstance(value, Tensor):
        if is_lazy(value):
            return _Identity(value), None, 0
        return _Identity(value), _memory(value), times_written(value)
    if is_plain(value):
        return type(value), value  # 1, 1.0 and True are equal and not the same
    if isinstance(value, Enum) or (callable(value) and not isinstance(value, nn.Module)):
        return _Identity(value)
    return None


def _memory(tensor: Tensor) -> _Identity | None:
    """Return what tells ``p.data = …``, which nothing counts; None for tensors without memory."""
    try:
        return _Identity(tensor.untyped_storage())
    except NotImplementedError:  # sparse tensors, and those of torch.func
        return None


@dataclass(frozen=True)
class Solved:
    """A field as a forward solve left it.

    Args:
        field: The field.
        modules: Its modules; none where evaluations replace them.
        parameters: As in `Surroundings`.
        buffers: Likewise.
        attributes: Likewise, those that evaluations do not change.
        known: Names of all attributes.
        writes: Whether evaluations write buffers, or may: functions such as ``F.batch_norm``
            write without counting it.
    """

    field: object
    modules: list[nn.Module]
    parameters: _Marks
    buffers: _Marks
    attributes: _Marks
    known: frozenset[tuple[object, str]]
    writes: bool

    @classmethod
    def since(cls, before: Surroundings, field: object) -> "Solved":
        """Compare what there was before a solve with what there is after it."""
        after = Surroundings.of(field)
        was, now = before.attributes, after.attributes
        in_training = any(module.training for module in after.modules)
        may = bool(after.buffers or after.averages) and in_training
        written = (before.buffers, before.averages) != (after.buffers, after.averages)
        return cls(
            field,
            after.modules if after.modules == before.modules else [],
            after.parameters,
            after.buffers,
            {name: mark for name, mark in now.items() if was.get(name) == mark},
            frozenset(now),
            may or written,
        )

    @classmethod
    def untouched(cls, field: object) -> "Solved":
        """Look at a field that was not evaluated, and will write nothing when it is."""
        now = Surroundings.of(field)
        known = frozenset(now.attributes)
        return cls(field, now.modules, now.parameters, now.buffers, now.attributes, known, False)

    def check(self) -> None:
        """Look at the field before backward.

        Raises:
            RuntimeError: If it is not what it was when the forward solve had ended.
        """
        now = Surroundings.of(self.field)
        if self.modules and now.modules != self.modules:
            raise changed("The field's modules were replaced")
        if now.parameters != self.parameters:
            raise changed("The field's parameters were replaced, frozen or unfrozen")
        others = [name for name, was in self.attributes.items() if now.attributes.get(name) != was]
        if self.modules:  # those that evaluations make have attributes that nobody knows yet
            others += now.attributes.keys() - self.known
        if others:
            raise changed(f"The field's {others[0][1]!r} was changed")
        if now.buffers != self.buffers:
            raise changed("A buffer of the field was replaced or written to")


def changed(what: str) -> RuntimeError:
    """Return the error of a field that is another one in backward than in forward."""
    return RuntimeError(
        f"{what} between forward and backward, which needs the field as forward left it. Run "
        "backward first, make what changes part of the state, or use gradient='direct'; a field "
        "that knows its parts is given as a function then, lambda t, y: field(t, y)."
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
    if cached and any(map(parametrize.is_parametrized, modules_of(solved.field))):
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
        (part._buffers, name, buffer)
        for part in modules_of(field)
        for name, buffer in part._buffers.items()
        if buffer is not None and writable(buffer)
    ]
    with put_back([buffer for _, _, buffer in there]):
        try:
            yield
        finally:
            for owner, name, buffer in there:
                owner[name] = buffer


@contextmanager
def put_back(tensors: Sequence[Tensor]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Give tensors their memory and their numbers back, as if nobody had written to them.

    Normalisations write without counting it, so versions do not tell: yielded is the memory of
    each tensor with a copy of its numbers.

    Args:
        tensors: What may be written to, as `state.writable` tells.
    """
    with torch.autograd._unsafe_preserve_version_counter(tuple(tensors)):
        copies = [(x.detach(), x.detach().clone()) for x in tensors]
        try:
            yield copies
        finally:
            with torch.no_grad():
                for tensor, (memory, copy) in zip(tensors, copies, strict=True):
                    if _is_elsewhere(tensor, memory):
                        tensor.data = memory
                    memory.copy_(copy)


def _is_elsewhere(tensor: Tensor, memory: Tensor) -> bool:
    """Return whether a tensor has got other memory than it had, as by ``p.data = …``."""
    was, now = (memory.shape, memory.stride()), (tensor.shape, tensor.stride())
    try:
        return was != now or tensor.data_ptr() != memory.data_ptr()
    except RuntimeError:  # those of torch.func have no memory of their own
        return False
