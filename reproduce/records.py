"""Measured values as tidy rows: one per run and metric, kept in one CSV per profile.

Numbers are written in full precision and never as formatted text, so that reading a file back
gives the same bits, and everything that is drawn or judged later can be redone from it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from reproduce import storage, tables

if TYPE_CHECKING:
    import pandas as pd

# The profile that says most first.
PROFILES = ("paper", "short", "quick", "smoke")
SEEDS_FOR_A_VERDICT = 5

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # a terminal obeys them

Status = Literal[
    "ok",
    "solver_failed",  # the step limit, or a state that is not finite
    "underflow",  # the solver's step size vanished
    "diverged",
    "out_of_memory",
    "disk_full",
    "time_out",
    "killed",
    "error",
    "skipped",
]


@dataclass(frozen=True)
class Record:
    """One measured value, or the place of one that a failed run did not yield.

    Args:
        experiment: Name of the experiment.
        row: Row of its table.
        metric: What was measured.
        value: The number; finite, but NaN when the run failed.
        unit: Unit of ``value``.
        seed: Seed of the run.
        profile: Profile of the run (``smoke``, ``quick``, ``short`` or ``paper``).
        protocol: Protocol version of the experiment; rows of different versions do not compare.
        budget: What was trained, such as ``0.64 of an epoch, batch 128``.
        overrides: Settings changed with ``--set``; empty if none.
        device: Where it ran, such as ``cpu, 2 threads``.
        run: Identity of the run, 12 hexadecimal digits.
        status: ``ok``, or how the run failed; ``skipped`` is what could not be tried here.
        hint: What to change after a failure or to try it at all; empty otherwise.

    Raises:
        ValueError: If the status is unknown, if value and status disagree, or if the run is not
            an identity.
    """

    experiment: str
    row: str
    metric: str
    value: float
    unit: str
    seed: int
    profile: str
    protocol: int
    budget: str
    overrides: str
    device: str
    run: str
    status: Status = "ok"
    hint: str = ""

    def __post_init__(self) -> None:
        value = int(self.value) if isinstance(self.value, Integral) else float(self.value)
        object.__setattr__(self, "value", value)  # NumPy's and torch's scalars become plain
        # A hint repeats what a training printed, with the colours that a model of the user's uses.
        object.__setattr__(self, "hint", _CONTROL.sub(" ", self.hint))
        if self.status not in get_args(Status):
            choices = ", ".join(get_args(Status))
            given = tables.shown(self.status)
            raise ValueError(f"Unknown status {given}. Choose one of {choices}.")
        if math.isfinite(value) != (self.status == "ok"):
            raise ValueError(f"The value {value} does not go with status {self.status!r}.")
        if not re.fullmatch("[0-9a-f]{12}", self.run):
            raise ValueError(f"The run {tables.shown(self.run)} is not 12 hexadecimal digits.")


COLUMNS = tuple(field.name for field in fields(Record))


@dataclass(frozen=True)
class Summary:
    """One metric over the runs of a row that share profile, protocol and overrides.

    Args:
        row, profile, protocol, overrides, unit: As in the records.
        n_ok, n_failed: Number of runs that gave a value, and that gave none.
        mean, min, max: Of the values; NaN without any.
        sd: Sample standard deviation (n - 1); NaN for fewer than two values.
        failures: Each status that a failed run ended with, and how many did.
    """

    row: str
    profile: str
    protocol: int
    overrides: str
    unit: str
    n_ok: int
    n_failed: int
    mean: float
    sd: float
    min: float
    max: float
    failures: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Failed:
    """What stands in the place of a value that could not be had.

    Args:
        status: How it failed.
        hint: What to change, or what happened.
    """

    status: Status
    hint: str


def told(value: float | Failed) -> tuple[float, Status, str]:
    """Return value, status and hint as a record has them."""
    if isinstance(value, Failed):
        return math.nan, value.status, value.hint
    return value, "ok", ""


def append(path: Path, records: Iterable[Record], instead_of: tuple[str, ...] = ()) -> None:
    """Add records to a CSV, all of them or none, while no other process does.

    A seed of a row, under one profile and set of overrides, has one run: what an earlier run left
    there gives way to a new one, as do the failed rows of the same run.

    Args:
        path: The CSV; it and its folder are created if need be.
        records: The rows to add.
        instead_of: Beginnings of names; earlier rows of the same profile, overrides and seed go
            that are named so, whether or not they come again.

    Raises:
        ValueError: If the file that is there is malformed; it is left as it is.
        OSError: If the folder cannot be written to; the message says how to choose another.
    """
    path = Path(path)
    with storage.exclusive(path):
        _write(path, merge(read(path) if path.exists() else [], records, instead_of))


def merge(
    earlier: Iterable[Record], new: Iterable[Record], instead_of: tuple[str, ...] = ()
) -> list[Record]:
    """Return earlier and new records as `append` keeps them, in the order of the file."""
    new = list(new)
    renewed = {_place(record): record.run for record in new}
    places = {_beside(record) for record in new}
    kept = [
        r
        for r in earlier
        if not (r.row.startswith(instead_of) and _beside(r) in places)
        and (_place(r) not in renewed or (renewed[_place(r)] == r.run and r.status == "ok"))
    ]
    merged = {(*_place(record), record.metric): record for record in [*kept, *new]}
    return sorted(merged.values(), key=_order)


def read(path: Path) -> list[Record]:
    """Read the records of a CSV.

    Args:
        path: A file that `append` wrote.

    Raises:
        ValueError: If the file is malformed; the message names it, the line and what to do.
        FileNotFoundError: If there is none.
    """
    found = []
    for line, cells in tables.rows(path, COLUMNS):
        with storage.naming(path, line):
            found.append(_record(cells))
    return found


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Return the records as a table with one column per field."""
    import pandas as pd

    return pd.DataFrame({name: [getattr(r, name) for r in records] for name in COLUMNS})


