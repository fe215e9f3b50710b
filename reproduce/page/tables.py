"""Tables of the page: cells with a text for reading and the whole value for sorting and copying.

Every number comes from rows or from verdicts; what is rounded for reading keeps its full value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from reproduce.judgements import ABSENT, Line, number_text
from reproduce.paper import PaperNumber, published
from reproduce.records import Record, Summary, summary
from reproduce.statistics import mean_half_width

if TYPE_CHECKING:
    import pandas as pd

TONES = {
    "holds": "good",
    "reproduced": "good",
    "better": "good",
    "does not hold": "bad",
    "worse": "bad",
    "different": "bad",
    "undecided": "open",
    "unclear": "open",
}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: For reading.
        value: For sorting and copying, if it is another than the text.
        tone: How a verdict is coloured; empty for all else.
        head: Whether it names its line.
    """

    text: str
    value: str | None = None
    tone: str = ""
    head: bool = False


@dataclass(frozen=True)
class Column:
    """Head of a column.

    Args:
        name: Its name.
        unit: Unit of its numbers; empty where it has none.
        numeric: Whether its cells are numbers.
    """

    name: str
    unit: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        id: Its anchor.
        caption: What it shows.
        columns: The heads.
        rows: The lines, a cell for each column.
    """

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


def number(value: float) -> Cell:
    """Return a number to four digits, with its whole value behind; a gap where there is none."""
    return _number(value, repr(value))


def derived(value: float) -> Cell:
    """Return what was computed from several values, to six digits: no library changes those."""
    return _number(value, repr(int(value)) if value.is_integer() else f"{value:.6g}")


def own(id: str, caption: str, frame: pd.DataFrame, rows: Sequence[Record]) -> Table:
    """Return the table that an experiment makes of its rows.

    Args:
        id: Its anchor.
        caption: What it shows.
        frame: What the experiment's ``table`` returned.
        rows: The rows, for the units of metrics.
    """
    names = [_label(name) for name in frame.index.names]
    heads = [Column(name, numeric=False) for name in names]
    units: dict[str, set[str]] = {}
    for row in rows:
        units.setdefault(row.metric, set()).add(row.unit)
    for place, label in enumerate(map(_label, frame.columns)):
        (unit, *others) = units.get(label, {""})
        shown = "" if others or unit == label else unit
        values = frame.iloc[:, place]
        heads.append(Column(label, shown, all(isinstance(value, Real) for value in values)))
    lines = []
    for key, values in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        keys = key if isinstance(key, tuple) else (key,)
        named = [Cell(_label(part), head=True) for part in keys]
        lines.append((*named, *map(_value, values)))
    return Table(id, caption, tuple(heads), tuple(lines))


def measured(id: str, caption: str, rows: Sequence[Record]) -> Table:
    """Return every metric of every row over its seeds; columns that nothing is in are left out."""
    found = [(metric, one) for metric in _metrics(rows) for one in summary(rows, metric)]
    order = {name: place for place, name in enumerate(dict.fromkeys(r.row for r in rows))}
    found.sort(key=lambda pair: order[pair[1].row])
    spread = any(one.n_ok > 1 for _, one in found)
    heads = [Column("row", numeric=False), Column("metric", numeric=False)]
    heads += [Column("mean" if spread else "value"), Column("unit", numeric=False)]
    parts: list[list[Cell]] = []
    for metric, one in found:
        centre = number(one.mean) if one.n_ok == 1 else derived(one.mean)
        cells = [Cell(one.row, head=True), Cell(metric), centre, Cell(one.unit)]
        if spread:
            cells += [Cell(str(one.n_ok)), *_spread(one)]
        parts.append([*cells, *_rest(one)])
    if spread:
        heads += map(Column, ("seeds", "s", "95 % low", "95 % high", "min", "max"))
    heads += [Column("failed"), Column("changed settings", numeric=False)]
    used = [place for place in range(len(heads)) if any(_filled(cells[place]) for cells in parts)]
    lines = tuple(tuple(cells[place] for place in used) for cells in parts)
    return Table(id, caption, tuple(heads[place] for place in used), lines)


def judged(
    id: str,
    caption: str,
    lines: Sequence[Line],
    others: dict[str, Line] | None = None,
    beside: str = "published",
) -> Table:
    """Return published numbers beside ours and what others measured, with verdicts.

    Args:
        id: Its anchor.
        caption: What it shows.
        lines: Verdicts on numbers.
        others: The same lines, by id, on the shipped rows, to stand beside; None for no column.
        beside: What the numbers are that ours are compared with.
    """
    known = numbers()
    heads = [Column("number", numeric=False), Column("ours"), Column("unit", numeric=False)]
    heads += map(Column, ("s", "seeds", "95 % low", "95 % high", "shipped", beside))
    heads += [Column("verdict", numeric=False), Column("under", numeric=False)]
    heads += [Column("re-runs by others", numeric=False), Column("tolerance")]
    heads += [Column("other images, low"), Column("other images, high")]
    parts = []
    for line in lines:
        exact = line.low == line.high
        printed = known[line.id]
        again = (others or {}).get(line.id)
        cells = [Cell(line.id, head=True), _ours(line), Cell(line.unit)]
        cells += [derived(line.sd or math.nan), Cell(str(line.n))]
        cells += [derived(math.nan if exact else end) for end in (line.low, line.high)]
        cells += [Cell(ABSENT, "") if again is None else _ours(again), _published(printed)]
        cells += [verdict(line), Cell(line.profile), _reruns(printed)]
        cells += map(derived, (_tolerance(printed), line.binomial_low, line.binomial_high))
        parts.append(cells)
    used = [place for place in range(len(heads)) if any(_filled(cells[place]) for cells in parts)]
    rows = tuple(tuple(cells[place] for place in used) for cells in parts)
    return Table(id, caption, tuple(heads[place] for place in used), rows)


def tally(id: str, caption: str, reproduced: dict[str, tuple[int, int]]) -> Table | None:
    """Return how many numbers of each experiment were reproduced; None if there are none."""
    heads = (Column("experiment", numeric=False), Column("reproduced"), Column("of"))
    lines = tuple(
        (Cell(name, head=True), Cell(str(done)), Cell(str(total)))
        for name, (done, total) in reproduced.items()
    )
    return Table(id, caption, heads, lines) if lines else None


def numbers() -> dict[str, PaperNumber]:
    """Return the published numbers by the id of their lines."""
    return {f"{n.experiment}.{row}.{n.metric}": n for n in published() for row in n.rows}


def verdict(line: Line) -> Cell:
    """Return a verdict as a cell."""
    return Cell(line.verdict, tone=TONES.get(line.verdict, "none"))


def _metrics(rows: Sequence[Record]) -> list[str]:
    """List the metrics; ``all`` of a run that gave none is told by the others' failures."""
    given = dict.fromkeys(row.metric for row in rows if row.status == "ok")
    return list(given or dict.fromkeys(row.metric for row in rows))


