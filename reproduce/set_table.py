"""The comparison of two result sets as text and as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import get_args

from reproduce import storage
from reproduce.compare import ABSENT, aligned
from reproduce.judgements import cell, number_text, range_text
from reproduce.result_sets import Difference, ResultSet
from reproduce.sets import SetLine, SetVerdict, Side

HEADER = ("row", "metric", "profile", "A", "B", "B - A, 95 %", "p (Holm)", "verdict")
_OF_A_SIDE = ("overrides", "n", "failed", "mean", "sd")
COLUMNS = (
    "experiment",
    "row",
    "metric",
    "profile",
    "unit",
    *(f"{name}_{side}" for side in "ab" for name in _OF_A_SIDE),
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "ratio",
    "margin",
    "verdict",
    "seeds_needed",
    "detail",
)


def heading(a: ResultSet, b: ResultSet, differences: Sequence[Difference]) -> str:
    """Return which two sets are compared, and what their provenance tells differently."""
    lines = [f"{name}: {one.name}, {_size(one)}" for name, one in (("A", a), ("B", b))]
    if differences:
        table = [("made with", "A", "B"), *((d.what, d.a, d.b) for d in differences)]
        lines += ["", aligned(table)]
    elif not (a.without or b.without):
        lines += ["", "Neither rows nor provenance tell how they were made differently."]
    for name, one in (("A", a), ("B", b)):
        for path in one.without:
            lines.append(f"{name} has no provenance beside {path}: who made it is not told.")
    return "\n".join(lines)


def render(lines: Sequence[SetLine]) -> str:
    """Return every line of one experiment, or of several their counts and what differs.

    What the verdicts rest on and their count follow in both cases.
    """
    parts = []
    name = _named if _are_mixed(lines) else _row
    experiments = {line.quantity.experiment for line in lines}
    told = lines
    if len(experiments) > 1:
        parts.append(_overview(lines))
        told = [line for line in lines if line.verdict == "differs"]
    for experiment, some in groupby(told, key=lambda line: line.quantity.experiment):
        table = [HEADER, *((name(line), *_cells(line)) for line in some)]
        parts.append(f"{experiment}\n{aligned(table)}")
    if len(experiments) > 1:
        parts.append(
            "Of several experiments only what differs is listed. The folders of one, A/table1 and "
            "B/table1, are compared line by line; --out DIR keeps every line of all."
        )
    counts = Counter(line.verdict for line in lines)
    tests = sum(not math.isnan(line.p) for line in lines)
    counted = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    parts.append(
        f"{len(lines)} quantities: {counted}.\n"
        f"Intervals and tests are Welch's; p accounts for {tests} tests (Holm). Costs are ratios "
        "B / A and are not judged."
    )
    found = [
        f"  {line.quantity.experiment}/{name(line)}/{line.quantity.metric}"
        for line in lines
        if line.verdict == "differs"
    ]
    if found:
        parts.append("\n".join(["What differs:", *found]))
    return "\n\n".join(parts)


def _overview(lines: Sequence[SetLine]) -> str:
    """Return for each experiment the counts of verdicts, and median and range of cost ratios."""
    verdicts = [verdict for verdict in get_args(SetVerdict) if verdict != "cost"]
    table = [("experiment", *verdicts, "cost, B / A")]
    for experiment, some in groupby(lines, key=lambda line: line.quantity.experiment):
        of_one = list(some)
        counts = Counter(line.verdict for line in of_one)
        ratios = [line.ratio for line in of_one if not math.isnan(line.ratio)]
        cost = ABSENT
        if ratios:
            cost = f"{median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})"
        table.append((experiment, *(str(counts[v] or ABSENT) for v in verdicts), cost))
    return aligned(table)


def write(path: Path, lines: Sequence[SetLine]) -> None:
    """Write the comparison as CSV, numbers to six digits.

    Raises:
        ValueError: If a file of somebody else is in the way.
        OSError: If it cannot be written.
    """
    storage.refuse_stranger(path, ",".join(COLUMNS[:4]))  # rows have other fourth ones
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_csv_cells(line) for line in lines)
    with storage.exclusive(path):
        storage.write(path, text.getvalue())


def _size(one: ResultSet) -> str:
    experiments = len({row.experiment for row in one.records})
    rows, runs = len(one.records), len({row.run for row in one.records})
    return f"{rows:,} rows of {runs:,} runs, {experiments} experiment(s)"


def _cells(line: SetLine) -> tuple[str, ...]:
    unit = next((side.unit for side in (line.a, line.b) if side is not None and side.unit), "")
    metric = line.quantity.metric
    return (
        f"{metric} [{unit}]" if unit not in ("", metric) else metric,
        line.profile,
        _side(line.a),
        _side(line.b),
        _difference(line),
        ABSENT if math.isnan(line.p_holm) else f"{line.p_holm:.2g}",
        _verdict(line),
    )


def _are_mixed(lines: Sequence[SetLine]) -> bool:
    """Return whether a set has rows of several changed settings, so that a row must tell its."""
    ours = {line.a.overrides for line in lines if line.a is not None}
    theirs = {line.b.overrides for line in lines if line.b is not None}
    return max(len(ours), len(theirs)) > 1


def _row(line: SetLine) -> str:
    return line.quantity.row


def _named(line: SetLine) -> str:
    """Return the row with the settings that were changed in one side or the other, in brackets."""
    texts = dict.fromkeys(
        _plain(side.overrides) or "plain" for side in (line.a, line.b) if side is not None
    )
    return _row(line) if list(texts) == ["plain"] else f"{_row(line)} [{' | '.join(texts)}]"


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def _side(side: Side | None) -> str:
    if side is None:
        return ABSENT
    failed = f", {side.failed} failed" if side.failed else ""
    if not side.n:
        return failed.removeprefix(", ") or "skipped"
    error = f" ± {number_text(side.sd)}" if side.n > 1 else ""
    return f"{number_text(side.mean)}{error} ({side.n}{failed})"


def _difference(line: SetLine) -> str:
    if not math.isnan(line.ratio):
        return f"ratio {line.ratio:.3g}"
    if math.isnan(line.difference) or line.verdict == "cost":
        return ABSENT
    text = number_text(line.difference)
    if math.isnan(line.low):
        return text
    return f"{text} ({range_text(line.low, line.high)})"


def _verdict(line: SetLine) -> str:
    needed = "" if line.seeds_needed is None else f"; {line.seeds_needed} seeds would be needed"
    return f"{line.verdict}: {_plain(line.detail)}{needed}" if line.detail else line.verdict


def _csv_cells(line: SetLine) -> list[str]:
    unit = next((side.unit for side in (line.a, line.b) if side is not None and side.unit), "")
    quantity = line.quantity
    sides = [
        getattr(side, name) if side is not None else None
        for side in (line.a, line.b)
        for name in _OF_A_SIDE
    ]
    numbers = [
        getattr(line, name)
        for name in ("difference", "low", "high", "p", "p_holm", "ratio", "margin")
    ]
    cells = [quantity.experiment, quantity.row, quantity.metric, line.profile, unit, *sides]
    cells += [*numbers, line.verdict, line.seeds_needed, line.detail]
    return [cell(value) for value in cells]
