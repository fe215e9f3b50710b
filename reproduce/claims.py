"""The claims of the paper and of the slide deck, and the rule that judges each, as data.

A claim is a list of parts, all of which must hold. A part names a quantity over rows of ours, how
its 95 % interval is found, and the range that the interval must lie in. Rules are read from the
table ``claims`` of ``paper.toml``, which is committed before the results that it judges.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from reproduce import paper

PartTest = Literal["exact", "mean", "welch", "paired", "ratio", "interval", "number"]

_REQUIRED = ("text", "where", "paper", "profiles", "parts")
_PART_REQUIRED = ("quantity", "test", "reason")
_PART_OPTIONAL = ("against", "low", "high", "each", "need")


@dataclass(frozen=True)
class Quantity:
    """Where the values of a quantity are found: one value a seed.

    Args:
        experiment: Name of the experiment.
        row: Our row.
        metric: Our metric.
    """

    experiment: str
    row: str
    metric: str

    @staticmethod
    def parse(name: str, text: object) -> Quantity:
        """Read ``experiment/row/metric``."""
        pieces = paper.words(name, "quantity", text).split("/")
        if len(pieces) != 3 or not all(pieces):
            raise ValueError(f"[{name}] {text!r} is not written experiment/row/metric.")
        return Quantity(*pieces)

    def __str__(self) -> str:
        """Return it as it is written in ``paper.toml``."""
        return f"{self.experiment}/{self.row}/{self.metric}"


@dataclass(frozen=True)
class Condition:
    """One interval and the range it must lie in.

    Args:
        quantity: What is measured.
        against: What it is compared with; None for a quantity by itself.
        low: Lower end of the range.
        high: Upper end of the range.
    """

    quantity: Quantity
    against: Quantity | None
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """Conditions of which a given number must hold.

    Args:
        test: How the interval is found: ``mean`` of the quantity over seeds (t interval);
            ``welch`` for the difference of two means; ``paired`` for the mean difference within
            seeds; ``interval`` for one that was measured with its own, in the metrics that end in
            ``_low`` and ``_high``; ``exact`` for a number that no seed changes; ``ratio`` for
            that of two such; ``number`` asks whether a published number was reproduced.
        conditions: The conditions.
        need: How many of them must hold.
        reason: Why this range.
    """

    test: PartTest
    conditions: tuple[Condition, ...]
    need: int
    reason: str


@dataclass(frozen=True)
class Claim:
    """A claim and its rule.

    Args:
        id: C01… for the paper's, D01… for the deck's.
        text: The claim in one sentence.
        where: The place in the paper or the deck.
        paper: What is published for it.
        profiles: Profiles of ours that can decide it.
        parts: The rule: every part must hold.
        note: What to know before reading the verdict.
        shown: Experiments that show what it says and measure nothing that judges it.
        later: What of the rule was added or changed when rows were known; empty if nothing was.
        before: The verdict on today's rows by what it said before; empty where it is the same.
    """

    id: str
    text: str
    where: str
    paper: str
    profiles: tuple[str, ...]
    parts: tuple[Part, ...]
    note: str
    shown: tuple[str, ...] = ()
    later: str = ""
    before: str = ""

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Everything that must be measured for it, without repetition."""
        conditions = [condition for part in self.parts for condition in part.conditions]
        both = (q for c in conditions for q in (c.quantity, c.against) if q is not None)
        return tuple(dict.fromkeys(both))


@cache
def claims() -> tuple[Claim, ...]:
    """Return all claims in the order of ``paper.toml``."""
    return parse(paper.text())


def parse(text: str) -> tuple[Claim, ...]:
    """Read the table ``claims`` of a text shaped like ``paper.toml``.

    Raises:
        ValueError: If a key is unknown, missing or of the wrong kind; the message names it.
    """
    entries = tomllib.loads(text).get(paper.CLAIMS, {})
    return tuple(_claim(identity, entry) for identity, entry in entries.items())


def _claim(identity: str, entry: dict[str, Any]) -> Claim:
    name = f"{paper.CLAIMS}.{identity}"
    paper.check_keys(name, entry, _REQUIRED, ("note", "shown", "later", "before"))
    for profile in entry["profiles"]:
        paper.one_of(name, "profiles", profile, get_args(paper.Profile))
    return Claim(
        id=identity,
        text=paper.words(name, "text", entry["text"]),
        where=paper.words(name, "where", entry["where"]),
        paper=paper.words(name, "paper", entry["paper"]),
        profiles=tuple(entry["profiles"]),
        parts=tuple(_part(name, part) for part in entry["parts"]),
        note=paper.words(name, "note", entry.get("note", "")),
        shown=tuple(paper.words(name, "shown", one) for one in entry.get("shown", [])),
        later=paper.words(name, "later", entry.get("later", "")),
        before=_before(name, entry),
    )


def _before(name: str, entry: dict[str, Any]) -> str:
    if "before" in entry and "later" not in entry:
        raise ValueError(f"[{name}] before lacks later, which says what was changed.")
    return paper.words(name, "before", entry.get("before", ""))


def _part(name: str, entry: dict[str, Any]) -> Part:
    paper.check_keys(name, entry, _PART_REQUIRED, _PART_OPTIONAL)
    paper.one_of(name, "test", entry["test"], get_args(PartTest))
    compares = entry["test"] in ("welch", "paired", "ratio")
    if compares != ("against" in entry):
        word = "needs" if compares else "takes no"
        raise ValueError(f"[{name}] the test {entry['test']!r} {word} 'against'.")
    if entry["test"] != "number" and not {"low", "high"} & set(entry):
        raise ValueError(f"[{name}] {entry['quantity']} needs low, high or both.")
    each = entry.get("each", [""])
    need = entry.get("need", len(each))
    if not isinstance(need, int) or not 1 <= need <= len(each):
        raise ValueError(f"[{name}] need is {need!r}, not between 1 and {len(each)}.")
    conditions = tuple(
        Condition(
            quantity=Quantity.parse(name, entry["quantity"].replace("{}", one)),
            against=Quantity.parse(name, entry["against"].replace("{}", one))
            if compares
            else None,
            low=float(entry.get("low", -math.inf)),
            high=float(entry.get("high", math.inf)),
        )
        for one in each
    )
    return Part(entry["test"], conditions, need, paper.words(name, "reason", entry["reason"]))
