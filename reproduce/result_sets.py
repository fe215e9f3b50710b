"""A set of results: the rows in a folder or one CSV with their provenance; and how two differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce import provenance, records
from reproduce.records import PROFILES, Record

# What a provenance entry says about where and with what a run was made.
_DESCRIBED = (
    "commit",
    "dirty",
    "python",
    "versions",
    "platform",
    "cpu",
    "cores",
    "threads",
    "devices",
    "precision",
)
_COMMIT_DIGITS = 12


@dataclass(frozen=True)
class ResultSet:
    """Rows of any experiments and profiles.

    Args:
        name: What it is called in print: where it lies.
        records: The rows.
        made: Provenance entries by run.
        without: CSVs that have no provenance beside them.
    """

    name: str
    records: tuple[Record, ...]
    made: dict[str, dict[str, Any]]
    without: tuple[Path, ...]


@dataclass(frozen=True)
class Difference:
    """Something that the provenance of two sets tells differently.

    Args:
        what: The entry, such as ``versions.torch``.
        a: What the runs of the first set have, each with the number of runs where they disagree.
        b: The same of the second set.
    """

    what: str
    a: str
    b: str


def is_one(path: Path) -> bool:
    """Return whether a path is that of a result set: a folder, or a CSV."""
    return path.is_dir() or (path.suffix == ".csv" and path.exists())


def read(path: Path, profile: str | None = None) -> ResultSet:
    """Read a folder of results, the folder of one experiment, or one CSV; nothing in it is run.

    Args:
        path: Where the set lies.
        profile: The one profile to read; None reads all.

    Raises:
        ValueError: If there are no rows, or if a file is malformed; the message names it.
    """
    rows: list[Record] = []
    made: dict[str, dict[str, Any]] = {}
    without: list[Path] = []
    for file in _files(path):
        found = [row for row in records.read(file) if profile in (None, row.profile)]
        if not found:
            continue
        rows += found
        try:
            made |= provenance.read(file)
        except FileNotFoundError:
            without.append(file)
    if not rows:
        under = f" under {profile}" if profile else ""
        raise ValueError(
            f"{path} holds no results{under}. Name a folder as --out makes it "
            f"(<experiment>/<profile>.csv), the folder of one experiment, or one CSV."
        )
    return ResultSet(str(path), tuple(rows), made, tuple(without))


def differences(a: ResultSet, b: ResultSet) -> list[Difference]:
    """Return what two sets tell differently: first their rows, then their provenance."""
    told = [
        Difference("changed settings", *(_counted(_changes(one)) for one in (a, b))),
        Difference("device", *(_counted(_devices(one)) for one in (a, b))),
    ]
    entries = [_described(one) for one in (a, b)]
    for what in dict.fromkeys(key for one in entries for key in one):
        told.append(Difference(what, *(_counted(one.get(what, [])) for one in entries)))
    return [one for one in told if one.a != one.b]


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield plain values of nested mappings by dotted name, whatever shape they have."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}".lstrip("."))
    else:
        yield name, value


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    own = [file for file in sorted(path.glob("*.csv")) if file.stem in PROFILES]
    return own or [file for file in sorted(path.glob("*/*.csv")) if file.stem in PROFILES]


def _changes(one: ResultSet) -> list[str]:
    texts = {row.run: row.overrides for row in one.records}
    return [_printable(text) or "none" for text in texts.values()]


def _devices(one: ResultSet) -> list[str]:
    named = {row.run: row.device for row in one.records if row.device}
    return [_printable(text) for text in named.values()]


def _described(one: ResultSet) -> dict[str, list[str]]:
    """Return what the entries of the runs that have rows say, by name."""
    found: dict[str, list[str]] = {}
    for run in dict.fromkeys(row.run for row in one.records):
        entry = one.made.get(run, {})
        for name, value in flat({key: entry.get(key) for key in _DESCRIBED}):
            text = value[:_COMMIT_DIGITS] if name == "commit" and value else value
            if text is not None:
                found.setdefault(name, []).append(_printable(text))
    return found


def _printable(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(c for c in text if c.isprintable())


def _counted(values: Iterable[str]) -> str:
    """Return the one value that all runs have, or each with the number of runs that have it."""
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    if not counts:
        return "not told"
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} (of {counts[value]} runs)" for value in sorted(counts))
