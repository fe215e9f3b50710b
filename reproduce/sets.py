"""Two sets of results side by side: what is the same, what differs, and what cannot be told.

A quantity is a metric of a row of an experiment, under a profile and with the same settings
changed. Two means are compared by Welch's interval of 95 % and his test, whose p-values account
for how many quantities were tested (Holm). They are the same where the interval lies within the
margin that ``paper.toml`` fixes, and differ where the test says so. As everywhere in this suite no
verdict rests on fewer than five seeds, unless the number is exact, and none on a row of which a
run failed. Seconds and memory are shown as ratios and never judged.
"""

from __future__ import annotations

import math
import statistics as spread
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from reproduce import margins, statistics
from reproduce.claims import Quantity
from reproduce.records import SEEDS_FOR_A_VERDICT, Record
from reproduce.result_sets import ResultSet, flat

SetVerdict = Literal[
    "differs", "same", "cannot tell", "not compared", "only in A", "only in B", "cost"
]
LEVEL = 1 - statistics.CONFIDENCE
_ROUNDING = 1e-9  # relative, of exact numbers that are no integers
_SOLVER = "model.solver."
# What says where a training ran and which of several it is, not what it computes.
_ELSEWHERE = ("seed_everything", "seed", "data_seed", "member_seeds", "root", "default_root_dir")
_DEVICE = ("trainer.accelerator", "trainer.strategy")
_PROCESSES = ("trainer.devices", "trainer.num_nodes")


@dataclass(frozen=True)
class Side:
    """What one set has of a quantity.

    Args:
        values: One value for each seed that ended, by seed.
        failed: Number of seeds that did not.
        skipped: Why it could not be tried there; empty where it was.
        unit: Unit of the values.
        overrides: Settings that were changed.
        protocol: Protocol version.
        budgets: What was trained or measured, in words.
        settings: Settings of the trainings by dotted name, values as text; None where the
            provenance does not tell them.
    """

    values: dict[int, float]
    failed: int
    skipped: str
    unit: str
    overrides: str
    protocol: int
    budgets: frozenset[str]
    settings: dict[str, frozenset[str]] | None

    @property
    def n(self) -> int:
        """The number of values."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean; NaN without any."""
        return spread.fmean(self.values.values()) if self.values else math.nan

    @property
    def sd(self) -> float:
        """Their sample standard deviation; NaN below two."""
        return spread.stdev(self.values.values()) if self.n > 1 else math.nan


@dataclass(frozen=True)
class SetLine:
    """One quantity of two sets; NaN and None where there is nothing.

    Args:
        quantity: The quantity.
        profile: Its profile.
        a: What the first set has; None if nothing.
        b: What the second set has.
        verdict: The verdict.
        low: Lower end of Welch's 95 % interval of the difference B - A.
        high: Its upper end.
        p: Of Welch's test.
        p_holm: The same, accounting for the number of tests.
        margin: How far two means may lie apart and count as the same.
        seeds_needed: Seeds in all, of each set, that would decide what is open.
        detail: What the verdict rests on.
    """

    quantity: Quantity
    profile: str
    a: Side | None
    b: Side | None
    verdict: SetVerdict
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    margin: float | None = None
    seeds_needed: int | None = None
    detail: str = ""

    @property
    def difference(self) -> float:
        """B - A; NaN where one is missing or they were not compared."""
        if self.a is None or self.b is None or self.verdict == "not compared":
            return math.nan
        return self.b.mean - self.a.mean

    @property
    def ratio(self) -> float:
        """B / A of a cost."""
        if self.verdict != "cost" or self.a is None or self.b is None or not self.a.mean:
            return math.nan
        return self.b.mean / self.a.mean


_Key = tuple[str, str, str, str]  # experiment, row, metric, profile


def compare(a: ResultSet, b: ResultSet) -> list[SetLine]:
    """Compare two sets quantity by quantity, in the order of experiments, rows and metrics."""
    ours, theirs = _sides(a), _sides(b)
    lines = [
        _line(key, *pair)
        for key in sorted({**ours, **theirs})
        for pair in _pairs(ours.get(key, {}), theirs.get(key, {}))
    ]
    profiles = {name: _profiles(sides) for name, sides in (("A", ours), ("B", theirs))}
    lines = [replace(line, detail=line.detail or _elsewhere(line, profiles)) for line in lines]
    tested = [index for index, line in enumerate(lines) if not math.isnan(line.p)]
    adjusted = statistics.holm([lines[index].p for index in tested])
    for index, p in zip(tested, adjusted, strict=True):
        lines[index] = _judged(replace(lines[index], p_holm=p))
    return lines


