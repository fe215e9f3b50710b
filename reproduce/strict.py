"""What no longer holds: claims and numbers of the shipped results, judged by other rows."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduce import tables
from reproduce.claims import claims
from reproduce.judgements import NOT_RUN, WIDTH
from reproduce.paper import published
from reproduce.records import SEEDS_FOR_A_VERDICT, Record
from reproduce.verdicts import ClaimVerdict, Evidence, NumberVerdict, judge_claim, judge_number

_WORSE = ("worse", "different")


@dataclass(frozen=True)
class Check:
    """What became of a claim that held, or of a number that was reproduced.

    Args:
        id: As in ``comparison.csv``.
        before: Its verdict there, with the profile.
        now: Its verdict, with the profile; empty where it could not be judged.
        broken: Whether it no longer is what it was.
        detail: Why.
    """

    id: str
    before: str
    now: str
    broken: bool
    detail: str


def check(shipped: Path, rows: Iterable[Record]) -> list[Check]:
    """Judge by these rows what the shipped ones decided.

    A claim that held is broken by any other verdict, a number that was reproduced by a worse one,
    and both by a run that failed. What lacks rows, or seeds for a verdict, was not run and breaks
    nothing.

    Args:
        shipped: The ``comparison.csv`` of the shipped results.
        rows: The rows to be judged.

    Raises:
        ValueError: If the file is malformed.
    """
    evidence = Evidence(rows)
    held = _decided(shipped, "claim", "holds")
    reproduced = _decided(shipped, "number", "reproduced")
    numbers = [
        (f"{number.experiment}.{row}.{number.metric}", number, row)
        for number in published()
        for row in number.rows
    ]
    return [
        *(
            _of_number(name, reproduced[name], judge_number(number, row, evidence))
            for name, number, row in numbers
            if name in reproduced
        ),
        *(
            _of_claim(held[claim.id], judge_claim(claim, evidence))
            for claim in claims()
            if claim.id in held
        ),
    ]


def render(checks: Iterable[Check]) -> str:
    """Return what is broken, what was not run and how much still stands."""
    listed = list(checks)
    broken = [check for check in listed if check.broken]
    absent = [check for check in listed if not check.now]
    stands = len(listed) - len(broken) - len(absent)
    lines = [f"BROKEN {c.id}: {c.before}, now {c.now}. {c.detail}".rstrip() for c in broken]
    reasons: dict[str, list[str]] = {}
    for one in absent:
        reasons.setdefault(one.detail, []).append(one.id)
    for why, which in reasons.items():
        told = f"not compared, {why}: {_counted(which)}"
        lines += textwrap.wrap(told, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    lines.append(
        f"Of {len(listed)} shipped verdicts {stands} stand, {len(broken)} are broken, "
        f"{len(absent)} were not compared."
    )
    return "\n".join(lines)


def _counted(ids: Sequence[str]) -> str:
    """Return how many numbers there are of each experiment, and the claims by name."""
    numbers = Counter(name.partition(".")[0] for name in ids if "." in name)
    told = [f"{count} of {experiment}" for experiment, count in numbers.items()]
    return ", ".join(told + [name for name in ids if "." not in name])


def _decided(shipped: Path, kind: str, verdict: str) -> dict[str, str]:
    """Return the profiles of the shipped lines with this verdict, by id."""
    lines = tables.rows(shipped, ("id", "kind", "profile", "verdict", "..."))
    return {
        line["id"]: f"{verdict} under {line['profile']}"
        for _, line in lines
        if (line["kind"], line["verdict"]) == (kind, verdict)
    }


def _of_number(name: str, before: str, found: NumberVerdict) -> Check:
    if found.kind in (NOT_RUN, "not comparable"):
        return Check(name, before, "", False, _unrun(found.profile))
    failed = found.sample is not None and found.sample.failed > 0
    if found.kind == "unclear" and not failed and found.sample is not None:
        n = found.sample.n
        if n < SEEDS_FOR_A_VERDICT:
            return Check(name, before, "", False, f"{n} of {SEEDS_FOR_A_VERDICT} seeds were run")
    now = f"{found.kind} under {found.profile}"
    return Check(name, before, now, found.kind in _WORSE or failed, f"{found.detail}.")


def _of_claim(before: str, found: ClaimVerdict) -> Check:
    name = found.claim.id
    if found.kind in (NOT_RUN, "not comparable"):
        return Check(name, before, "", False, _unrun(""))
    if found.kind == "undecided":
        if not found.findings:
            return Check(name, before, "", False, found.detail)
        open_ones = [f for f in found.findings if f.kind == "undecided"]
        short = [f.needed == SEEDS_FOR_A_VERDICT and f.n < SEEDS_FOR_A_VERDICT for f in open_ones]
        if all(short):
            n = min(f.n for f in open_ones)
            detail = f"{n} of {SEEDS_FOR_A_VERDICT} seeds were run"
            return Check(name, before, "", False, detail)
    now = f"{found.kind} under {found.profile}"
    parts = [
        f"{f.condition.quantity}: {f.detail or 'outside its range'}"
        for f in found.findings
        if f.kind != "holds"
    ]
    detail = f"{found.claim.text} {'; '.join(parts)}".rstrip()
    return Check(name, before, now, found.kind != "holds", detail)


def _unrun(profile: str) -> str:
    return f"{profile} decides nothing" if profile else "not run"
