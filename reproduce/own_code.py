"""The user's code that a configuration names, known by the source of its modules."""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

_OURS = ("lightning_modules", "datamodules", "reproduce")  # known by the protocol's number
_VERSIONED = ("torch", "torchvision", "torchdiffeq", "torchmetrics", "pytorch_lightning")


def digests(section: Any) -> dict[str, str]:
    """Return the SHA-256 of the source of every module that a section names, but for our own.

    Named are classes, ``package.module.Class``, and solvers, ``package.module:function``. Of a
    package that is named itself, ``package.Class``, all files count; in an archive its
    ``__init__`` alone. What a module imports does not. Nothing is imported here, and what is not
    there is left out: the training tells it. Libraries whose versions the provenance has are left
    out, too.

    Args:
        section: A part of a configuration, such as its model.

    Raises:
        OSError: If a file that is there cannot be read.
    """
    found = {}
    names = {tuple(text.replace(":", ".").split(".")) for text in _texts(section)}
    for parts in sorted(names):
        theirs = parts[0] not in (*_OURS, *_VERSIONED)
        if len(parts) > 1 and theirs and all(map(str.isidentifier, parts)):
            module, spec = _innermost(parts)
            contents = _contents(spec) if spec else []
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


def _innermost(parts: Sequence[str]) -> tuple[str, ModuleSpec | None]:
    """Return the innermost module that the first of the parts name, and where it is."""
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
        return module, spec
    except Exception:  # of somebody's finder
        return module, None


def _contents(spec: ModuleSpec) -> list[bytes]:
    if spec.origin is None:  # a folder that is no package
        return []
    contents = []
    for place in map(Path, spec.submodule_search_locations or ()):
        for file in sorted(place.rglob("*.py")):
            if file.is_file():
                contents += [str(file.relative_to(place)).encode(), file.read_bytes()]
    if contents:
        return contents
    read = getattr(spec.loader, "get_data", None)  # not there for what is built in
    return [read(spec.origin)] if read else []
