"""What a sweep was asked for and has not finished, in a small file beside its run folders.

It is written before the first training and removed when the last has ended, whatever became of
it. So it is there while a sweep runs, and stays where one was broken off: `reproduce.status`
tells from it what nobody has begun.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce import storage, tables

NAME = "plan-{}.json"


@dataclass(frozen=True)
class Run:
    """One training that a plan names.

    Args:
        row: Its row.
        seed: Its seed.
        run: Its identity.
    """

    row: str
    seed: int
    run: str


@dataclass(frozen=True)
class Plan:
    """The trainings that one command has left, of one experiment.

    Args:
        profile: Their profile.
        overrides: What the user changed, as the rows carry it.
        where: How they run, in words; empty for one after another.
        runs: The trainings.
    """

    profile: str
    overrides: str
    where: str
    runs: tuple[Run, ...]


def write(path: Path, plan: Plan) -> None:
    """Keep a plan, as a whole; its folder is created if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**vars(plan), "runs": [vars(run) for run in plan.runs]}
    storage.write(path, json.dumps(content, indent=1))


def read(path: Path) -> Plan:
    """Return the plan in a file.

    Raises:
        ValueError: If it is none; the message names the file.
        FileNotFoundError: If there is none, as when its sweep has just ended.
    """
    text = storage.read(path)
    try:
        content = json.loads(text)
        texts = {name: _text(content[name]) for name in ("profile", "overrides", "where")}
        return Plan(runs=_runs(content["runs"]), **texts)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise storage.malformed(path, 1, f"it is no plan of a sweep: {error}") from None


def _runs(given: Sequence[dict[str, Any]]) -> tuple[Run, ...]:
    if not isinstance(given, list):
        raise TypeError("its runs are no list")
    return tuple(Run(_text(run["row"]), _whole(run["seed"]), _text(run["run"])) for run in given)


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{tables.shown(str(value))} is no seed")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(f"{tables.shown(str(value))} is no name")
    return value
