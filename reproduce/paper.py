"""The published numbers, read from ``paper.toml``, the only file that holds any."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

Better = Literal["lower", "higher", "neither"]
NumberTest = Literal["prediction", "exact", "none"]
Profile = Literal["paper", "short", "quick"]

REQUIRED_OF_ALL = ("value", "where")
REQUIRED_OF_NUMBERS = ("unit", "better", "tolerance", "reason", "test", "profiles")
OPTIONAL = ("rows", "note", "others", "later", "tolerance_before")
OPTIONAL_OF_TEXT = ("rows", "note", "others", "reason")
CLAIMS = "claims"  # the table of claims, which `reproduce.claims` reads


@dataclass(frozen=True)
class Rerun:
    """The same number as somebody else measured it.

    Args:
        value: As published there, in the unit of the paper's number.
        source: Who.
        setting: What differs from the paper.
    """

    value: float
    source: str
    setting: str


@dataclass(frozen=True)
class PaperNumber:
    """One number, or one order of growth, as the paper prints it.

    Args:
        experiment: Name of the experiment that re-runs it, such as ``table1``.
        row: The paper's row.
        metric: What is measured, such as ``test_error``.
        value: The published number in ``unit``, or text such as ``O(L)``.
        unit: Unit of ``value``; empty for text.
        where: The place in the paper.
        better: Direction of improvement; ``None`` for text.
        tolerance: Largest distance that counts as the same; ``None`` for text.
        reason: Why that tolerance, or why the number cannot be judged; empty for text where the
            paper measured nothing.
        test: ``prediction`` judges by the prediction interval over seeds, ``exact`` a number
            that no seed changes, ``none`` not at all; ``None`` for text.
        profiles: Profiles of ours that are near enough to its protocol for a verdict.
        rows: Rows of ours that are compared with it.
        note: What to know before comparing; empty where nothing is.
        others: What others measured.
        later: What of the rule was added or changed when rows were known; empty if nothing was.
        tolerance_before: The tolerance that it had before; None if it was the same.
    """

    experiment: str
    row: str
    metric: str
    value: float | str
    unit: str
    where: str
    better: Better | None
    tolerance: float | None
    reason: str
    test: NumberTest | None
    profiles: tuple[str, ...]
    rows: tuple[str, ...]
    note: str
    others: tuple[Rerun, ...]
    later: str = ""
    tolerance_before: float | None = None

    @property
    def name(self) -> str:
        """The table in ``paper.toml``, ``experiment.row.metric``."""
        return f"{self.experiment}.{self.row}.{self.metric}"


def numbers(experiment: str) -> tuple[PaperNumber, ...]:
    """Return what the paper prints for an experiment, in the paper's order.

    Args:
        experiment: Name of the experiment; one that the paper does not print has no numbers.
    """
    return tuple(number for number in published() if number.experiment == experiment)


def number(experiment: str, row: str, metric: str) -> PaperNumber:
    """Return the published number that one of our rows is compared with.

    Args:
        experiment: Name of the experiment.
        row: Name of *our* row; several of ours may share one number of the paper.
        metric: Name of the metric.

    Raises:
        LookupError: If the paper prints none.
    """
    for published in numbers(experiment):
        if published.metric == metric and row in published.rows:
            return published
    raise LookupError(f"The paper prints no {metric} for the row {row!r} of {experiment}.")


def checked_exactly(experiment: str) -> bool:
    """Return whether all that stands here of an experiment are numbers that no seed changes."""
    return {number.test for number in numbers(experiment)} == {"exact"}


@cache
def published() -> tuple[PaperNumber, ...]:
    """Return everything the paper prints, in its order; ``paper.toml`` is parsed once."""
    return parse(text())


def text() -> str:
    """Return the packaged ``paper.toml``."""
    return resources.files("reproduce").joinpath("paper.toml").read_text(encoding="utf-8")


def parse(text: str) -> tuple[PaperNumber, ...]:
    """Read published numbers from TOML tables named ``[experiment.row.metric]``.

    Args:
        text: The content of a file shaped like ``paper.toml``.

    Returns:
        The numbers in the order of the file.

    Raises:
        ValueError: If a key is unknown, missing or of the wrong kind, or if two numbers claim the
            same row of ours; the message names the table and the key.
    """
    parsed = tuple(
        _paper_number(experiment, row, metric, entry)
        for experiment, rows in tomllib.loads(text).items()
        if experiment != CLAIMS
        for row, metrics in _table(experiment, rows).items()
        for metric, entry in _table(f"{experiment}.{row}", metrics).items()
    )
    _refuse_shared_rows(parsed)
    return parsed


def _paper_number(experiment: str, row: str, metric: str, entry: object) -> PaperNumber:
    """Build one number after checking every key of its table."""
    name = f"{experiment}.{row}.{metric}"
    table = _table(name, entry)
    is_text = isinstance(table.get("value"), str)
    required = REQUIRED_OF_ALL + (() if is_text else REQUIRED_OF_NUMBERS)
    check_keys(name, table, required, OPTIONAL_OF_TEXT if is_text else OPTIONAL)
    rows = table.get("rows", [row])
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"[{name}] rows must list at least one row of ours, got {rows!r}.")
    if not is_text:
        one_of(name, "better", table["better"], get_args(Better))
        one_of(name, "test", table["test"], get_args(NumberTest))
        if not isinstance(table["profiles"], list):
            raise ValueError(f"[{name}] profiles must be a list, got {table['profiles']!r}.")
        for profile in table["profiles"]:
            one_of(name, "profiles", profile, get_args(Profile))
    return PaperNumber(
        experiment=experiment,
        row=row,
        metric=metric,
        value=table["value"] if is_text else _number(name, "value", table["value"]),
        unit="" if is_text else words(name, "unit", table["unit"]),
        where=words(name, "where", table["where"]),
        better=None if is_text else table["better"],
        tolerance=None if is_text else _number(name, "tolerance", table["tolerance"], least=0.0),
        reason=words(name, "reason", table.get("reason", "")),
        test=None if is_text else table["test"],
        profiles=() if is_text else tuple(table["profiles"]),
        rows=tuple(words(name, "rows", item) for item in rows),
        note=words(name, "note", table.get("note", "")),
        others=tuple(_rerun(name, entry) for entry in table.get("others", [])),
        later=words(name, "later", table.get("later", "")),
        tolerance_before=_tolerance_before(name, table),
    )


def _rerun(name: str, entry: object) -> Rerun:
    """Build what somebody else measured."""
    table = _table(f"{name}.others", entry)
    check_keys(f"{name}.others", table, ("value", "source", "setting"))
    return Rerun(
        _number(name, "others.value", table["value"]),
        words(name, "others.source", table["source"]),
        words(name, "others.setting", table["setting"]),
    )


def _tolerance_before(name: str, table: Mapping[str, Any]) -> float | None:
    if "tolerance_before" not in table:
        return None
    if "later" not in table:
        raise ValueError(f"[{name}] tolerance_before lacks later, which says what was changed.")
    return _number(name, "tolerance_before", table["tolerance_before"], least=0.0)


def check_keys(
    name: str, table: Mapping[str, Any], required: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Refuse missing and unknown keys.

    Args:
        name: Name of the table, for the message.
        table: The table.
        required: Keys it must have.
        optional: Keys it may have.
    """
    missing = [key for key in required if key not in table]
    if missing:
        raise ValueError(f"[{name}] in paper.toml lacks {', '.join(missing)}.")
    unknown = sorted(set(table) - {*required, *optional})
    if unknown:
        raise ValueError(
            f"[{name}] in paper.toml has unknown {', '.join(unknown)}. "
            f"It may have {', '.join((*required, *optional))}."
        )


