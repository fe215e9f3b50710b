"""The rules of ``paper.toml`` applied to records: a verdict for every number and every claim.

A number is judged by the 95 % prediction interval for one further run; a claim by 95 % intervals
that must lie in its ranges. Rows with changed settings are never judged, a row of which a run
failed decides nothing, and no verdict rests on fewer than five seeds unless the number is exact or
was measured with an interval of its own, over rounds of a timing or over images.
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
from reproduce.records import PROFILES, SEEDS_FOR_A_VERDICT, Record
from reproduce.statistics import Interval

NumberKind = Literal[
    "reproduced", "better", "worse", "different", "unclear", "not comparable", "not run"
]
ClaimKind = Literal["holds", "does not hold", "undecided", "not comparable", "not run"]


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
        leaning: What would be decided then, if means stayed as they are.
    """

    condition: Condition
    kind: ClaimKind
    interval: Interval | None
    n: int
    needed: int | None
    detail: str
    leaning: ClaimKind = "undecided"

    @property
    def measured(self) -> bool:
        """Whether there was enough to judge by, be the answer that nothing can be told."""
        if self.interval is None or math.isnan(self.interval.low):
            return False
        return self.n >= SEEDS_FOR_A_VERDICT or self.needed != SEEDS_FOR_A_VERDICT


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
    """Judge one published number by one of our rows.

    Of several profiles that nearest to the paper counts among those that have enough seeds and
    no failure: few seeds of a longer training do not undo the verdict of a shorter one, and a
    shorter one does not decide what the longer leaves open.
    """
    quantity = Quantity(published.experiment, row, published.metric)
    samples = {profile: evidence.sample(quantity, profile) for profile in PROFILES}
    if isinstance(published.value, str) or published.test == "none":
        # Printed beside ours all the same.
        profile, sample = next(((p, s) for p, s in samples.items() if s), ("", None))
        reason = published.reason or "the paper measured nothing"
        return NumberVerdict(
            published, row, "not comparable", profile, sample, math.nan, None, reason
        )
    found: list[NumberVerdict] = []
    for profile, sample in samples.items():
        if sample is not None:
            judged = _number_kind(published, sample, profile)
            kind, half_width, needed, detail = judged
            found.append(
                NumberVerdict(published, row, kind, profile, sample, half_width, needed, detail)
            )
    told = [
        v
        for v in found
        if v.kind in ("reproduced", "better", "worse", "different")
        or not math.isnan(v.half_width)  # enough seeds, and open
    ]
    absent = NumberVerdict(published, row, "not run", "", None, math.nan, None, "no rows")
    return [*told, *found, absent][0]


def _number_kind(
    published: PaperNumber, sample: Sample, profile: str
) -> tuple[NumberKind, float, int | None, str]:
    assert not isinstance(published.value, str)
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
    if sample.n < SEEDS_FOR_A_VERDICT:
        return (
            "unclear",
            math.nan,
            SEEDS_FOR_A_VERDICT,
            f"{sample.n} of {SEEDS_FOR_A_VERDICT} seeds",
        )
    half_width = statistics.prediction_half_width(sample.sd, sample.n)
    if abs(distance) > half_width:
        detail = "the paper's value lies outside the prediction interval"
        return _direction(published, distance), half_width, None, detail
    if half_width <= published.tolerance:
        return "reproduced", half_width, None, "within a prediction interval that is narrow enough"
    # Two things decide: an interval as narrow as the tolerance, or one without the paper's value.
    needed = statistics.seeds_to_predict(sample.sd, max(published.tolerance, abs(distance)))
    detail = "the prediction interval is wider than the tolerance"
    if needed is None:
        detail += "; no number of seeds can tell"
    return "unclear", half_width, needed, detail


def _direction(published: PaperNumber, distance: float) -> NumberKind:
    if published.better == "neither":
        return "different"
    lower_is_better = published.better == "lower"
    return "better" if (distance < 0) == lower_is_better else "worse"


