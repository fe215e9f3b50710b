"""The user's code that a configuration names, known by the source of its modules."""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

# Whose code is known by the protocol's number and by the versions in the provenance.
_KNOWN = ("lightning_modules", "datamodules", "reproduce", "torch")


def digests(section: Any) -> dict[str, str]:
    """Return the SHA-256 of the source of every module of others that a section names.

    Named are classes, ``package.module.Class``, and solvers, ``package.module:function``. Where it
    is a package that is named, whose modules have the class, all its files count; what a module
    imports from elsewhere does not. Nothing is imported, and what is not there is left out: the
    training tells it.

    Args:
        section: A part of a configuration, such as its model.
    """
    found = {}
    names = {tuple(text.replace(":", ".").split(".")) for text in _texts(section)}
    for parts in sorted(names):
        if len(parts) > 1 and parts[0] not in _KNOWN and all(map(str.isidentifier, parts)):
            module, contents = _source(parts)
            if contents:
                found[module] = hashlib.sha256(b"\0".join(contents)).hexdigest()
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for within in value.values():
            yield from _texts(within)
    elif isinstance(value, list):
        for within in value:
            yield from _texts(within)


def _source(parts: Sequence[str]) -> tuple[str, list[bytes]]:
    """Return the innermost module that the first of the parts name, and its files."""
    module = parts[0]
    try:
        spec = importlib.util.find_spec(module)
        for part in parts[1:]:
            places = spec.submodule_search_locations if spec else None
            # Looked for by its last name: by the whole one, its package would have to be imported.
            inner = PathFinder.find_spec(part, list(places)) if places is not None else None
            if inner is None:
                break
            spec, module = inner, f"{module}.{part}"
        return module, _contents(spec) if spec else []
    except Exception:  # of somebody's finder, or of a file that cannot be read
        return module, []


def _contents(spec: ModuleSpec) -> list[bytes]:
    if spec.origin is None:  # a folder that is no package
        return []
    places = spec.submodule_search_locations or []
    files = sorted(file for place in places for file in Path(place).rglob("*.py"))
    if files:
        return [file.read_bytes() for file in files]
    read = getattr(spec.loader, "get_data", None)  # not there for what is built in
    return [read(spec.origin)] if read else []
