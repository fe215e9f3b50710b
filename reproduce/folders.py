"""Folders of results: the shipped one, and the rows that lie in any of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reproduce import catalogue, records
from reproduce.records import Record

SHIPPED = Path(__file__).parent.parent / "results"


def all_rows(folder: Path, experiments: Sequence[str] | None = None) -> list[Record]:
    """Return the rows in a folder of results, of all experiments that exist or of some.

    Raises:
        ValueError: If a CSV is malformed; the message names it and the line.
    """
    chosen = experiments or catalogue.names()
    return [row for name in chosen for path in files(folder, name) for row in records.read(path)]


def files(folder: Path, experiment: str) -> list[Path]:
    """Return the CSVs of an experiment in a folder of results, one a profile."""
    return sorted((folder / experiment).glob("*.csv"))


def is_shipped(folder: Path) -> bool:
    """Return whether a folder is the one whose results the repository ships."""
    return folder.resolve() == SHIPPED.resolve()


def runs(out: Path) -> Path:
    """Return the folder of the run folders that belong to a folder of results."""
    told = os.environ.get("REPRODUCE_RUNS")
    return (Path(told) if told else out / "runs").resolve()
