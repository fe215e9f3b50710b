"""The claims with their verdicts, and what each rests on: the first thing that the page shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reproduce.claims import Part, PartTest, Quantity, claims
from reproduce.judgements import NOT_RUN, Line, number_text, range_text
from reproduce.page.tables import TONES
from reproduce.records import PROFILES, Record

# As a reader asks for them; the last one is what no rows were there for.
VERDICTS = ("holds", "does not hold", "undecided", NOT_RUN)
KINDS: dict[PartTest, str] = {
    "mean": "mean",
    "number": "mean",
    "welch": "difference of means",
    "paired": "mean difference",
    "ratio": "ratio",
}


@dataclass(frozen=True)
class Measure:
    """One condition of a claim.

    Args:
        quantity: What was measured, as ``paper.toml`` names it.
        experiment: The experiment whose rows it is about.
        kind: What the estimate is of it: mean, difference or ratio; empty for a plain value.
        estimate: Our value, with its unit.
        interval: Its 95 % interval; empty where the number is exact or there is none.
        seeds: How many runs it is from.
        allowed: The range that the interval must lie in.
        verdict: Whether it does.
        tone: How that is coloured.
        detail: Why nothing was decided; empty otherwise.
    """

    quantity: str
    experiment: str
    kind: str
    estimate: str
    interval: str
    seeds: int
    allowed: str
    verdict: str
    tone: str
    detail: str


@dataclass(frozen=True)
class Entry:
    """One claim.

    Args:
        id: C01… or D01….
        text: The claim.
        where: Its place in the paper or the deck.
        published: What is published for it.
        note: What to know before reading the verdict.
        verdict: The verdict.
        tone: How it is coloured.
        profile: The profile that it was reached under.
        detail: Why nothing was decided; empty otherwise.
        seeds_needed: Seeds in all that would decide what is open; None where none would.
        measures: What it rests on.
        reasons: Why the ranges are what they are.
        command: What would bring its rows; empty where they are all there.
        experiments: Experiments whose rows it is about, then those whose figures show it.
    """

    id: str
    text: str
    where: str
    published: str
    note: str
    verdict: str
    tone: str
    profile: str
    detail: str
    seeds_needed: int | None
    measures: tuple[Measure, ...]
    reasons: tuple[str, ...]
    command: str
    experiments: tuple[str, ...]


def entries(lines: Sequence[Line], rows: Sequence[Record], out: str) -> list[Entry]:
    """Return all claims in their order.

    Args:
        lines: What `judgements.judge` returned.
        rows: What it was given, for the units.
        out: What a command needs to write into the folder that is reported on; may be empty.
    """
    heads = {line.id: line for line in lines if line.kind == "claim"}
    conditions = [line for line in lines if line.kind == "condition"]
    units = {(row.experiment, row.row, row.metric): row.unit for row in rows}
    found = []
    for claim in claims():
        head = heads[claim.id]
        judged = [line for line in conditions if line.id.split(".")[0] == claim.id]
        rules = [(part, one) for part in claim.parts for one in part.conditions]
        measures = tuple(
            _measure(line, part, units.get(_key(one.quantity), ""))
            for line, (part, one) in zip(judged, rules, strict=False)  # none where none was judged
        )
        missing = "" if measures else command(head.experiments, claim.profiles, out)
        found.append(
            Entry(
                id=claim.id,
                text=claim.text,
                where=claim.where,
                published=claim.paper,
                note=" ".join(filter(None, (claim.note, claim.later))),
                verdict=head.verdict,
                tone=TONES.get(head.verdict, "none"),
                profile=head.profile,
                detail=head.detail,
                seeds_needed=head.seeds_needed,
                measures=measures,
                reasons=tuple(dict.fromkeys(part.reason for part in claim.parts)),
                command=missing,
                experiments=(*head.experiments, *head.shown),
            )
        )
    return found


def counts(found: Sequence[Entry]) -> list[tuple[str, str, int]]:
    """Return each verdict with its tone and how many claims have it."""
    verdicts = [entry.verdict for entry in found]
    return [(name, TONES.get(name, "none"), verdicts.count(name)) for name in VERDICTS]


def command(experiments: Sequence[str], profiles: Sequence[str], out: str) -> str:
    """Return the command that brings the rows of experiments under their shortest profile."""
    shortest = max(profiles, key=PROFILES.index)
    return " ".join(
        ["python -m reproduce", *experiments, "--profile", shortest, *([out] if out else [])]
    )


def _key(quantity: Quantity) -> tuple[str, str, str]:
    return quantity.experiment, quantity.row, quantity.metric


def _measure(line: Line, part: Part, unit: str) -> Measure:
    bounded = not (math.isnan(line.low) or line.low == line.high)
    shown = f" {unit}" if unit and part.test != "ratio" else ""
    return Measure(
        quantity=line.text,
        experiment=line.text.split("/")[0],
        kind=KINDS.get(part.test, ""),
        estimate=f"{number_text(line.value)}{shown}",
        interval=range_text(line.low, line.high) if bounded else "",
        seeds=line.n,
        allowed=range_text(line.least, line.most),
        verdict=line.verdict,
        tone=TONES.get(line.verdict, "none"),
        detail=line.detail,
    )