def _profiles(sides: Iterable[_Key]) -> dict[Quantity, list[str]]:
    found: dict[Quantity, list[str]] = {}
    for experiment, row, metric, profile in sorted(sides):
        found.setdefault(Quantity(experiment, row, metric), []).append(profile)
    return found


def _elsewhere(line: SetLine, profiles: Mapping[str, Mapping[Quantity, list[str]]]) -> str:
    """Say of what one set has alone where the other has it under another profile."""
    other = {"only in A": "B", "only in B": "A"}.get(line.verdict, "")
    found = [p for p in profiles.get(other, {}).get(line.quantity, []) if p != line.profile]
    return f"{other} has it under {' and '.join(found)}: another budget" if found else ""


def _sides(one: ResultSet) -> dict[_Key, dict[str, Side]]:
    """Return what a set has, by quantity and by changed settings."""
    newest: dict[str, int] = {}
    for r in one.records:
        newest[r.experiment] = max(r.protocol, newest.get(r.experiment, 0))
    groups: dict[tuple[str, str, str, str], list[Record]] = {}
    for r in one.records:
        if r.protocol == newest[r.experiment]:
            groups.setdefault((r.experiment, r.row, r.profile, r.overrides), []).append(r)
    found: dict[_Key, dict[str, Side]] = {}
    for (experiment, row, profile, overrides), rows in groups.items():
        # A run that failed is a row of one metric, and lacks all.
        metrics = {r.metric for r in rows if r.status == "ok"} or {r.metric for r in rows}
        for metric in metrics:
            side = _side(rows, metric, one.made)
            found.setdefault((experiment, row, metric, profile), {})[overrides] = side
    return found


def _side(rows: list[Record], metric: str, made: Mapping[str, Mapping[str, Any]]) -> Side:
    ended = [r for r in rows if r.metric == metric and r.status == "ok"]
    values = {r.seed: float(r.value) for r in ended}
    lacking = [r for r in rows if r.status != "ok" and r.seed not in values]
    skipped = [r.hint for r in lacking if r.status == "skipped"]
    told = ended or rows
    return Side(
        values=values,
        failed=len({r.seed for r in lacking if r.status != "skipped"}),
        skipped="" if values else next(iter(skipped), ""),
        unit=next((r.unit for r in ended), ""),
        overrides=rows[0].overrides,
        protocol=rows[0].protocol,
        budgets=frozenset(r.budget for r in told),
        settings=_settings([made.get(run, {}) for run in dict.fromkeys(r.run for r in told)]),
    )


def _settings(entries: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]] | None:
    """Return what the trainings of these entries were told; None if one is no training."""
    found: dict[str, set[str]] = {}
    for entry in entries:
        settings = entry.get("settings")
        if not isinstance(settings, dict) or "model" not in settings:
            return None
        for name, value in flat(settings):
            if value is None or name.split(".")[-1] in _ELSEWHERE or name in _DEVICE:
                continue  # a setting that came later is null where nothing was asked
            short = name.replace(".init_args.", ".")
            # An ensemble lists what each of its members is, one a seed.
            several = value if isinstance(value, list) else [value]
            found.setdefault(short, set()).update(map(str, several))
    return {name: frozenset(values) for name, values in found.items()}


def _pairs(
    ours: dict[str, Side], theirs: dict[str, Side]
) -> list[tuple[Side | None, Side | None]]:
    """Pair what has the same changed settings, and what is left where each set has one left."""
    both = [(ours[text], theirs[text]) for text in sorted(ours) if text in theirs]
    left = [side for text, side in sorted(ours.items()) if text not in theirs]
    right = [side for text, side in sorted(theirs.items()) if text not in ours]
    if len(left) == len(right) == 1:
        return [*both, (left[0], right[0])]
    return [*both, *((side, None) for side in left), *((None, side) for side in right)]


def _line(key: _Key, a: Side | None, b: Side | None) -> SetLine:
    experiment, row, metric, profile = key
    quantity = Quantity(experiment, row, metric)
    line = SetLine(quantity, profile, a, b, "cannot tell")
    if a is None or b is None:
        return replace(line, verdict="only in B" if a is None else "only in A")
    reason = _incomparable(a, b)
    if reason:
        return replace(line, verdict="not compared", detail=reason)
    if margins.is_cost(metric, a.unit or b.unit):
        return replace(line, verdict="cost")
    line = replace(line, margin=margins.margin(quantity))
    if a.failed or b.failed:
        parts = [
            f"{side.failed} of {side.failed + side.n} runs of {name} failed"
            for name, side in (("A", a), ("B", b))
            if side.failed
        ]
        return replace(line, detail=" and ".join(parts))
    if a.values == b.values:
        return replace(line, verdict="same", detail="every value is equal")
    if margins.is_exact(quantity, a.unit or b.unit):
        return _exactly(line, a, b)
    return _tested(line, a, b)


