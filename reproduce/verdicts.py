"""The rules of ``paper.toml`` applied to records: a verdict for every number and every claim.

A number is judged by the 95 % prediction interval for one further run; a claim by 95 % intervals
that must lie in its ranges. Rows with changed settings are never judged, a row of which a run
failed decides nothing, and no verdict rests on fewer than five seeds unless the number is exact.
"""

from __future__ import annotations

import math
import statistics as spread
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reproduce import statistics
from reproduce.claims import Claim, Condition, Part, Quantity
from reproduce.paper import PaperNumber, number
from reproduce.records import Record
from reproduce.statistics import Interval

NumberKind = Literal["reproduced", "better", "worse", "unclear", "not comparable", "not run"]
ClaimKind = Literal["holds", "does not hold", "undecided", "not comparable", "not run"]
LEAST_SEEDS = 5
PROFILES = ("paper", "short", "quick")  # the one that says most first


@dataclass(frozen=True)
class Sample:
    """The values of one quantity under one profile.

    Args:
        values: One value for each seed that ended, by seed.
        failed: Number of seeds that did not.
    """

    values: dict[int, float]
    failed: int

    @property
    def n(self) -> int:
        """The number of values."""
        return len(self.values)

    @property
    def sd(self) -> float:
        """The sample standard deviation; NaN below two values."""
        return spread.stdev(self.values.values()) if self.n > 1 else math.nan


@dataclass(frozen=True)
class NumberVerdict:
    """What became of one published number in one of our rows.

    Args:
        number: The published number.
        row: Our row.
        kind: The verdict.
        profile: The profile it was reached under; empty if nothing was run.
        sample: Our values; None if nothing was run.
        half_width: Of the prediction interval; NaN where it was not used.
        needed: Seeds in all that would decide; None where none would, or nothing is open.
        detail: Why, in a few words.
    """

    number: PaperNumber
    row: str
    kind: NumberKind
    profile: str
    sample: Sample | None
    half_width: float
    needed: int | None
    detail: str


@dataclass(frozen=True)
class Finding:
    """One condition of a claim.

    Args:
        condition: The condition.
        kind: Whether its interval lies in its range.
        interval: The interval; None where a value is missing or the rule is a number's.
        n: The smaller number of seeds.
        needed: Seeds in all that would decide; None where none would, or nothing is open.
        detail: Why nothing was decided; empty otherwise.
    """

    condition: Condition
    kind: ClaimKind
    interval: Interval | None
    n: int
    needed: int | None
    detail: str


@dataclass(frozen=True)
class ClaimVerdict:
    """What became of a claim.

    Args:
        claim: The claim.
        kind: The verdict.
        profile: The profile it was reached under; empty if nothing was run.
        findings: Those of every part's conditions, in order.
        needed: Seeds in all that would decide it; None where none would, or nothing is open.
        detail: Why nothing was decided; empty otherwise.
    """

    claim: Claim
    kind: ClaimKind
    profile: str
    findings: tuple[Finding, ...]
    needed: int | None
    detail: str


class Evidence:
    """Records by quantity and profile: plain settings and the newest protocol alone."""

    def __init__(self, records: Iterable[Record]) -> None:
        plain = [record for record in records if not record.overrides]
        newest: dict[str, int] = {}
        for record in plain:
            newest[record.experiment] = max(record.protocol, newest.get(record.experiment, 0))
        self._rows: dict[tuple[str, str, str], list[Record]] = {}
        for record in plain:
            if record.protocol == newest[record.experiment]:
                key = (record.experiment, record.row, record.profile)
                self._rows.setdefault(key, []).append(record)

    def sample(self, quantity: Quantity, profile: str) -> Sample | None:
        """Return what was measured; None if nothing was, or another metric alone."""
        rows = self._rows.get((quantity.experiment, quantity.row, profile), [])
        values = {
            r.seed: float(r.value)
            for r in rows
            if r.metric == quantity.metric and r.status == "ok"
        }
        failed = {r.seed for r in rows if r.status != "ok"} - set(values)
        return Sample(values, len(failed)) if values or failed else None


def judge_number(published: PaperNumber, row: str, evidence: Evidence) -> NumberVerdict:
    """Judge one published number by one of our rows, under the profile that says most."""
    quantity = Quantity(published.experiment, row, published.metric)
    for profile in PROFILES:
        sample = evidence.sample(quantity, profile)
        if sample is not None:
            kind, half_width, needed, detail = _number_kind(published, sample, profile)
            return NumberVerdict(published, row, kind, profile, sample, half_width, needed, detail)
    return NumberVerdict(published, row, "not run", "", None, math.nan, None, "no rows")


