"""Rows of the user's own: a model in a YAML file, trained by the protocol of one of our tables."""

from __future__ import annotations

import copy
import hashlib
import keyword
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reproduce import storage, yaml_values

_SECTIONS = ("seed_everything", "trainer", "model", "data")


@dataclass(frozen=True)
class OwnRow:
    """A row that a user adds to a table.

    Args:
        name: Name of the row: the file's stem.
        class_path: Class of its model, which is imported in the child that trains it.
        digest: SHA-256 of the file.
        sections: What the file states, by section; after `placed` the sections that stand in the
            place of the table's own.
    """

    name: str
    class_path: str
    digest: str
    sections: dict[str, Any]

    @property
    def origin(self) -> dict[str, str]:
        """Where the row comes from, as its provenance keeps it."""
        return {"class_path": self.class_path, "yaml_sha256": self.digest}

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
        sections = yaml_values.read(text)
    except ValueError as error:
        raise ValueError(f"--row {path} is no YAML of plain values: {error}") from error
    if isinstance(sections, dict) and set(sections) - set(_SECTIONS):
        raise ValueError(f"--row {path}: it may state {', '.join(_SECTIONS)}, and nothing else.")
    model = sections.get("model") if isinstance(sections, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("class_path"), str):
        raise ValueError(
            f"--row {path} names no model. State model.class_path, as in "
            "reproduce/configs/odenet.yaml."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return OwnRow(name, model["class_path"], digest, sections)


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