def one_of(name: str, key: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value that is not among the choices."""
    if value not in choices:
        raise ValueError(f"[{name}] {key} is {value!r}. Choose one of {', '.join(choices)}.")


def _refuse_shared_rows(parsed: tuple[PaperNumber, ...]) -> None:
    """Refuse two published numbers for the same row and metric of ours."""
    owners: dict[tuple[str, str, str], PaperNumber] = {}
    for number in parsed:
        for row in number.rows:
            other = owners.setdefault((number.experiment, row, number.metric), number)
            if other is not number:
                raise ValueError(
                    f"Our row {row!r} is given two values of {number.metric} in "
                    f"{number.experiment}: by {other.row!r} and by {number.row!r}."
                )


def _table(name: str, entry: object) -> Mapping[str, Any]:
    """Return a TOML table, refusing a bare value in its place."""
    if not isinstance(entry, dict):
        raise ValueError(f"[{name}] in paper.toml is {entry!r}, not a table.")
    return entry


def words(name: str, key: str, value: object) -> str:
    """Return text as it is."""
    if not isinstance(value, str):
        raise ValueError(f"[{name}] {key} must be text, got {value!r}.")
    return value


def _number(name: str, key: str, value: object, least: float = float("-inf")) -> float:
    """Return a number that is no smaller than ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        bound = "" if math.isinf(least) else f" of at least {least:g}"
        raise ValueError(f"[{name}] {key} must be a number{bound}, got {value!r}.")
    return float(value)
