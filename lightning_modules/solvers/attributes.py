"""What a module is beside its tensors: plain values, its classes' values and code, its mode."""

import dis
import enum
import functools
import types
import weakref
from collections.abc import Hashable, Iterable, Iterator
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
        names: Of plain values and the like, of slots, and of what is called and has no code.
        code: That of its methods, whatever has been made of them, with their defaults and what
            they close over.
        reads_mode: Whether a method names ``training``, those of libraries too.
    """

    names: tuple[str, ...]
    code: list[Hashable]
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
    methods, or their code and defaults.
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
    if kind.reads_mode:
        return True
    own = module.__dict__.get("forward")
    return own is not None and any("training" in _words(code) for code in _codes(own))


def closed_over(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield names and values that a function reads: of functions around it, globals, defaults."""
    yield from _own(function)
    known = function.__globals__
    yield from ((name, known[name]) for name in _globals(function.__code__) if name in known)


def _own(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield those of functions around it and its defaults."""
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for place, value in enumerate(function.__defaults__ or ()):
        yield f"default {place}", value
    yield from (function.__kwdefaults__ or {}).items()


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
    known = [x for n, x in chain(*(vars(owner).items() for owner in theirs)) if n not in _BESIDE]
    known += [vars(cls.__mro__[i])[name] for i, name in with_code]
    everything = chain(*map(_codes, known))
    return _Looked(
        tuple((i, len(vars(owner))) for i, owner in own.items()),
        tuple(with_code),
        Kind(tuple(dict.fromkeys(names)), code, any("training" in _words(c) for c in everything)),
    )


def _code(cls: type, methods: Iterable[tuple[int, str]]) -> list[Hashable]:
    found: list[Hashable] = []
    owners = cls.__mro__
    for place, name in methods:
        member = owners[place].__dict__.get(name)
        if type(member) is types.FunctionType and not (
            member.__dict__ or member.__closure__ or member.__defaults__ or member.__kwdefaults__
        ):
            found.append(member.__code__)  # nothing beside, so quicker
        else:
            for function in _functions(member):
                found.append(function.__code__)
                found += ((name, _held(value)) for name, value in _own(function))
    return found


def _held(value: object) -> Hashable:
    """Return what tells apart what functions of a class hold, without keeping it alive."""
    if is_plain(value):
        return type(value), value
    return None if isinstance(value, types.FunctionType) else id(value)


def _is_value(member: object) -> bool:
    if is_plain(member) or isinstance(member, (*_LOOKED_AT, types.MemberDescriptorType)):
        return True
    return callable(member) and not any(_codes(member))


def _codes(member: object) -> Iterator[types.CodeType]:
    yield from (function.__code__ for function in _functions(member))


def _functions(member: object) -> list[types.FunctionType]:
    """Return the function that a member of a class is, with those that it wraps or closes over.

    None of a partial one, which is known by itself, with its arguments.
    """
    if isinstance(member, functools.partial):
        return []
    for name in ("fget", "__func__", "func"):  # of properties, class methods, cached properties
        member = getattr(member, name, member)
    found: list[types.FunctionType] = []
    todo = [member]
    while todo:
        one = todo.pop()
        if isinstance(one, types.FunctionType) and one not in found:
            found.append(one)
            todo += (value for _, value in _own(one))
        wrapped = getattr(one, "__wrapped__", None) if callable(one) else None
        if wrapped is not None:
            todo.append(wrapped)
    return found


def _words(code: types.CodeType) -> set[str]:
    """Return the names that a function uses, and those within it."""
    inner = (_words(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*inner)
