"""Every verdict as one line: what was published, what was measured, what follows and from what."""

from __future__ import annotations

import csv
import io
import math
import statistics as spread
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from reproduce import storage
from reproduce.claims import Quantity, claims
from reproduce.paper import PaperNumber, published
from reproduce.records import Record
from reproduce.statistics import binomial_interval
from reproduce.verdicts import (
    ClaimVerdict,
    Evidence,
    Finding,
    NumberVerdict,
    Sample,
    judge_claim,
    judge_number,
)

ABSENT = "–"
WIDTH = 100
NOT_RUN = "not run"
BETWEEN = " | "  # entries of the column of others, whose texts have commas and semicolons


@dataclass(frozen=True)
class Line:
    """One published number, one claim or one condition of a claim; NaN and "" where none.

    Args:
        id: ``experiment.row.metric`` with our row; ``C04`` for a claim, ``C04.1`` for its first
            condition.
        kind: Which of the three.
        text: The claim, or what the condition measures.
        profile: The profile that the verdict was reached under.
        verdict: The verdict.
        paper: The published value as text.
        unit: Its unit.
        value: Our mean, or the estimate that a condition is about.
        sd: Sample standard deviation over seeds.
        n: Seeds that ended.
        failed: Seeds that did not.
        low: Lower end of the 95 % interval: for one further run (numbers), or of the estimate.
        high: Upper end.
        least: Lower end of the range that counts as the same, or that the claim allows.
        most: Upper end.
        seeds_needed: Seeds in all that would decide what is open.
        binomial_low: Lower end of Wilson's 95 % interval for the error on other images, in %.
        binomial_high: Upper end.
        others: What others measured.
        detail: What the verdict rests on.
        experiments: Experiments whose rows it is about.
        later: What of the rule was added or changed when rows were known.
        before: The verdict by what the rule said before, where it is another.
        shown: Experiments whose figures show it besides.
    """

    id: str
    kind: Literal["number", "claim", "condition"]
    text: str
    profile: str
    verdict: str
    paper: str
    unit: str
    value: float
    sd: float
    n: int
    failed: int
    low: float
    high: float
    least: float
    most: float
    seeds_needed: int | None
    binomial_low: float
    binomial_high: float
    others: str
    detail: str
    experiments: tuple[str, ...]
    later: str = ""
    before: str = ""
    shown: tuple[str, ...] = ()

    def concerns(self, chosen: Iterable[str]) -> bool:
        """Return whether it is about one of these experiments, or shown by one."""
        return bool(set(chosen) & {*self.experiments, *self.shown})


COLUMNS = tuple(f.name for f in fields(Line) if f.name not in ("experiments", "shown"))
HEADING = ",".join(COLUMNS[:3])  # what the file begins with, whatever columns come later


def judge(records: Iterable[Record]) -> list[Line]:
    """Judge every published number and every claim by these records.

    Args:
        records: Records of any experiments and profiles.

    Returns:
        The numbers, then the claims with their conditions, in the order of ``paper.toml``.
    """
    evidence = Evidence(records)
    lines = [
        _number_line(judge_number(number, row, evidence), evidence)
        for number in published()
        for row in number.rows
    ]
    for claim in claims():
        lines += _claim_lines(judge_claim(claim, evidence), evidence)
    return lines


def write(path: Path, lines: Sequence[Line]) -> None:
    """Write the lines as CSV, numbers to six digits.

    Raises:
        ValueError: If a file of somebody else is in the way.
        OSError: If it cannot be written.
    """
    storage.refuse_stranger(path, HEADING)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([cell(getattr(line, name)) for name in COLUMNS] for line in lines)
    with storage.exclusive(path):
        storage.write(path, text.getvalue())


def render(lines: Sequence[Line]) -> str:
    """Return what was decided and what is open as plain text; what was not run is counted."""
    shown = [line for line in lines if line.kind != "condition" and line.verdict != NOT_RUN]
    shown = [line for line in shown if line.kind == "claim" or line.verdict != "not comparable"]
    absent = sum(line.verdict == NOT_RUN for line in lines if line.kind != "condition")
    if not shown:
        return f"Nothing to judge yet; numbers and claims without rows: {absent}."
    texts = []
    for line in shown:
        under = f" under {line.profile}" if line.profile else ""
        head = f"{line.id}: {line.verdict}{under}"
        texts.append(textwrap.fill(f"{head}. {_basis(line)}", WIDTH, subsequent_indent="    "))
        texts += [
            textwrap.fill(_basis(c), WIDTH, initial_indent="    - ", subsequent_indent="      ")
            for c in lines
            if c.kind == "condition" and c.id.split(".")[0] == line.id
        ]
    texts.append(f"Numbers and claims without rows: {absent}.")
    return "\n".join(texts)


def number_text(value: float) -> str:
    """Write a number for reading, to four digits."""
    if math.isnan(value):
        return ABSENT
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        return f"{value:.2e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def range_text(low: float, high: float) -> str:
    """Write the ends of a range, of which one may be open."""
    if math.isinf(low) and math.isinf(high):
        return ABSENT
    if math.isinf(low):
        return f"at most {number_text(high)}"
    if math.isinf(high):
        return f"at least {number_text(low)}"
    return f"{number_text(low)} to {number_text(high)}"


