"""What a module is beside its tensors: plain values, its classes' values and code, its mode."""

import dis
import enum
import functools
import inspect
import types
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device))
_LOOKED_AT = (Tensor, enum.Enum, list, tuple, dict, set, frozenset)
# Methods that set or tell the mode and are no part of an evaluation.
_BESIDE = ("train", "eval", "extra_repr", "__init__", "__setstate__", "__getstate__")
_LIBRARIES = ("torch", "pytorch_lightning", "lightning")


@dataclass(frozen=True)
class Kind:
    """What modules have from their class and those above it, of those of libraries nothing.

    Args:
        names: Of plain values and the like, and of slots.
        code: That of its methods, whatever has been made of them.
        reads_mode: Whether a method names ``training``, those of libraries too.
    """

    names: tuple[str, ...]
    code: list[types.CodeType]
    reads_mode: bool


class _Looked(NamedTuple):
    """How a class was last seen.

    Owners are places in the method resolution order: a class must not keep itself alive.

    Args:
        sizes: Owners, and how many members each has, by which new ones are noticed.
        methods: Owners and names of what has code.
        kind: What it was.
    """

    sizes: tuple[tuple[int, int], ...]
    methods: tuple[tuple[int, str], ...]
    kind: Kind


_looks: weakref.WeakKeyDictionary[type, _Looked] = weakref.WeakKeyDictionary()


def kind_of(cls: type) -> Kind:
    """Return what a class is now.

    Those who edit a class while it is in use, IPython's ``%autoreload`` among them, replace its
    methods or the code in them.
    """
    looked = _looks.get(cls)
    if looked is None or (looked.sizes and _is_other(cls, looked)):
        looked = _looks[cls] = _look(cls)
    return looked.kind


def is_plain(value: object) -> bool:
    """Return whether a value is a number, a text or the like, which cannot change by itself."""
    kind = type(value)
    # Of NumPy's: its scalars, and no array.
    return kind in PLAIN or (kind.__module__ == "numpy" and not hasattr(kind, "__setitem__"))


def of_class(module: nn.Module, kind: Kind) -> Iterable[tuple[str, Any]]:
    """Return names and values of what a module has from its classes or in their slots."""
    own = module.__dict__
    return [(name, getattr(module, name, None)) for name in kind.names if name not in own]


def reads_mode(module: nn.Module, kind: Kind) -> bool:
    """Return whether a method of a module or of its classes names ``training``."""
    own = module.__dict__.get("forward")
    return kind.reads_mode or any("training" in _words(code) for code in _codes(own))


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


def _is_other(cls: type, looked: _Looked) -> bool:
    """Return whether members of a class have come, gone or got other code."""
    owners = cls.__mro__
    if any(len(owners[i].__dict__) != size for i, size in looked.sizes):
        return True
    return _code(cls, looked.methods) != looked.kind.code


def _look(cls: type) -> _Looked:
    own: dict[int, type] = {}
    theirs: list[type] = []
    for place, owner in enumerate(cls.__mro__):
        if owner not in (object, nn.Module):
            if owner.__module__.split(".")[0] in _LIBRARIES:
                theirs.append(owner)
            else:
                own[place] = owner
    members = [(i, name, x) for i, owner in own.items() for name, x in vars(owner).items()]
    names = [name for _, name, x in members if _is_value(x) and not name.startswith("__")]
    with_code = [(i, n) for i, n, x in members if n not in _BESIDE and any(_codes(x))]
    code = _code(cls, with_code)
    library = [x for owner in theirs for n, x in vars(owner).items() if n not in _BESIDE]
    everything = chain(code, *map(_codes, library))
    return _Looked(
        tuple((i, len(vars(owner))) for i, owner in own.items()),
        tuple(with_code),
        Kind(tuple(dict.fromkeys(names)), code, any("training" in _words(c) for c in everything)),
    )


def _code(cls: type, methods: Iterable[tuple[int, str]]) -> list[types.CodeType]:
    found: list[types.CodeType] = []
    owners = cls.__mro__
    for place, name in methods:
        member = owners[place].__dict__.get(name)
        if type(member) is types.FunctionType and not member.__dict__:
            found.append(member.__code__)  # nothing that wraps another, so quicker
        else:
            found += _codes(member)
    return found


def _is_value(member: object) -> bool:
    return is_plain(member) or isinstance(member, (*_LOOKED_AT, types.MemberDescriptorType))


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