def _number_kind(
    published: PaperNumber, sample: Sample, profile: str
) -> tuple[NumberKind, float, int | None, str]:
    if isinstance(published.value, str) or published.test == "none":
        return "not comparable", math.nan, None, published.reason or "the paper measured nothing"
    if profile not in published.profiles:
        return "not comparable", math.nan, None, f"{profile} is too far from the paper's protocol"
    if sample.failed:
        return "unclear", math.nan, None, _failures(sample)
    assert published.tolerance is not None
    mean = spread.fmean(sample.values.values())
    distance = mean - published.value
    if published.test == "exact" and len(set(sample.values.values())) == 1:
        if abs(distance) <= published.tolerance:
            return "reproduced", 0.0, None, "exact, within the tolerance"
        return _direction(published, distance), 0.0, None, "exact, beyond the tolerance"
    if sample.n < LEAST_SEEDS:
        return "unclear", math.nan, LEAST_SEEDS, f"{sample.n} of {LEAST_SEEDS} seeds"
    half_width = statistics.prediction_half_width(sample.sd, sample.n)
    if abs(distance) > half_width:
        detail = "the paper's value lies outside the prediction interval"
        return _direction(published, distance), half_width, None, detail
    if half_width <= published.tolerance:
        return "reproduced", half_width, None, "within a prediction interval that is narrow enough"
    needed = statistics.seeds_to_predict(sample.sd, published.tolerance)
    detail = "the prediction interval is wider than the tolerance"
    if needed is None:
        detail += "; no number of seeds can tell"
    return "unclear", half_width, needed, detail


def _direction(published: PaperNumber, distance: float) -> NumberKind:
    lower_is_better = published.better == "lower"
    return "better" if (distance < 0) == lower_is_better else "worse"


def judge_claim(claim: Claim, evidence: Evidence) -> ClaimVerdict:
    """Judge a claim under the first of its profiles for which every row is there."""
    profiles = [profile for profile in PROFILES if profile in claim.profiles]
    found = {profile: _missing(claim, evidence, profile) for profile in profiles}
    whole = [profile for profile in profiles if not found[profile]]
    if whole:
        return _judge(claim, evidence, whole[0])
    begun = [p for p in profiles if len(found[p]) < len(claim.quantities)]
    if not begun:
        detail = f"no rows under {' or '.join(profiles)}"
        return ClaimVerdict(claim, "not run", "", (), None, detail)
    return ClaimVerdict(
        claim, "undecided", begun[0], (), None, "no rows of " + ", ".join(found[begun[0]])
    )


def _missing(claim: Claim, evidence: Evidence, profile: str) -> list[str]:
    return [str(q) for q in claim.quantities if evidence.sample(q, profile) is None]


def _judge(claim: Claim, evidence: Evidence, profile: str) -> ClaimVerdict:
    parts = [
        (part, [_finding(part, condition, evidence, profile) for condition in part.conditions])
        for part in claim.parts
    ]
    kinds = [_part_kind(part, findings) for part, findings in parts]
    findings = tuple(finding for _, some in parts for finding in some)
    if "does not hold" in kinds:
        return ClaimVerdict(claim, "does not hold", profile, findings, None, "")
    if all(kind == "holds" for kind in kinds):
        return ClaimVerdict(claim, "holds", profile, findings, None, "")
    open_ones = [f for f in findings if f.kind == "undecided"]
    known = [f.needed for f in open_ones if f.needed is not None]
    needed = max(known) if len(known) == len(open_ones) else None
    detail = "; ".join(dict.fromkeys(f.detail for f in open_ones))
    return ClaimVerdict(claim, "undecided", profile, findings, needed, detail)


def _part_kind(part: Part, findings: Sequence[Finding]) -> ClaimKind:
    holding = sum(finding.kind == "holds" for finding in findings)
    possible = holding + sum(finding.kind == "undecided" for finding in findings)
    if holding >= part.need:
        return "holds"
    return "undecided" if possible >= part.need else "does not hold"


