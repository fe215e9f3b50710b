"""What made the rows of a table, in few lines: the provenance of many runs put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce import provenance

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Origin:
    """Where rows come from; every text as the provenance has it.

    Args:
        commands: The commands that made them, with the number of runs of each.
        commits: The commits; one with changes that were not committed says so.
        machines: Processor, cores and threads.
        versions: Python and packages, each with the versions that were used.
        unknown: How many runs have no provenance.
    """

    commands: tuple[tuple[str, int], ...]
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    versions: tuple[tuple[str, str], ...]
    unknown: int


def origin(csv: Path, runs: Iterable[str]) -> Origin:
    """Put together the provenance of these runs, which lies beside a CSV.

    Raises:
        ValueError: If the file is malformed; the message names it.
    """
    path = provenance.path_for(csv)
    known = provenance.read(csv) if path.exists() else {}
    asked = sorted(set(runs))
    entries = [known[run] for run in asked if run in known]
    wrong = [entry for entry in entries if not isinstance(entry, Mapping)]
    if wrong:
        raise ValueError(f"{path} is not a provenance file: a run is {wrong[0]!r}, not a table.")
    return Origin(
        commands=tuple(Counter(_text(entry.get("command")) for entry in entries).items()),
        commits=_distinct(_commit(entry) for entry in entries),
        machines=_distinct(_machine(entry) for entry in entries),
        versions=_versions(entries),
        unknown=len(asked) - len(entries),
    )


def _commit(entry: Mapping[str, Any]) -> str:
    commit = _text(entry.get("commit"))
    changed = " with uncommitted changes" if entry.get("dirty") else ""
    return (commit if commit == UNKNOWN else commit[:10]) + changed


def _machine(entry: Mapping[str, Any]) -> str:
    cores, threads = _text(entry.get("cores")), _text(entry.get("threads"))
    return f"{_text(entry.get('cpu'))}, cores: {cores}, threads: {threads}"


def _versions(entries: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    found: dict[str, set[str]] = {}
    for entry in entries:
        found.setdefault("python", set()).add(_text(entry.get("python")))
        packages = entry.get("versions")
        for name, version in (packages if isinstance(packages, Mapping) else {}).items():
            found.setdefault(_text(name), set()).add(_text(version))
    return tuple((name, ", ".join(sorted(versions))) for name, versions in sorted(found.items()))


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(texts)))


def _text(value: object) -> str:
    return UNKNOWN if value in (None, "", []) else str(value)
