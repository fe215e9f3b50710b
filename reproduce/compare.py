"""Sets what was measured now beside the shipped evidence and the paper's numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reproduce.paper import PaperNumber, numbers
from reproduce.records import PROFILES, SEEDS_FOR_A_VERDICT, Record, Summary, summary

ABSENT = "–"
WIDTH = 100  # of the footnotes; the table takes what it needs
HEADER = ("row", "metric", "this run", "shipped", "paper")

# The paper gives orders of growth; what we measure is printed beside them.
MEASURED_AS = {"memory": "peak_memory", "time": "train_seconds"}
PRINTED_AS = {ours: papers for papers, ours in MEASURED_AS.items()}


@dataclass(frozen=True)
class ComparisonRow:
    """One metric of one row, from up to three sources.

    Args:
        row: Our row.
        metric: The paper's name of the metric where it has one.
        unit: Unit of our values.
        this: This run; ``None`` if it has no such value.
        shipped: The shipped evidence of the profile that says most; ``None`` if there is none.
        paper: The published number; ``None`` if there is none.
        note: What to know before comparing with the paper; empty where nothing is.
    """

    row: str
    metric: str
    unit: str
    this: Summary | None
    shipped: Summary | None
    paper: PaperNumber | None
    note: str


def comparison(
    this: Sequence[Record], shipped: Sequence[Record], experiment: str
) -> list[ComparisonRow]:
    """Line up our records with the paper, row by row and metric by metric.

    Args:
        this: Records of this run; every profile and set of overrides in them gets its line.
        shipped: Records that the repository ships, of any profile.
        experiment: Name of the experiment; records of others are left out.

    Returns:
        One entry for each row and metric that any of the three sources has, the paper's first.
    """
    ours = [record for record in this if record.experiment == experiment]
    evidence = [record for record in shipped if record.experiment == experiment]
    published = {(row, n.metric): n for n in numbers(experiment) for row in n.rows}
    lines = []
    for row, metric in _row_metrics(published, [*ours, *evidence]):
        paper = published.get((row, metric))
        note = "" if paper is None else " ".join(filter(None, (paper.note, paper.later)))
        best = _best(_summaries(evidence, row, metric))
        mine: list[Summary | None] = [*_summaries(ours, row, metric)] or [None]
        lines += [
            ComparisonRow(row, metric, _unit(one, best, paper), one, best, paper, note)
            for one in mine
        ]
    return lines


def render(rows: Sequence[ComparisonRow]) -> str:
    """Return the comparison as plain text of fixed-width columns, with its footnotes.

    Args:
        rows: What `comparison` returned.
    """
    if not rows:
        return "Nothing to compare."
    footnotes: list[str] = []
    lines = [aligned([HEADER, *(_cells(row, footnotes) for row in rows)])]
    for index, text in enumerate(footnotes, 1):
        lines += textwrap.wrap(f"[{index}] {text}", WIDTH, subsequent_indent="    ")
    if any(row.this is not None and row.this.n_ok < SEEDS_FOR_A_VERDICT for row in rows):
        lines.append(f"No verdict below {SEEDS_FOR_A_VERDICT} seeds: one seed carries none.")
    return "\n".join(lines)


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return a table as plain text of fixed-width columns, a line under its first row."""
    widths = [max(len(cells[column]) for cells in table) for column in range(len(table[0]))]
    lines = [" | ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
    lines.insert(1, "-+-".join("-" * width for width in widths))
    return "\n".join(lines)


def _row_metrics(
    published: Iterable[tuple[str, str]], records: Iterable[Record]
) -> list[tuple[str, str]]:
    """List rows and their metrics: the paper's in its order, then what only we measured."""
    measured = [(r.row, PRINTED_AS.get(r.metric, r.metric)) for r in records]
    metrics: dict[str, dict[str, None]] = {}
    for row, metric in [*published, *measured]:
        metrics.setdefault(row, {})[metric] = None
    return [(row, metric) for row, named in metrics.items() for metric in named]


def _summaries(records: Iterable[Record], row: str, metric: str) -> list[Summary]:
    """Summarise one metric of one row under each profile and set of overrides."""
    return summary((r for r in records if r.row == row), MEASURED_AS.get(metric, metric))


def _best(summaries: Iterable[Summary]) -> Summary | None:
    """Choose the evidence that says most: unchanged settings, profile, newest protocol."""
    return min(summaries, key=_weakness, default=None)


def _weakness(candidate: Summary) -> tuple[bool, int, int]:
    """Return a key that sorts the strongest evidence first."""
    known = candidate.profile in PROFILES
    place = PROFILES.index(candidate.profile) if known else len(PROFILES)
    return bool(candidate.overrides), place, -candidate.protocol


def _unit(this: Summary | None, shipped: Summary | None, paper: PaperNumber | None) -> str:
    """Return the unit of our values, or the paper's where we have none."""
    units = (source.unit for source in (this, shipped, paper) if source is not None)
    return next((unit for unit in units if unit), "")


def _cells(row: ComparisonRow, footnotes: list[str]) -> tuple[str, ...]:
    """Write one line, adding the footnotes it needs."""
    shipped = _measured(row.shipped, row.unit, footnotes)
    if row.this and row.shipped and row.this.protocol != row.shipped.protocol:
        shipped += _mark(
            f"Shipped under protocol {row.shipped.protocol}, this run under protocol "
            f"{row.this.protocol}: the two are not comparable.",
            footnotes,
        )
    return (
        row.row,
        f"{row.metric} [{row.unit}]" if row.unit not in ("", row.metric) else row.metric,
        _measured(row.this, row.unit, footnotes),
        shipped,
        _published(row, footnotes),
    )


def _measured(source: Summary | None, unit: str, footnotes: list[str]) -> str:
    """Write our values: mean and spread over seeds, and what failed."""
    if source is None:
        return ABSENT
    parts = []
    if source.n_ok:
        spread = f" ± {_format(source.sd, unit)}" if source.n_ok > 1 else ""
        seeds = f"{source.n_ok} seed{'s' if source.n_ok > 1 else ''}"
        parts.append(f"{_format(source.mean, unit)}{spread} ({seeds}, {source.profile})")
    runs = source.n_ok + source.n_failed
    parts += [f"failed: {status} ({count} of {runs})" for status, count in source.failures]
    text = "; ".join(parts)
    if source.overrides:
        text += _mark(
            f"Settings changed: {source.overrides}; not comparable with the paper.",
            footnotes,
        )
    return text


def _published(row: ComparisonRow, footnotes: list[str]) -> str:
    """Write the paper's value; its orders of growth stay text."""
    if row.paper is None:
        return ABSENT
    value = row.paper.value
    text = value if isinstance(value, str) else _format(value, row.paper.unit)
    return text + (_mark(row.note, footnotes) if row.note else "")


def _mark(text: str, footnotes: list[str]) -> str:
    """Return the mark of a footnote, the same for the same text."""
    if text not in footnotes:
        footnotes.append(text)
    return f" [{footnotes.index(text) + 1}]"


def _format(value: float, unit: str) -> str:
    """Write a number for reading: per cent to one image of 10,000, large ones in whole units."""
    if unit == "%":
        return f"{value:.2f}"
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