def judge_claim(claim: Claim, evidence: Evidence) -> ClaimVerdict:
    """Judge a claim under the profile nearest to the paper that has all rows and enough seeds.

    Where none has enough, the nearest says what is lacking.
    """
    profiles = [profile for profile in PROFILES if profile in claim.profiles]
    found = {profile: _missing(claim, evidence, profile) for profile in profiles}
    whole = [profile for profile in profiles if not found[profile]]
    if whole:
        judged = [_judge(claim, evidence, profile) for profile in whole]
        return next((v for v in judged if _settled(v)), judged[0])
    begun = [p for p in profiles if len(found[p]) < len(claim.quantities)]
    if not begun:
        detail = f"no rows under {' or '.join(profiles)}"
        return ClaimVerdict(claim, "not run", "", (), None, detail)
    return ClaimVerdict(
        claim, "undecided", begun[0], (), None, "no rows of " + ", ".join(found[begun[0]])
    )


def _settled(verdict: ClaimVerdict) -> bool:
    """Whether a profile has decided a claim, or had enough to and cannot."""
    if verdict.kind != "undecided":
        return True
    return all(finding.measured for finding in verdict.findings if finding.kind == "undecided")


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
    open_ones = [
        finding
        for (_, some), kind in zip(parts, kinds, strict=True)
        if kind == "undecided"
        for finding in some
        if finding.kind == "undecided"
    ]
    detail = "; ".join(dict.fromkeys(f.detail for f in open_ones))
    return ClaimVerdict(claim, "undecided", profile, findings, _claim_needs(parts), detail)


def _claim_needs(parts: Sequence[tuple[Part, Sequence[Finding]]]) -> int | None:
    """Return how many seeds would decide an open claim; None where none would.

    It fails with its first part that does, and holds with its last.
    """
    needs = [_part_needs(part, findings) for part, findings in parts]
    needed = min(min(fails for _, fails in needs), max(holds for holds, _ in needs))
    return int(needed) if math.isfinite(needed) else None


def _part_needs(part: Part, findings: Sequence[Finding]) -> tuple[float, float]:
    """Return the seeds by which enough conditions hold, and by which too many do not."""

    def least(kind: ClaimKind, count: int) -> float:
        seeds = [
            0 if finding.kind == kind else finding.needed or math.inf
            for finding in findings
            if kind in (finding.kind, finding.leaning)
        ]
        return sorted([*seeds, *[math.inf] * count])[count - 1]

    return least("holds", part.need), least("does not hold", len(findings) - part.need + 1)


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
    for one in (sample, other):
        if one is not None and one.failed:
            return Finding(condition, "undecided", None, sample.n, None, _failures(one))
    groups = _groups(part, sample, other)
    n = min(len(group) for group in groups)
    if not n:
        return Finding(condition, "undecided", None, 0, None, "no value that can be compared")
    interval = _interval(groups)
    leaning = _place(statistics.exactly(interval.value), condition)
    exact = part.test in ("exact", "ratio") and all(len(set(group)) == 1 for group in groups)
    if exact:
        interval = statistics.exactly(interval.value)
    elif n < SEEDS_FOR_A_VERDICT:
        short = f"{n} of {SEEDS_FOR_A_VERDICT} seeds"
        return Finding(condition, "undecided", interval, n, SEEDS_FOR_A_VERDICT, short, leaning)
    kind = _place(interval, condition)
    if kind != "undecided":
        return Finding(condition, kind, interval, n, None, "")
    needed = _seeds_needed(condition, interval, groups)
    detail = "the interval crosses the end of its range"
    if needed is None:
        detail += f"; more than {statistics.MOST_SEEDS:,} seeds would be needed"
    return Finding(condition, kind, interval, n, needed, detail, leaning)


