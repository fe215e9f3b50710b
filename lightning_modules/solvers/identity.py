"""When what was recorded of a field still stands for it.

A recording holds memory addresses and the numbers of the host that were read when it was made. It
stands for a field as long as the field's tensors lie where they lay, whatever they hold, and its
other attributes and the code of its classes are what they were. What a field reads beside them,
globals and the inner state of objects it refers to, is not seen and must not change.
"""

import enum
import types
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lightning_modules.solvers.attributes import (
    PLAIN,
    Kind,
    closed_over,
    is_plain,
    kind_of,
    of_class,
)
from lightning_modules.solvers.registry import Norm
from lightning_modules.solvers.state import Layout, times_written
from lightning_modules.solvers.tree import modules_of, only_written


class Unrecordable(Exception):
    """Something that cannot be recorded once and replayed; the message says why."""


# Where nn.Module keeps what `fingerprint` looks at by other means, or what no evaluation reads;
# in the last Lightning notes which of its hooks runs, another one in backward.
OWN = frozenset(nn.Module().__dict__) - {"training"} | {"_current_fx_name"}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fingerprint(module: nn.Module, tensors: list[Tensor] | None = None) -> Hashable:
    """Return what of a module a recording depends on, without the values in its tensors.

    Args:
        module: The module.
        tensors: Where its tensors are added, without averages that are only written.

    Raises:
        Unrecordable: If there are hooks, which a replay would not call, or attributes of which
            nobody can tell whether they have changed.
    """
    return _fingerprint(module, _Tensors([] if tensors is None else tensors))


def _fingerprint(module: nn.Module, found: "_Tensors") -> Hashable:
    marks: list[Hashable] = []
    unread = _Tensors([], found.places)
    modules = modules_of(module)
    places = {part: place for place, part in enumerate(modules)}
    cached = getattr(parametrize, "_cache_enabled", 0)
    kinds: dict[type, tuple[Kind, Hashable]] = {}
    for part in modules:
        own, cls = part.__dict__, type(part)
        if cls not in kinds:
            kinds[cls] = kind_of(cls), _reference(cls)  # parametrized classes hold their module
            marks += kinds[cls][0].code
        kind, reference = kinds[cls]
        marks.append(reference)
        if isinstance(part, torch.jit.ScriptModule):
            raise Unrecordable(f"a {type(part).__name__} keeps its attributes out of sight")
        if cached and parametrize.is_parametrized(part):
            raise Unrecordable("parametrize.cached() holds its weights; solve outside of that")
        for name, inner in own["_modules"].items():
            marks += (name, None if inner is None else places[inner])
        if any(own.get(hooks) for hooks in HOOKS):
            raise Unrecordable(f"a {type(part).__name__} has hooks, which a replay would not call")
        for name, tensor in own["_parameters"].items():
            marks += (name, None if tensor is None else found.mark(tensor))
        read = unread if own["_buffers"] and only_written(part) else found
        for name, tensor in own["_buffers"].items():
            marks += (name, None if tensor is None else read.mark(tensor))
        for attribute, value in own.items():
            if attribute not in OWN:
                marks.append(attribute)
                # 1, 1.0 and True are equal and not the same.
                marks.append((type(value), value) if type(value) in PLAIN else _mark(value, found))
        if kind.names:
            for attribute, value in of_class(part, kind):
                marks += (attribute, _mark(value, found))
    return tuple(marks)


