"""How far the trainings are: done, running, interrupted, failed or still to do.

It is read from what lies there: rows, run folders and their locks, and the plans of sweeps. All of
it may come from a stranger; what cannot be read is a line among the others.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from reproduce import folders, plans, records, storage, tables, tether
from reproduce.records import Record

State = Literal["done", "running", "interrupted", "failed", "to do"]
_LARGEST = 1e12  # of updates and seconds: what no training has
_LONGEST = 500  # characters of a hint
_FOLDER = re.compile(r"(?P<row>.+)-seed(?P<seed>[0-9]{1,20})-(?P<run>[0-9a-f]{12})")


@dataclass(frozen=True)
class Run:
    """One training, or one member of an ensemble that has its rows.

    Args:
        row: Its row, or the name of its job.
        seed: Its seed.
        run: Its identity.
        state: What became of it so far.
        kind: How it failed.
        hint: What to change after a failure.
        update, updates: Updates done, and in all; 0 where nobody knows.
        seconds: What it took, or will take yet; None where nobody knows.
    """

    row: str
    seed: int
    run: str
    state: State
    kind: str = ""
    hint: str = ""
    update: int = 0
    updates: int = 0
    seconds: float | None = None


@dataclass
class Group:
    """The trainings of an experiment under one profile and set of changes.

    Args:
        experiment: Name of the experiment.
        profile: The profile; empty where only a run folder is left, which does not say.
        overrides: What the user changed; empty for the plain protocol.
        runs: The trainings.
    """

    experiment: str
    profile: str
    overrides: str
    runs: list[Run] = field(default_factory=list)

    def of(self, state: State) -> list[Run]:
        """Return the trainings in a state."""
        return [run for run in self.runs if run.state == state]


@dataclass
class Status:
    """All there is to say.

    Args:
        groups: By experiment, profile and changes.
        unread: A line for each file that could not be read.
        elsewhere: Whether some sweep has handed its trainings to other machines.
    """

    groups: list[Group] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    elsewhere: bool = False


def read(out: Path, runs: Path, experiments: Sequence[str]) -> Status:
    """Return how far the trainings of these experiments are.

    Args:
        out: Folder of the results.
        runs: Folder of the run folders.
        experiments: Their names.
    """
    status = Status()
    for name in experiments:
        found = _Experiment(name)
        for path in folders.files(out, name):
            with _noting(status.unread):
                found.add_rows(records.read(path))
        for path in sorted((runs / name).glob(plans.NAME.format("*"))):
            with _noting(status.unread):
                found.plans.append(plans.read(path))
        for path in sorted((runs / name).glob("*-seed*")):
            with _noting(status.unread):
                found.add_folder(path)
        found.add_what_is_to_do()
        status.groups += [group for group in found.groups.values() if group.runs]
        status.elsewhere |= any("Ray" in plan.where for plan in found.plans)
    return status


def seconds_left(group: Group) -> tuple[float, int]:
    """Return the seconds of training that are left, and of how many trainings none are known.

    What nobody has begun takes what the finished trainings of its row took, or of any row.
    """
    took: dict[str, list[float]] = {}
    for run in group.of("done"):
        if run.seconds is not None:
            took.setdefault(run.row, []).append(run.seconds)
    every = [seconds for each in took.values() for seconds in each]
    left, unknown = 0.0, 0
    for run in (*group.of("running"), *group.of("interrupted"), *group.of("to do")):
        like = took.get(run.row, every)
        if run.seconds is not None:
            left += run.seconds
        elif like:
            left += sum(like) / len(like)
        else:
            unknown += 1
    return left, unknown


class _Experiment:
    """What is found of one experiment, in this order: rows, plans, run folders."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.groups: dict[tuple[str, str], Group] = {}
        self.plans: list[plans.Plan] = []
        self._where: dict[str, Group] = {}  # by run, of those that are known already

    def add_rows(self, rows: Sequence[Record]) -> None:
        """Add what has its rows; rows of measurements are done as those of trainings are."""
        each: dict[tuple[str, int, str], list[Record]] = {}
        for one in rows:
            if one.status != "skipped":
                each.setdefault((one.row, one.seed, one.run), []).append(one)
        for (row, seed, run), of_run in each.items():
            group = self._group(of_run[0].profile, of_run[0].overrides)
            group.runs.append(_of_rows(row, seed, run, of_run))
            self._where[run] = group

    def add_folder(self, path: Path) -> None:
        """Add a run folder; rows of the same run say more, unless it is being trained again."""
        named = _FOLDER.fullmatch(path.name)
        if named is None or not path.name.isprintable():
            raise ValueError(f"{path.parent}/{tables.shown(path.name)} is no run folder.")
        row, seed, run = named["row"], int(named["seed"]), named["run"]
        group = self._where.get(run)
        is_running = any(
            tether.is_held(path / lock) for lock in (tether.COMMAND_LOCK, tether.TRAINING_LOCK)
        )
        if group is not None and not is_running:
            return
        if group is None:
            plan = next((p for p in self.plans if run in {r.run for r in p.runs}), None)
            group = self._group(plan.profile, plan.overrides) if plan else self._group("", "")
        group.runs = [one for one in group.runs if one.run != run]
        self._where[run] = group  # it has begun, even if what it says is malformed
        state = _running(path) if is_running else _at_rest(path)
        group.runs.append(Run(row, seed, run, **state))

    def add_what_is_to_do(self) -> None:
        """Add what was asked for and has neither rows nor a run folder."""
        for plan in self.plans:
            for run in plan.runs:
                if run.run not in self._where:
                    group = self._group(plan.profile, plan.overrides)
                    group.runs.append(Run(run.row, run.seed, run.run, "to do"))
                    self._where[run.run] = group

    def _group(self, profile: str, overrides: str) -> Group:
        new = Group(self.name, profile, overrides)
        return self.groups.setdefault((profile, overrides), new)


