"""CSV files by line and column, as they may come from strangers: checked, and never evaluated."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from reproduce import storage

_INTEGER = re.compile("-?[0-9]{1,300}")  # beyond, no number of floating point is as large
_SHOWN = 40  # characters of a cell that a message repeats


def rows(
    path: Path, columns: Sequence[str], numbers: Mapping[str, type] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of each line, and its cells by column.

    Args:
        path: The file.
        columns: The columns that it has; ends with ``...`` where further ones are allowed.
        numbers: Columns that hold an ``int`` or a ``float``.

    Raises:
        ValueError: If the file is malformed; the message names it, the line and what to do.
        FileNotFoundError: If there is none.
    """
    reader = csv.reader(io.StringIO(storage.read(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        _check_header(header, columns)
        for cells in reader:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells instead of {len(header)}")
            named = dict(zip(header, cells, strict=True))
            for name, kind in (numbers or {}).items():
                (integer if kind is int else number)(name, named[name])
            yield reader.line_num, named
    except (ValueError, csv.Error) as error:
        raise storage.malformed(path, max(reader.line_num, 1), str(error)) from error


def integer(name: str, text: str) -> int:
    """Return the integer in a cell of the column ``name``."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{name} is {shown(text)}, which is not a number")
    return int(text)


def number(name: str, text: str) -> float:
    """Return the number in a cell; whole ones stay exact, however large."""
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        if "_" in text or text != text.strip():  # which Python would take
            raise ValueError
        return float(text)
    except ValueError:
        raise ValueError(f"{name} is {shown(text)}, which is not a number") from None


def shown(text: str) -> str:
    """Return a cell as a message repeats it: printable, and not all of a long one."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _check_header(header: Sequence[str], columns: Sequence[str]) -> None:
    open_end = columns[-1] == "..."
    wanted = list(columns[:-1]) if open_end else list(columns)
    if len(set(header)) < len(header) or (
        not set(wanted) <= set(header) if open_end else list(header) != wanted
    ):
        also = " and others" if open_end else ""
        raise ValueError(f"the columns are not {','.join(wanted)}{also}")
