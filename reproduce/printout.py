"""What a command prints about rows: comparison with shipped and published ones, and verdicts."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from pathlib import Path

from reproduce import compare, findings, judgements, paper, publication, records, report
from reproduce.folders import SHIPPED, all_rows, is_shipped
from reproduce.records import PROFILES, Record


def comparison(name: str, rows: Sequence[Record]) -> None:
    """Print rows of an experiment beside the shipped and the published ones.

    Where nothing of the kind was published, the experiment's own table is printed instead, of the
    shipped rows if there are no others.
    """
    shipped = all_rows(SHIPPED, [name])
    if rows and paper.checked_exactly(name):
        print(_references(name, rows))
        _own_table(name, rows)
        return
    shown = rows or [r for r in shipped if r.profile == _longest(shipped)]
    published = {row for number in paper.numbers(name) for row in number.rows}
    if published & {row.row for row in shown} or not shown:
        print(compare.render(compare.comparison(rows, shipped, name)))
        return
    if not rows:
        print(f"Shipped, {shown[0].profile}:")
    _own_table(name, shown)


def _own_table(name: str, rows: Sequence[Record]) -> None:
    module = importlib.import_module(f"reproduce.experiments.{name}")
    table = module.table(findings.plain(rows) or rows)
    if not table.empty:
        print(table.to_string(float_format="{:.4g}".format, na_rep=compare.ABSENT))


def _references(name: str, rows: Sequence[Record]) -> str:
    lines = report.references(judgements.judge(rows), name)
    return compare.aligned([report.REFERENCE_HEADER, *lines])


def remarks(name: str, rows: Sequence[Record]) -> None:
    """Print what the experiment says of its rows in words, and what was not measured and why."""
    said = findings.said(name, rows)
    if said:
        print(textwrap.fill(said, judgements.WIDTH))
    told = {"ok": "", "skipped": "Skipped"}
    for row, status, hint in dict.fromkeys((r.row, r.status, r.hint) for r in rows if r.hint):
        if outcome := told.get(status, "Failed"):
            print(f"{outcome}: {row}: {hint}")


def own_verdicts(name: str, rows: Sequence[Record]) -> None:
    """Print the verdicts that these rows reach without those of other experiments, if any."""
    lines = [line for line in judgements.judge(rows) if set(line.experiments) == {name}]
    if paper.checked_exactly(name):  # their numbers stand with their verdicts in the comparison
        lines = [line for line in lines if line.kind != "number"]
    if any(line.verdict not in ("not run", "not comparable") for line in lines):
        print(f"Verdicts:\n{judgements.render(lines)}")
    unjudged: dict[str, list[str]] = {}
    for line in lines:
        if line.kind == "number" and line.verdict == "not comparable" and line.n:
            unjudged.setdefault(line.detail, []).append(line.id)
    for reason, numbers in unjudged.items():
        print(textwrap.fill(f"Not comparable: {', '.join(numbers)}. {reason}", judgements.WIDTH))


def stored(name: str, out: Path, profile: str | None) -> None:
    """Print the comparison of a profile of an experiment; None takes the one that says most."""
    folder = out / name
    profiles = (profile,) if profile else PROFILES
    there = [folder / f"{p}.csv" for p in profiles if (folder / f"{p}.csv").exists()]
    rows = records.read(there[0]) if there else []
    print(f"{name}: {there[0] if there else f'no rows in {folder}'}")
    comparison(name, rows)


def verdicts(chosen: Sequence[str] | None, out: Path) -> None:
    """Print the verdicts on the rows in ``out``, or on the shipped ones, and write them all.

    What people read of the shipped results, two READMEs and a page, is written with them.

    Args:
        chosen: Experiments to print the verdicts of; None prints all, also on what no experiment
            measures yet.
        out: Folder of results.
    """
    folder = out if all_rows(out) else SHIPPED
    lines = judgements.judge(all_rows(folder))
    shown = [line for line in lines if chosen is None or line.concerns(chosen)]
    whose = "" if folder == out else f"there are none in {out}, so "
    print(f"\nVerdicts ({whose}on the rows in {folder}):\n{judgements.render(shown)}")
    if folder != out:
        return
    if is_shipped(out):
        written = publication.write(out)
    else:
        judgements.write(out / "comparison.csv", lines)
        written = [out / "comparison.csv"]
    print(f"Written: {', '.join(map(str, written))}")


def _longest(rows: Sequence[Record]) -> str:
    """Return the profile that says most, of those that the rows have."""
    return min((row.profile for row in rows), key=PROFILES.index, default="")
