"""One experiment of the page: its protocol, and what every profile of it has given."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from markupsafe import Markup

from reproduce import findings, folders, paper, records
from reproduce.judgements import NOT_RUN, Line
from reproduce.page import figures, origins, prose, tables
from reproduce.page.figures import Movie, Picture
from reproduce.page.origins import Origin
from reproduce.page.prose import Protocol
from reproduce.page.tables import Table
from reproduce.records import PROFILES, Record

# What an experiment's own table may raise on rows that are not whole, or not by this suite.
INCOMPLETE = (LookupError, ValueError, TypeError, ArithmeticError)


@dataclass(frozen=True)
class Result:
    """The rows of one profile.

    Args:
        profile: The profile.
        file: The CSV, relative to the page.
        command: What remakes it.
        seeds: The seeds, in words.
        failed: How many runs failed, and how.
        budgets: What was run.
        devices: Where, as the rows say.
        protocols: Protocol versions of the rows.
        outdated: Whether they are of another version than the text beside them.
        table: The experiment's own table; None where it cannot be made.
        lacking: Why it cannot.
        findings: What the experiment says of its rows, as HTML; empty if nothing.
        all: Every metric of every row.
        pictures: The figures.
        movie: The movie, if there is one.
        origin: What made the rows.
    """

    profile: str
    file: str
    command: str
    seeds: str
    failed: str
    budgets: tuple[str, ...]
    devices: tuple[str, ...]
    protocols: str
    outdated: bool
    table: Table | None
    lacking: str
    findings: Markup
    all: Table
    pictures: tuple[Picture, ...]
    movie: Movie | None
    origin: Origin


@dataclass(frozen=True)
class Section:
    """One experiment.

    Args:
        name: Its name, and its anchor.
        protocol: What it does.
        caption: What its figures show.
        numbers: Published numbers beside ours; None where nothing of it was published and run.
        notes: What to know of those numbers: where they stand, why the tolerance, who re-ran them.
        results: What there is, the profile that says most first; empty where nothing was run.
        command: What runs it.
        minutes: Minutes that the shortest profile takes on two CPU cores; None if not measured.
    """

    name: str
    protocol: Protocol
    caption: str
    numbers: Table | None
    notes: tuple[str, ...]
    results: tuple[Result, ...]
    command: str
    minutes: float | None


def section(
    name: str, folder: Path, lines: Sequence[Line], shipped: dict[str, Line] | None, out: str
) -> Section:
    """Tell of one experiment.

    Args:
        name: Its name.
        folder: The folder of results.
        lines: Verdicts on all rows there.
        shipped: Verdicts on the shipped rows by id, to stand beside; None if these are they.
        out: What a command needs to write into this folder; may be empty.

    Raises:
        ValueError: If a file is malformed; the message names it.
    """
    module = importlib.import_module(f"reproduce.experiments.{name}")
    mine = [x for x in lines if x.kind == "number" and x.experiments == (name,)]
    mine = [x for x in mine if x.verdict != NOT_RUN and x.n + x.failed]
    beside = "reference" if paper.checked_exactly(name) else "published"
    said = f"{beside.capitalize()} numbers beside ours: {name}"
    quick = module.PROFILES["quick"]
    drawing = getattr(module, "figures", None) or module.plot
    return Section(
        name=name,
        protocol=prose.protocol(module),
        caption=prose.caption(drawing),
        numbers=tables.judged(f"{name}-numbers", said, mine, shipped, beside) if mine else None,
        notes=_notes(mine),
        results=tuple(_result(name, module, path, out) for path in _in_order(folder, name)),
        command=_command(name, "", out),
        minutes=quick.duration(),
    )


def _in_order(folder: Path, name: str) -> list[Path]:
    """Return the CSVs of an experiment, the profile that says most first.

    One that was begun, and has not all rows that others have, comes behind those that have them.
    """
    files = folders.files(folder, name)
    known = [path for profile in PROFILES for path in files if path.stem == profile]
    rows = {path: {record.row for record in records.read(path)} for path in known}
    known.sort(key=lambda path: rows[path] != set().union(*rows.values()))
    return [*known, *(path for path in files if path not in known)]


def _result(name: str, module: ModuleType, path: Path, out: str) -> Result:
    rows = records.read(path)
    profile = path.stem
    table, lacking = _own_table(name, module, profile, rows)
    versions = sorted({row.protocol for row in rows})
    return Result(
        profile=profile,
        file=figures.address(path),
        command=_command(name, profile if profile in PROFILES else "", out),
        seeds=_seeds(rows),
        failed=_failed(rows),
        budgets=tuple(dict.fromkeys(row.budget for row in rows)),
        devices=tuple(dict.fromkeys(row.device for row in rows)),
        protocols=", ".join(map(str, versions)),
        outdated=bool(versions) and versions != [module.PROTOCOL],
        table=table,
        lacking=lacking,
        findings=prose.html(findings.said(name, rows)),
        all=tables.measured(
            f"{name}-{profile}-all", f"Every metric over its seeds: {name}, {profile}", rows
        ),
        pictures=tuple(figures.pictures(path.parent, profile)),
        movie=figures.movie(path.parent, profile),
        origin=origins.origin(path, (row.run for row in rows)),
    )


def _own_table(
    name: str, module: ModuleType, profile: str, rows: Sequence[Record]
) -> tuple[Table | None, str]:
    """Return the experiment's table of its plain rows, or why there is none."""
    plain = findings.plain(rows)
    if not plain:
        return None, "there are no rows of unchanged settings"
    said = f"{prose.caption(module.table)} {name}, {profile}"
    try:
        return tables.own(f"{name}-{profile}-table", said, module.table(plain), plain), ""
    except INCOMPLETE as error:
        return None, f"it needs rows that are not there, first {error}"


def _command(name: str, profile: str, out: str) -> str:
    asked = [f"--profile {profile}"] if profile else []
    return " ".join(["python -m reproduce", name, *asked, *([out] if out else [])])


def _seeds(rows: Sequence[Record]) -> str:
    """Say which seeds there are, and where a row has fewer of them."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        seeds.setdefault(row.row, set()).add(row.seed)
    together = set().union(*seeds.values())
    fewer = [row for row, some in seeds.items() if some != together]
    text = _ranges(sorted(together))
    if not fewer:
        return text
    return f"{text}; not all of them in {len(fewer)} of {len(seeds)} rows"


def _ranges(numbers: Sequence[int]) -> str:
    """Write whole numbers in order, those that follow one another as a range."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in runs)


def _failed(rows: Sequence[Record]) -> str:
    """Say which runs gave no value and what they told, each once."""
    told = dict.fromkeys(
        f"{row.row}, seed {row.seed}: {row.status}{f' ({row.hint})' if row.hint else ''}"
        for row in rows
        if row.status != "ok"
    )
    return "; ".join(told)


def _notes(lines: Sequence[Line]) -> tuple[str, ...]:
    """Return what the paper's numbers come with, each text once."""
    known = tables.numbers()
    told: dict[str, None] = {}
    for line in lines:
        number = known[line.id]
        again = (f"{o.value:g} by {o.source}: {o.setting}." for o in number.others)
        for text in (number.note, number.reason, number.later, *again):
            if text:
                told[f"{number.where}: {text}"] = None
    return tuple(told)
