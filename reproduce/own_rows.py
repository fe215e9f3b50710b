"""Rows of the user's own: a model in a YAML file, trained by the protocol of one of our tables."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import keyword
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from reproduce import storage

_SECTIONS = ("seed_everything", "trainer", "model", "data")
# Settings that name a module, and what follows its name.
_NAMING = {"class_path": ".", "backend": ":"}
# Whose code is known by the protocol's number and by the versions in the provenance.
_KNOWN = ("lightning_modules", "datamodules", "reproduce", "torch")


@dataclass(frozen=True)
class OwnRow:
    """A row that a user adds to a table.

    Args:
        name: Name of the row: the file's stem.
        class_path: Class of its model, which is imported in the child that trains it.
        digest: SHA-256 of the file.
        sections: What the file states, by section; after `placed` the sections that stand in the
            place of the table's own.
        code: SHA-256 of the source of every module that has a class, or a solver, that it names.
    """

    name: str
    class_path: str
    digest: str
    sections: dict[str, Any]
    code: dict[str, str]

    @property
    def origin(self) -> dict[str, Any]:
        """Where the row comes from, as its provenance keeps it."""
        told = {"class_path": self.class_path, "yaml_sha256": self.digest}
        return {**told, "code_sha256": self.code}

    def applying(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return the overrides of a profile without settings that this model does not state."""
        return {
            key: value
            for key, value in overrides.items()
            if not key.startswith("model.") or self.states(key)
        }

    def states(self, key: str) -> bool:
        """Return whether the file states a setting, such as ``model.schedule.name``."""
        inner = self.sections["model"].get("init_args")
        for part in key.split(".")[1:]:
            if not isinstance(inner, dict) or part not in inner:
                return False
            inner = inner[part]
        return True


def read(path: Path, taken: Collection[str]) -> OwnRow:
    """Read the YAML of a row; nothing in it is imported.

    Args:
        path: A file shaped like those in ``reproduce/configs``; ``model`` is all it needs.
        taken: Names that rows of ours have.

    Raises:
        ValueError: If the file is no such thing, or its name cannot be that of a row.
    """
    name = path.stem
    if path.suffix not in (".yaml", ".yml") or not path.exists():
        raise ValueError(f"--row {path}: give a YAML file that exists.")
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(
            f"--row {path}: the row is called {name!r} after its file, which must be a plain name "
            "of letters, digits and underscores. Rename the file."
        )
    if name in taken:
        raise ValueError(f"--row {path}: {name} is a row already. Rename the file.")
    text = storage.read(path)
    try:
        sections = get_loader("yaml")(text)  # as a training reads it: 1e-4 is a number
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"--row {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(sections, dict) or set(sections) - set(_SECTIONS):
        raise ValueError(f"--row {path}: it may state {', '.join(_SECTIONS)}, and nothing else.")
    model = sections.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("class_path"), str):
        raise ValueError(
            f"--row {path} names no model. State model.class_path, as in "
            "reproduce/configs/odenet.yaml."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return OwnRow(name, model["class_path"], digest, sections, _code(model))


def _code(model: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each module's source that a model names; nothing is imported."""
    found = {}
    for module in sorted(set(_modules(model))):
        source = _source(module)
        if source is not None and source.is_file():
            found[module] = hashlib.sha256(source.read_bytes()).hexdigest()
    return found


def _modules(value: Any, key: str = "") -> Iterator[str]:
    """Yield the modules of classes and solvers that a section names, but for those of `_KNOWN`."""
    if isinstance(value, dict):
        for inner, within in value.items():
            yield from _modules(within, inner)
    elif isinstance(value, list):
        for within in value:
            yield from _modules(within)
    elif isinstance(value, str) and key in _NAMING:
        module, named, _ = value.rpartition(_NAMING[key])
        if named and module.partition(".")[0] not in _KNOWN:
            yield module


def _source(module: str) -> Path | None:
    """Return where a module's source is; the packages that it is in are not imported."""
    package, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(package)
        for part in parts:
            if spec is None or spec.submodule_search_locations is None:
                return None
            package = f"{package}.{part}"
            spec = PathFinder.find_spec(package, spec.submodule_search_locations)
    except (ImportError, ValueError):  # a name such as ".." or one that has no spec
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def placed(row: OwnRow, base: Mapping[str, Any], free: Sequence[str] = ()) -> OwnRow:
    """Return the row with the sections that replace those of the table's protocol.

    Args:
        row: What a file states.
        base: A configuration of the table: its trainer and its data.
        free: Settings of the data that rows of this table may choose.

    Raises:
        ValueError: If the file states another protocol.
    """
    where = f"row {row.name}"
    _refuse_other(where, "trainer", row.sections.get("trainer", {}), base["trainer"])
    data, ours = row.sections.get("data", {}), base["data"]
    if not isinstance(data, dict) or data.get("class_path") not in (None, ours["class_path"]):
        raise ValueError(f"{where}: the data of this table are {ours['class_path']}.")
    given = data.get("init_args") or {}
    _refuse_other(where, "data", given, ours["init_args"], free)
    chosen = {key: value for key, value in given.items() if key in free}
    return replace(
        row,
        sections={
            "model": copy.deepcopy(row.sections["model"]),
            "data": {**ours, "init_args": {**ours["init_args"], **chosen}},
        },
    )


def _refuse_other(
    where: str, section: str, given: Any, ours: Mapping[str, Any], free: Sequence[str] = ()
) -> None:
    """Refuse settings that the protocol of the table has otherwise."""
    if not isinstance(given, dict):
        raise ValueError(f"{where}: {section} is {given!r}, which has no settings.")
    for key, value in given.items():
        if key not in free and (key not in ours or ours[key] != value):
            has = f"has {ours[key]!r}" if key in ours else "does not set it"
            raise ValueError(
                f"{where}: {section}.{key} is {value!r}, the protocol of the table {has}. Leave "
                "it out: all rows are trained alike."
            )