def written(module: nn.Module) -> tuple[int, ...]:
    """Return how often each tensor of the module was written to."""
    return tuple(map(times_written, tensors_of(module)))


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yield parameters, buffers and other tensors that it has or its functions close over."""
    yield from module.parameters()
    yield from module.buffers()
    for part in modules_of(module):
        values = [value for _, value in of_class(part, kind_of(type(part)))]
        values += part.__dict__.values()
        functions = [value for value in values if isinstance(value, types.FunctionType)]
        values += [value for function in functions for _, value in closed_over(function)]
        yield from (value for value in values if isinstance(value, Tensor))


def norm_key(norm: Norm) -> Hashable:
    """Return what tells an error norm from others.

    Raises:
        Unrecordable: If it belongs to an object of which that is not known.
    """
    owner, function = getattr(norm, "__self__", None), getattr(norm, "__func__", norm)
    if owner is None:
        return _reference(function)
    called = _reference(function)
    if isinstance(owner, Layout):
        return called, owner
    if isinstance(owner, nn.Module):
        return called, _reference(owner), fingerprint(owner)
    key = getattr(owner, "key", None)
    if key is None:
        raise Unrecordable(f"the error norm belongs to a {type(owner).__name__}")
    return called, key()


def weakly(norm: Norm, field: object, weak: object) -> Norm:
    """Return the norm without a reference that keeps alive its owner, or what it closes over.

    Args:
        norm: Of which `norm_key` has told what it is.
        field: What may own it.
        weak: The same over a weak reference, which owns it then.
    """
    owner, function = getattr(norm, "__self__", None), getattr(norm, "__func__", None)
    if owner is not None and function is not None:
        if isinstance(owner, Layout):
            return norm
        there = weak if owner is field else weakref.proxy(owner)
        return types.MethodType(_loosely(function), there)
    return norm if owner is not None else _loosely(norm)


def _loosely(function: Norm) -> Norm:
    """Return a function, through a weak reference if it refers to anything."""
    if isinstance(function, types.FunctionType) and not (
        function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function)
    ):
        return function
    return cast(Norm, weakref.proxy(function))


class _Tensors:
    """Tensors that are met, each known by its memory and by which of them it is.

    Two parameters may share their memory, and the gradient is that of each alone.

    Args:
        met: Where they are added.
        places: When each was met first, by its id.
    """

    def __init__(self, met: list[Tensor], places: dict[int, int] | None = None) -> None:
        self.met = met
        self.places = {} if places is None else places

    def mark(self, x: Tensor) -> Hashable:
        """Add a tensor and return what tells it from others.

        Raises:
            Unrecordable: If its memory is not known, or there are hooks.
        """
        if type(x) not in (Tensor, nn.Parameter):
            raise Unrecordable(f"it has a {type(x).__name__}, whose memory is not known")
        if x.layout != torch.strided:
            raise Unrecordable(f"it has a tensor of {x.layout}, whose memory is not known")
        if x._backward_hooks:
            raise Unrecordable("a parameter has hooks, which a replay would not call")
        self.met.append(x)
        place = self.places.setdefault(id(x), len(self.places))
        return place, x.data_ptr(), x.shape, x.stride(), x.dtype, x.device, x.requires_grad


def _mark(value: Any, found: _Tensors) -> Hashable:
    if is_plain(value) or isinstance(value, enum.Enum):
        return type(value), value
    if isinstance(value, Tensor):
        return found.mark(value)
    if isinstance(value, nn.Module):
        return _fingerprint(value, found)
    if isinstance(value, weakref.ref) and isinstance(referent := value(), Tensor):
        return found.mark(referent)  # as recurrent nets have of their parameters
    if isinstance(value, dict):
        return tuple((_mark(key, found), _mark(inner, found)) for key, inner in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), tuple(_mark(inner, found) for inner in value)
    if isinstance(value, types.MethodType):
        return _mark(value.__func__, found), _reference(value.__self__)
    if isinstance(value, types.FunctionType):
        read = [(n, x) for n, x in closed_over(value) if is_plain(x) or isinstance(x, Tensor)]
        marks = tuple((name, _mark(x, found)) for name, x in read)
        return _reference(value), value.__code__, marks
    return _reference(value)


def _reference(value: Callable[..., Any] | object) -> Hashable:
    """Return what equals itself as long as ``value`` lives, and nothing else ever."""
    try:
        reference = weakref.ref(value)
        hash(reference)
    except TypeError:
        kind = type(value).__name__
        raise Unrecordable(f"it has a {kind}, of which changes would go unseen") from None
    return reference