def _spread(one: Summary) -> list[Cell]:
    """Return standard deviation, 95 % interval of the mean, smallest and largest value."""
    if one.n_ok < 2:
        return [Cell(ABSENT, "")] * 5
    half = mean_half_width(one.sd, one.n_ok)
    computed = [derived(value) for value in (one.sd, one.mean - half, one.mean + half)]
    return [*computed, number(one.min), number(one.max)]


def _rest(one: Summary) -> list[Cell]:
    failures = ", ".join(f"{status}: {count}" for status, count in one.failures)
    return [Cell(failures), Cell(one.overrides)]


def _number(value: float, whole: str) -> Cell:
    if math.isnan(value):
        return Cell(ABSENT, "")
    text = number_text(value)
    return Cell(text) if text == whole else Cell(text, whole)


def _ours(line: Line) -> Cell:
    return number(line.value) if line.n == 1 else derived(line.value)


def _value(value: Any) -> Cell:
    if value is None or (isinstance(value, Real) and math.isnan(float(value))):
        return Cell(ABSENT, "")
    if isinstance(value, Real):
        return derived(float(value))
    return Cell(str(value))


def _filled(cell: Cell) -> bool:
    return cell.text not in ("", ABSENT)


def _label(name: object) -> str:
    return "" if name is None else str(name)


def _published(number_of: PaperNumber) -> Cell:
    value = number_of.value
    return Cell(value) if isinstance(value, str) else number(value)


def _tolerance(number_of: PaperNumber) -> float:
    return math.nan if number_of.tolerance is None else number_of.tolerance


def _reruns(number_of: PaperNumber) -> Cell:
    """Return what others measured, for reading without the settings, which notes have."""
    short = ", ".join(f"{o.value:g} ({o.source})" for o in number_of.others)
    whole = "; ".join(f"{o.value:g} ({o.source}: {o.setting})" for o in number_of.others)
    return Cell(short, whole) if short else Cell(ABSENT, "")