def _measured_finding(
    condition: Condition, sample: Sample, evidence: Evidence, profile: str
) -> Finding:
    """Judge an interval that was measured with its estimate; several seeds must agree."""
    quantity = condition.quantity
    if sample.failed:
        return Finding(condition, "undecided", None, sample.n, None, _failures(sample))
    ends = [
        evidence.sample(replace(quantity, metric=f"{quantity.metric}_{end}"), profile)
        for end in ("low", "high")
    ]
    values = [end.values for end in ends if end is not None]
    seeds = sorted(set(sample.values).intersection(*values)) if len(values) == 2 else []
    if not seeds:
        return Finding(condition, "undecided", None, 0, None, f"no interval of {quantity}")
    intervals = [Interval(sample.values[s], values[0][s], values[1][s]) for s in seeds]
    kinds = {_place(interval, condition) for interval in intervals}
    kind = kinds.pop() if len(kinds) == 1 else "undecided"
    detail = "the interval crosses the end of its range" if kind == "undecided" else ""
    return Finding(condition, kind, intervals[0], len(seeds), None, detail)


def _number_finding(condition: Condition, sample: Sample, profile: str) -> Finding:
    quantity = condition.quantity
    published = number(quantity.experiment, quantity.row, quantity.metric)
    kind, half_width, needed, detail = _number_kind(published, sample, profile)
    answers: dict[NumberKind, ClaimKind] = {
        "reproduced": "holds",
        "better": "does not hold",
        "worse": "does not hold",
        "different": "does not hold",
    }
    verdict = answers.get(kind, "undecided")
    mean = spread.fmean(sample.values.values()) if sample.values else math.nan
    interval = Interval(mean, mean - half_width, mean + half_width)
    assert published.tolerance is not None
    assert not isinstance(published.value, str)
    near = abs(mean - published.value) <= published.tolerance
    leaning: ClaimKind = "holds" if near else "does not hold"
    text = f"{kind}: {detail}"
    return Finding(condition, verdict, interval, sample.n, needed, text, leaning)


def _groups(part: Part, sample: Sample, other: Sample | None) -> list[list[float]]:
    """Return the values whose mean, or the two groups whose difference, the part is about."""
    if other is None:
        return [list(sample.values.values())]
    if part.test == "welch":
        return [list(sample.values.values()), list(other.values.values())]
    # Exact numbers may have been measured with different seeds.
    pairs = [(sample.values[s], other.values[s]) for s in sample.values.keys() & other.values]
    constant = len(set(sample.values.values())) == len(set(other.values.values())) == 1
    if part.test == "ratio":
        if constant:
            pairs = [(next(iter(sample.values.values())), next(iter(other.values.values())))]
        return [[mine / theirs for mine, theirs in pairs if theirs]]
    return [[mine - theirs for mine, theirs in pairs]]


def _interval(groups: Sequence[Sequence[float]]) -> Interval:
    if len(groups) == 1:
        return statistics.mean_interval(groups[0])
    return statistics.welch_interval(*groups)


def _place(interval: Interval, condition: Condition) -> ClaimKind:
    if condition.low <= interval.low and interval.high <= condition.high:
        return "holds"
    if interval.high < condition.low or condition.high < interval.low:
        return "does not hold"
    return "undecided"


def _seeds_needed(
    condition: Condition, interval: Interval, groups: Sequence[Sequence[float]]
) -> int | None:
    """Return how many seeds would decide if means and spreads stayed as they are."""
    ends = [abs(interval.value - end) for end in (condition.low, condition.high)]
    distance = min(end for end in ends if math.isfinite(end))
    if distance == 0:
        return None
    if len(groups) == 1:
        return statistics.seeds_to_bound_mean(spread.stdev(groups[0]), distance)
    first, second = (spread.stdev(group) for group in groups)
    return statistics.seeds_to_bound_difference(first, second, distance)


def _failures(sample: Sample) -> str:
    return f"{sample.failed} of {sample.failed + sample.n} runs failed"