def _of_rows(row: str, seed: int, run: str, rows: Sequence[Record]) -> Run:
    took = [r.value for r in rows if r.metric == "train_seconds" and r.status == "ok"]
    seconds = [value for value in took if 0 <= value < _LARGEST]
    if any(r.status == "ok" for r in rows):
        return Run(row, seed, run, "done", seconds=seconds[0] if seconds else None)
    return Run(row, seed, run, "failed", kind=rows[0].status, hint=_printable(rows[0].hint))


def _running(folder: Path) -> dict[str, Any]:
    return {"state": "running", **_progress(folder)}


def _at_rest(folder: Path) -> dict[str, Any]:
    """Return the state of a run folder that no process has."""
    summary = _object(folder / "summary.json")
    kind, hint = summary.get("status"), summary.get("hint", "")
    if kind == "ok":
        return {"state": "done"}
    if kind in get_args(records.Status):
        return {"state": "failed", "kind": kind, "hint": _printable(str(hint))}
    if summary:
        raise storage.malformed(folder / "summary.json", 1, "it names no status")
    has_checkpoint = any((folder / "checkpoints").glob("*.ckpt"))
    return {"state": "interrupted", **(_progress(folder) if has_checkpoint else {})}


def _progress(folder: Path) -> dict[str, Any]:
    """Return updates and seconds left; nothing where the training has not said so yet."""
    path = folder / "progress.json"
    said = _object(path)
    if said.get("phase") != "train":
        return {}
    numbers: list[Any] = [said.get(name) for name in ("done", "total", "seconds_left")]
    if not all(type(n) in (int, float) and 0 <= n < _LARGEST for n in numbers):
        raise storage.malformed(path, 1, "it does not say how far the training is")
    done, total, seconds = numbers
    return {"update": int(done), "updates": int(total), "seconds": float(seconds)}


def _object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one if there is no file."""
    try:
        text = storage.read(path)
    except FileNotFoundError:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise storage.malformed(path, 1, f"it is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise storage.malformed(path, 1, "it is no JSON object")
    return content


def _printable(text: str) -> str:
    """Return a text of a stranger's as a terminal may show it, in one line."""
    return "".join(c if c.isprintable() else " " for c in text)[:_LONGEST]


@contextmanager
def _noting(lines: list[str]) -> Iterator[None]:
    """Turn what cannot be read into a line; what has just gone is no loss."""
    try:
        yield
    except FileNotFoundError:
        pass
    except (ValueError, OSError) as error:
        lines.append(_printable(str(error)))