def summary(records: Iterable[Record], metric: str) -> list[Summary]:
    """Summarise one metric for each row, profile, protocol and set of overrides.

    A run that failed counts as failed for every metric that it gave no value of, whichever
    metric its failed row names.

    Args:
        records: Records of one experiment.
        metric: The metric.

    Returns:
        One summary for each group that has a value or a failure, in the order of the records.
    """
    groups: dict[tuple[str, str, int, str], list[Record]] = {}
    for record in records:
        key = (record.row, record.profile, record.protocol, record.overrides)
        if record.metric == metric or record.status != "ok":
            groups.setdefault(key, []).append(record)
    return [_summary(members, metric) for members in groups.values()]


def _summary(members: Sequence[Record], metric: str) -> Summary:
    """Summarise one group."""
    given = {_run_key(r): r for r in members if r.metric == metric and r.status == "ok"}
    failed = {_run_key(r): r.status for r in members if _run_key(r) not in given}
    values = [record.value for record in given.values()]
    mean = math.fsum(values) / len(values) if values else math.nan
    squares = math.fsum((value - mean) ** 2 for value in values)
    first = members[0]
    return Summary(
        row=first.row,
        profile=first.profile,
        protocol=first.protocol,
        overrides=first.overrides,
        unit=next((r.unit for r in members if r.metric == metric), ""),
        n_ok=len(values),
        n_failed=len(failed),
        mean=mean,
        sd=math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else math.nan,
        min=min(values, default=math.nan),
        max=max(values, default=math.nan),
        failures=tuple(sorted(Counter(failed.values()).items())),
    )


def _run_key(record: Record) -> tuple[str, str, int, str]:
    """Return what tells the run of a record from other runs in its file."""
    return record.experiment, record.row, record.seed, record.run


def _place(record: Record) -> tuple[str | int, ...]:
    """Return what only one run may hold: otherwise one seed would count twice."""
    return record.row, *_beside(record)


def _beside(record: Record) -> tuple[str | int, ...]:
    """Return what a record has in common with those of other rows of its measurement."""
    return record.experiment, record.profile, record.overrides, record.seed


def _order(record: Record) -> tuple[str | int, ...]:
    """Return the place of a record in its file, the same in whatever order records came."""
    group = (record.experiment, record.row, record.profile, record.protocol, record.overrides)
    return (*group, record.seed, record.metric, record.run)


def _record(cells: dict[str, str]) -> Record:
    """Build a record from the cells of one line."""
    named: dict[str, str | int | float] = {
        **cells,
        "value": tables.number("value", cells["value"]),
        "seed": tables.integer("seed", cells["seed"]),
        "protocol": tables.integer("protocol", cells["protocol"]),
    }
    for name in ("experiment", "row", "metric"):
        if not cells[name] or not cells[name].isprintable():
            raise ValueError(f"{name} is {tables.shown(cells[name])}, which is not a name")
    for name, cell in cells.items():
        if _CONTROL.search(cell):
            raise ValueError(f"{name} is {tables.shown(cell)}: control characters")
    if cells["profile"] not in PROFILES:
        choices = ", ".join(PROFILES)
        given = tables.shown(cells["profile"])
        raise ValueError(f"Unknown profile {given}. Choose one of {choices}")
    return Record(**named)  # type: ignore[arg-type]


def _write(path: Path, records: Iterable[Record]) -> None:
    lines = [",".join(COLUMNS)]
    lines += [",".join(_cell(getattr(record, name)) for name in COLUMNS) for record in records]
    storage.write(path, "\n".join(lines) + "\n")


def _cell(value: str | int | float) -> str:
    """Write one cell; `csv.writer` leaves a lone carriage return unquoted before Python 3.13."""
    text = value if isinstance(value, str) else repr(value)
    return '"' + text.replace('"', '""') + '"' if re.search('[,"\r\n]', text) else text
