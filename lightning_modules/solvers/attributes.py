"""Attributes of a module beside its tensors: plain values, those of its class, and its mode."""

import dis
import enum
import functools
import inspect
import types
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device))
_LOOKED_AT = (Tensor, enum.Enum, list, tuple, dict, set, frozenset)
# Methods that set or tell the mode and are no part of an evaluation.
_BESIDE = ("train", "eval", "extra_repr", "__init__", "__setstate__", "__getstate__")

_names: weakref.WeakKeyDictionary[type, tuple[str, ...]] = weakref.WeakKeyDictionary()
_modes: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def is_plain(value: object) -> bool:
    """Return whether a value is a number, a text or the like, which cannot change by itself."""
    kind = type(value)
    # Of NumPy's: its scalars, and no array.
    return kind in PLAIN or (kind.__module__ == "numpy" and not hasattr(kind, "__setitem__"))


def of_class(module: nn.Module) -> Iterable[tuple[str, Any]]:
    """Return names and values of what a module has from its classes or in their slots.

    Methods and what PyTorch's own classes have are left out.
    """
    kind = type(module)
    names = _names.get(kind)
    if names is None:
        names = _names[kind] = tuple(dict.fromkeys(_named(kind)))
    own = module.__dict__
    return [(name, getattr(module, name, None)) for name in names if name not in own]


def reads_mode(module: nn.Module) -> bool:
    """Return whether a method of a module's classes names ``training``."""
    if any("training" in _words(code) for code in _codes(module.__dict__.get("forward"))):
        return True
    kind = type(module)
    found = _modes.get(kind)
    if found is None:
        found = _modes[kind] = any(
            "training" in _words(code)
            for owner in kind.__mro__
            if owner not in (nn.Module, object)
            for name, member in vars(owner).items()
            if name not in _BESIDE
            for code in _codes(member)
        )
    return found


def closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield names and values that a function reads: of functions around it, globals, defaults."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for place, value in enumerate(function.__defaults__ or ()):
        yield f"default {place}", value
    yield from (function.__kwdefaults__ or {}).items()
    known = function.__globals__
    yield from ((name, known[name]) for name in _globals(code) if name in known)


@functools.lru_cache(maxsize=512)
def _globals(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that are looked up as globals; ``co_names`` has those of attributes too."""
    found = (i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL")
    return tuple(dict.fromkeys(found))


def _named(kind: type) -> Iterator[str]:
    for owner in kind.__mro__:
        if owner is object or owner.__module__.split(".")[0] == "torch":
            continue
        for name, value in vars(owner).items():
            kept = is_plain(value) or isinstance(value, (*_LOOKED_AT, types.MemberDescriptorType))
            if kept and not name.startswith("__"):
                yield name


def _codes(member: object) -> Iterator[types.CodeType]:
    for name in ("fget", "__func__", "func"):  # of properties, class methods, cached properties
        member = getattr(member, name, member)
    if callable(member):
        member = inspect.unwrap(member)
    if isinstance(member, types.FunctionType):
        yield member.__code__


def _words(code: types.CodeType) -> set[str]:
    """Return the names that a function uses, and those within it."""
    inner = (_words(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)