def _basis(line: Line) -> str:
    """Say what a line rests on, in one sentence or two."""
    if line.kind == "claim":
        return line.text + (f" ({line.detail})" if line.detail else "") + _needed(line)
    unit = f" {line.unit}" if line.unit else ""
    failed = f", {line.failed} failed" if line.failed else ""
    parts = [f"{number_text(line.value)}{unit} (n = {line.n}{failed})"]
    if not math.isnan(line.low) and line.low != line.high:
        kind = "one more run" if line.kind == "number" else "95 %"
        parts.append(f"{kind}: {range_text(line.low, line.high)}")
    if line.kind == "number":
        parts.append(f"paper: {line.paper}{unit}")
    else:
        parts.insert(0, line.text)
        parts.append(f"allowed: {range_text(line.least, line.most)}; {line.verdict}")
    if line.detail:
        parts.append(line.detail)
    return "; ".join(parts) + "." + _needed(line)


def _needed(line: Line) -> str:
    return "" if line.seeds_needed is None else f" At least {line.seeds_needed} seeds are needed."


def _number_line(verdict: NumberVerdict, evidence: Evidence) -> Line:
    number, sample = verdict.number, verdict.sample
    values = list(sample.values.values()) if sample is not None else []
    mean = spread.fmean(values) if values else math.nan
    tolerance = math.nan if number.tolerance is None else number.tolerance
    centre = math.nan if isinstance(number.value, str) else number.value
    low, high = _binomial(number, verdict, mean, evidence)
    return Line(
        id=f"{number.experiment}.{verdict.row}.{number.metric}",
        kind="number",
        text=number.where,
        profile=verdict.profile,
        verdict=verdict.kind,
        paper=_value_text(number),
        unit=number.unit,
        value=mean,
        sd=sample.sd if sample is not None else math.nan,
        n=len(values),
        failed=sample.failed if sample is not None else 0,
        low=mean - verdict.half_width,
        high=mean + verdict.half_width,
        least=centre - tolerance,
        most=centre + tolerance,
        seeds_needed=verdict.needed,
        binomial_low=low,
        binomial_high=high,
        others=BETWEEN.join(f"{o.value:g} ({o.source}: {o.setting})" for o in number.others),
        detail=verdict.detail,
        experiments=(number.experiment,),
        later=number.later,
        before=_before(verdict, evidence),
    )


def _before(verdict: NumberVerdict, evidence: Evidence) -> str:
    """Return the verdict by the tolerance that the number had before; empty if it is the same."""
    number = verdict.number
    if number.tolerance_before is None:
        return ""
    former = replace(number, tolerance=number.tolerance_before)
    kind = judge_number(former, verdict.row, evidence).kind
    return "" if kind == verdict.kind else kind


def _binomial(
    number: PaperNumber, verdict: NumberVerdict, mean: float, evidence: Evidence
) -> tuple[float, float]:
    """Return what the test images leave open about the error on other images, in %."""
    if number.metric != "test_error" or math.isnan(mean):
        return math.nan, math.nan
    quantity = Quantity(number.experiment, verdict.row, "test_images")
    images = evidence.sample(quantity, verdict.profile)
    if images is None or not images.values:
        return math.nan, math.nan
    count = int(min(images.values.values()))
    low, high = binomial_interval(round(mean / 100 * count), count)
    return 100 * low, 100 * high


def _claim_lines(verdict: ClaimVerdict, evidence: Evidence) -> list[Line]:
    claim = verdict.claim
    experiments = tuple(dict.fromkeys(q.experiment for q in claim.quantities))
    head = Line(
        id=claim.id,
        kind="claim",
        text=claim.text,
        profile=verdict.profile,
        verdict=verdict.kind,
        paper=claim.paper,
        unit="",
        value=math.nan,
        sd=math.nan,
        n=min((finding.n for finding in verdict.findings), default=0),
        failed=0,
        low=math.nan,
        high=math.nan,
        least=math.nan,
        most=math.nan,
        seeds_needed=verdict.needed,
        binomial_low=math.nan,
        binomial_high=math.nan,
        others="",
        detail=verdict.detail,
        experiments=experiments,
        later=claim.later,
        before=claim.before if claim.before != verdict.kind else "",
        shown=claim.shown,
    )
    return [
        head,
        *(
            _condition_line(head, place, finding, evidence)
            for place, finding in enumerate(verdict.findings, 1)
        ),
    ]


def _condition_line(head: Line, place: int, finding: Finding, evidence: Evidence) -> Line:
    condition, interval = finding.condition, finding.interval
    samples: list[Sample | None] = [evidence.sample(condition.quantity, head.profile)]
    text = str(condition.quantity)
    if condition.against is not None:
        samples.append(evidence.sample(condition.against, head.profile))
        text += f" against {condition.against}"
    return Line(
        id=f"{head.id}.{place}",
        kind="condition",
        text=text,
        profile=head.profile,
        verdict=finding.kind,
        paper="",
        unit="",
        value=math.nan if interval is None else interval.value,
        sd=math.nan,
        n=finding.n,
        failed=sum(sample.failed for sample in samples if sample is not None),
        low=math.nan if interval is None else interval.low,
        high=math.nan if interval is None else interval.high,
        least=condition.low,
        most=condition.high,
        seeds_needed=finding.needed,
        binomial_low=math.nan,
        binomial_high=math.nan,
        others="",
        detail=finding.detail,
        experiments=head.experiments,
        shown=head.shown,
    )


def _value_text(number: PaperNumber) -> str:
    return number.value if isinstance(number.value, str) else f"{number.value:,.10g}"


def cell(value: str | float | None) -> str:
    """Return a value as a CSV has it: six digits of a number, nothing for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
