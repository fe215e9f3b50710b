"""What people read of a folder of results: verdicts as CSV, as Markdown and as one page."""

from __future__ import annotations

import shlex
from pathlib import Path

from reproduce import findings, folders, judgements, report, storage
from reproduce.page import document
from reproduce.usage import DEFAULT_OUT

# What is in the first lines of every page that a report has written.
_TITLE = "<title>Neural Ordinary Differential Equations, re-run</title>"


def write(folder: Path) -> list[Path]:
    """Write ``index.html``, ``README.md`` and ``comparison.csv`` of a folder of results.

    With the shipped results go the generated parts of the repository's own README.

    Args:
        folder: The folder; it is created if need be, and may be empty.

    Returns:
        The files.

    Raises:
        ValueError: If a CSV or a provenance file is malformed, or if a file of somebody else is in
            the way; nothing is written then.
        OSError: If the folder cannot be written to.
    """
    storage.refuse_stranger(folder / "index.html", _TITLE)
    storage.refuse_stranger(folder / "comparison.csv", judgements.HEADING)
    lines = judgements.judge(folders.all_rows(folder))
    found = findings.of_folder(folder)
    gallery = report.gallery(folder, lines, found)
    parts = {folder / "README.md": f"{report.details(lines)}\n\n{gallery}"}
    if folders.is_shipped(folder):
        parts[folder.parent / "README.md"] = report.headline(lines)
    texts = {path: report.renewed(path, part) for path, part in parts.items()}
    texts = {path: findings.inserted(path, text, found) for path, text in texts.items()}
    texts[folder / "index.html"] = document.render(folder, option(folder))
    for path, text in texts.items():
        with storage.exclusive(path):
            storage.write(path, text)
    judgements.write(folder / "comparison.csv", lines)
    return [*texts, folder / "comparison.csv"]


def option(folder: Path) -> str:
    """Return what a command needs in order to write into a folder; of the shipped one, nothing.

    Nobody's rows go among the shipped ones by copying a command from a page.
    """
    usual = folders.is_shipped(folder) or folder.resolve() == DEFAULT_OUT.resolve()
    return "" if usual else f"--out {shlex.quote(str(folder))}"