def _incomparable(a: Side, b: Side) -> str:
    """Return why two sides are of different things; empty where they are of the same."""
    for name, side in (("A", a), ("B", b)):
        if side.skipped:
            return f"{name} skipped it: {side.skipped}"
    if a.protocol != b.protocol:
        return f"protocol {a.protocol} against {b.protocol}"
    if a.unit and b.unit and a.unit != b.unit:
        return f"unit {a.unit!r} against {b.unit!r}"
    changed = _changed(a, b)
    others = [n for n in changed if n not in _PROCESSES and not n.startswith(_SOLVER)]
    if others:
        return "; ".join(f"{name} {changed[name]}" for name in others)
    # Words say what settings do not tell, as how processes share the steps of an ODE-Net.
    told = a.settings is not None and b.settings is not None and not {*_PROCESSES} & {*changed}
    if a.budgets != b.budgets and not told:
        return f"budget {_either(a.budgets)} against {_either(b.budgets)}"
    return ""


def _changed(a: Side, b: Side) -> dict[str, str]:
    """Return the settings that differ, by name, as the two sides have them."""
    if a.settings is not None and b.settings is not None:
        names = dict.fromkeys([*a.settings, *b.settings])
        each = {name: (a.settings.get(name), b.settings.get(name)) for name in names}
        return {
            name: f"{_either(one)} against {_either(other)}"
            for name, (one, other) in each.items()
            if one != other
        }
    if a.overrides == b.overrides:
        return {}
    return {"--set": f"{a.overrides or 'nothing'!r} against {b.overrides or 'nothing'!r}"}


def _either(values: Iterable[str] | None) -> str:
    return "unset" if values is None else " or ".join(sorted(values))


def _exactly(line: SetLine, a: Side, b: Side) -> SetLine:
    found = sorted({*a.values.values(), *b.values.values()})
    apart = found[-1] - found[0]
    if apart == 0:
        return replace(line, verdict="same", detail="exact, every value is equal")
    if line.margin is not None and apart <= line.margin:
        return replace(line, verdict="same", detail=f"exact, within {line.margin:g}")
    if apart <= _ROUNDING * max(map(abs, found)) and not all(v.is_integer() for v in found):
        return replace(line, verdict="same", detail="exact, but for rounding")
    return replace(line, verdict="differs", detail="an exact number")


def _tested(line: SetLine, a: Side, b: Side) -> SetLine:
    """Add interval and test, or say how many seeds are missing."""
    first, second = list(b.values.values()), list(a.values.values())
    interval = statistics.welch_interval(first, second)
    line = replace(line, low=interval.low, high=interval.high)
    fewest = min(a.n, b.n)
    if fewest < SEEDS_FOR_A_VERDICT:
        needed = SEEDS_FOR_A_VERDICT
        if fewest > 1:
            needed = max(needed, _needed(line, a, b) or needed)
        detail = f"{fewest} of {SEEDS_FOR_A_VERDICT} seeds"
        return replace(line, seeds_needed=needed, detail=detail)
    return replace(line, p=statistics.welch_p(first, second))


def _judged(line: SetLine) -> SetLine:
    """Give the verdict of a line that was tested."""
    assert line.a is not None
    assert line.b is not None
    within = line.margin is not None and max(-line.low, line.high) <= line.margin
    if within:
        return replace(line, verdict="same", detail=f"the interval lies within ±{line.margin:g}")
    if line.p_holm < LEVEL:
        return replace(line, verdict="differs", detail="")
    needed = _needed(line, line.a, line.b)
    detail = "no margin is fixed for it" if line.margin is None else "the interval is too wide"
    if needed is None:
        detail += f"; more than {statistics.MOST_SEEDS:,} seeds would be needed"
    return replace(line, seeds_needed=needed, detail=detail)


def _needed(line: SetLine, a: Side, b: Side) -> int | None:
    """Return how many seeds would decide if means and spreads stayed as they are.

    Two things decide: an interval within the margin, or one without 0.
    """
    apart = abs(b.mean - a.mean)
    distance = apart if line.margin is None else max(apart, line.margin - apart)
    if not distance:
        return None
    return statistics.seeds_to_bound_difference(a.sd, b.sd, distance)