def _finding(part: Part, condition: Condition, evidence: Evidence, profile: str) -> Finding:
    sample = evidence.sample(condition.quantity, profile)
    other = None if condition.against is None else evidence.sample(condition.against, profile)
    assert sample is not None
    if part.test == "number":
        return _number_finding(condition, sample, profile)
    if part.test == "interval":
        return _measured_finding(condition, sample, evidence, profile)
    n = min(sample.n, other.n) if other is not None else sample.n
    for one in (sample, other):
        if one is not None and one.failed:
            return Finding(condition, "undecided", None, n, None, _failures(one))
    interval, needs_seeds = _interval(part, sample, other)
    if needs_seeds and n < LEAST_SEEDS:
        short = f"{n} of {LEAST_SEEDS} seeds"
        return Finding(condition, "undecided", interval, n, LEAST_SEEDS, short)
    kind = _place(interval, condition)
    if kind != "undecided":
        return Finding(condition, kind, interval, n, None, "")
    needed = _seeds_needed(part, condition, interval, sample, other)
    detail = "the interval crosses the end of its range"
    if needed is None:
        detail += f"; more than {statistics.MOST_SEEDS:,} seeds would be needed"
    return Finding(condition, kind, interval, n, needed, detail)


def _measured_finding(
    condition: Condition, sample: Sample, evidence: Evidence, profile: str
) -> Finding:
    """Judge an interval that was measured with its estimate, for the lowest seed that has one."""
    quantity = condition.quantity
    ends = [
        evidence.sample(replace(quantity, metric=f"{quantity.metric}_{end}"), profile)
        for end in ("low", "high")
    ]
    if not sample.values or any(end is None or not end.values for end in ends):
        return Finding(condition, "undecided", None, 0, None, f"no interval of {quantity}")
    seed = min(sample.values)
    low, high = (end.values[seed] for end in ends if end is not None)
    interval = Interval(sample.values[seed], low, high)
    kind = _place(interval, condition)
    detail = "the interval crosses the end of its range" if kind == "undecided" else ""
    return Finding(condition, kind, interval, 1, None, detail)


def _number_finding(condition: Condition, sample: Sample, profile: str) -> Finding:
    quantity = condition.quantity
    published = number(quantity.experiment, quantity.row, quantity.metric)
    kind, _, needed, detail = _number_kind(published, sample, profile)
    answers: dict[NumberKind, ClaimKind] = {
        "reproduced": "holds",
        "better": "does not hold",
        "worse": "does not hold",
    }
    verdict = answers.get(kind, "undecided")
    return Finding(condition, verdict, None, sample.n, needed, f"{kind}: {detail}")


def _interval(part: Part, sample: Sample, other: Sample | None) -> tuple[Interval, bool]:
    """Return the interval and whether it rests on seeds, not on one exact number."""
    values = list(sample.values.values())
    if other is None:
        exact = part.test == "exact" and len(set(values)) == 1
        interval = statistics.exactly(values[0]) if exact else statistics.mean_interval(values)
        return interval, not exact
    others = list(other.values.values())
    if part.test == "ratio":
        if len(set(values)) > 1 or len(set(others)) > 1:
            ratios = [sample.values[s] / other.values[s] for s in _shared_seeds(sample, other)]
            return statistics.mean_interval(ratios), True
        return statistics.exactly(values[0] / others[0]), False
    if part.test == "paired":
        pairs = [sample.values[s] - other.values[s] for s in _shared_seeds(sample, other)]
        return statistics.mean_interval(pairs), True
    return statistics.welch_interval(values, others), True


def _shared_seeds(sample: Sample, other: Sample) -> list[int]:
    return sorted(sample.values.keys() & other.values.keys())


def _place(interval: Interval, condition: Condition) -> ClaimKind:
    if condition.low <= interval.low and interval.high <= condition.high:
        return "holds"
    if interval.high < condition.low or condition.high < interval.low:
        return "does not hold"
    return "undecided"


def _seeds_needed(
    part: Part, condition: Condition, interval: Interval, sample: Sample, other: Sample | None
) -> int | None:
    """Return how many seeds would decide if means and spreads stayed as they are."""
    ends = [abs(interval.value - end) for end in (condition.low, condition.high)]
    distance = min(end for end in ends if math.isfinite(end))
    if distance == 0:
        return None
    if part.test == "welch" and other is not None:
        return statistics.seeds_to_bound_difference(sample.sd, other.sd, distance)
    if other is None:
        return statistics.seeds_to_bound_mean(sample.sd, distance)
    shared = _shared_seeds(sample, other)
    pairs = [sample.values[s] - other.values[s] for s in shared]
    return statistics.seeds_to_bound_mean(spread.stdev(pairs), distance)


def _failures(sample: Sample) -> str:
    return f"{sample.failed} of {sample.failed + sample.n} runs failed"
