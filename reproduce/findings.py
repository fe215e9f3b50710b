"""What an experiment says of its own rows in words, for reports that must stay true of them."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from pathlib import Path

from reproduce import catalogue, records
from reproduce.records import PROFILES, Record

BEGIN = "<!-- findings of {} -->"
END = "<!-- end of the findings -->"
WIDTH = 100


def plain(rows: Sequence[Record]) -> list[Record]:
    """Return the rows of unchanged settings and of the newest protocol among them."""
    unchanged = [row for row in rows if not row.overrides]
    newest = max((row.protocol for row in unchanged), default=0)
    return [row for row in unchanged if row.protocol == newest]


def said(name: str, rows: Sequence[Record]) -> str:
    """Return what an experiment finds in its rows; empty if it says nothing, or lacks some."""
    module = importlib.import_module(f"reproduce.experiments.{name}")
    if not hasattr(module, "findings") or not plain(rows):
        return ""
    try:
        text: str = module.findings(plain(rows))
    except LookupError:
        return ""
    return text


def of_folder(folder: Path) -> dict[str, str]:
    """Return the findings in a folder of results, by experiment: of the profile that says most."""
    found = {}
    for name in catalogue.names():
        files = [folder / name / f"{profile}.csv" for profile in PROFILES]
        main = next((path for path in files if path.exists()), None)
        text = said(name, records.read(main)) if main is not None else ""
        if text:
            found[name] = text
    return found


def inserted(path: Path, text: str, found: dict[str, str]) -> str:
    """Return ``text`` with every finding between its two markers, where it has them.

    Args:
        path: Names the text in the message.
        text: Markdown.
        found: Findings by experiment.

    Raises:
        ValueError: If a first marker has no second one behind it.
    """
    for name, finding in found.items():
        before, begin, rest = text.partition(BEGIN.format(name))
        if not begin:
            continue
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f"{path} lacks the line {END!r} behind {begin!r}. Add it.")
        lines = textwrap.fill(finding, WIDTH, break_long_words=False, break_on_hyphens=False)
        text = f"{before}{begin}\n\n{lines}\n\n{end}{after}"
    return text
