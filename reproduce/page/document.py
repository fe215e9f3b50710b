"""The page as one text: everything that it shows is in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from reproduce import catalogue, folders, judgements, paper
from reproduce.judgements import Line
from reproduce.page import outline, scorecard, sections, tables
from reproduce.page.tables import Table
from reproduce.records import SEEDS_FOR_A_VERDICT, Record

if TYPE_CHECKING:
    from jinja2 import Environment


def render(folder: Path, out: str = "") -> str:
    """Return the page of a folder of results; equal rows and figures give equal pages.

    Args:
        folder: The folder, which may be empty.
        out: What a command needs to write into this folder, such as ``--out elsewhere``; empty
            where that is the default or does not matter.

    Raises:
        ValueError: If a CSV or a provenance file is malformed; the message names it.
    """
    rows = folders.all_rows(folder)
    lines = judgements.judge(rows)
    shipped = None if folders.is_shipped(folder) else _by_id(folders.all_rows(folders.SHIPPED))
    told = {
        name: sections.section(name, folder, lines, shipped, out) for name in catalogue.names()
    }
    run = [name for name, section in told.items() if section.results]
    entries = scorecard.entries(lines, rows, out)
    style, script = _asset("page.css"), _asset("page.js")
    text: str = (
        _environment()
        .get_template("page.html")
        .render(
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
            is_shipped=shipped is None,
            entries=entries,
            numbers=_numbers(lines, shipped),
            demonstrations=_demonstrations(lines),
            counts=scorecard.counts(entries),
            concerning={name: [e for e in entries if name in e.experiments] for name in run},
            chapters=[
                (chapter, [told[name] for name in chapter.names])
                for chapter in outline.chapters(run)
            ],
            waiting=[
                told[name]
                for chapter in outline.chapters(told)
                for name in chapter.names
                if name not in run
            ],
            unknown=_unknown(folder),
            seeds_for_a_verdict=SEEDS_FOR_A_VERDICT,
        )
    )
    return text


def _numbers(lines: Sequence[Line], shipped: dict[str, Line] | None) -> Table | None:
    """Return the paper's numbers that something was run for."""
    mine = [
        line
        for line in lines
        if line.kind == "number" and line.n + line.failed and line.verdict != "not comparable"
        if not paper.checked_exactly(line.experiments[0])
    ]
    said = (
        "Every number of the paper that was run and can be judged. The 95 % interval is for one "
        "further run of ours"
    )
    return tables.judged("numbers-of-the-paper", said, mine, shipped) if mine else None


def _demonstrations(lines: Sequence[Line]) -> Table | None:
    """Return how many of each demonstration's reference numbers were reproduced."""
    verdicts: dict[str, list[str]] = {}
    for line in lines:
        if line.kind == "number" and line.n and paper.checked_exactly(line.experiments[0]):
            verdicts.setdefault(line.experiments[0], []).append(line.verdict)
    return tables.tally(
        "reference-numbers",
        "Reference numbers of the deck's demonstrations: closed forms and independent solutions",
        {name: (some.count("reproduced"), len(some)) for name, some in verdicts.items()},
    )


def _by_id(rows: list[Record]) -> dict[str, Line]:
    return {line.id: line for line in judgements.judge(rows)}


def _unknown(folder: Path) -> list[str]:
    """Return the folders whose rows belong to no experiment of this version."""
    known = {*catalogue.names(), "runs"}
    return sorted(
        {path.parent.name for path in folder.glob("*/*.csv") if path.parent.name not in known}
    )


def _asset(name: str) -> str:
    return resources.files("reproduce.page").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return how a content security policy names the one text that it lets run."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("reproduce.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
