"""The rows of a benchmark: what was measured of each alternative, and ours over theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from reproduce import contest, work_precision
from reproduce.contest import FEWEST, Outcome, Plan
from reproduce.statistics import Interval, mean_interval
from reproduce.timing import Timing

Rows = dict[str, dict[str, float]]

MARK = 1e-5  # the tolerance of ours at whose error libraries are compared
# Problems of which a mark is judged, and against which library.
MARKED = {"cnf": "diffrax", "latent": "diffrax", "spiral": "diffrax"}
# What of an alternative is compared at equal error of what.
ERRORS = {"forward": "error", "step": "gradient_error"}
# What is kept of every tolerance; the rest is of MARK alone.
EVERYWHERE = ("steps", "error", "gradient_error", "forward_ms", "step_ms")


def values(label: str, ours: str, plan: Plan, outcome: Outcome) -> Rows:
    """Return all rows of a problem.

    Args:
        label: How they begin.
        ours: What stands for ours.
        plan: What was to be measured.
        outcome: What was.
    """
    rows = {f"{label}_{name}": _of_alternative(name, plan, outcome) for name in outcome.told}
    if plan.errors and ours in outcome.told:
        versus: dict[str, dict[str, float]] = {}
        for name in outcome.told:
            if name == ours:
                continue
            compared = _compared(ours, name, plan, outcome)
            rows[f"{label}_{name}"] |= compared
            library = name.split("_")[0]
            if library != "ours":
                best = versus.setdefault(f"{label}_vs_{library}", {})
                _keep_best(best, compared)
                # Each with the alternative that is best there, as the library's user would choose.
                elsewhere = _elsewhere(ours, name, plan, outcome)
                for tolerance in plan.tolerances:
                    _keep_best(best, elsewhere, f"_{key(tolerance)}")
        rows |= versus
    return rows


def _of_alternative(name: str, plan: Plan, outcome: Outcome) -> dict[str, float]:
    told = outcome.told[name]
    field = Timing(tuple(outcome.seconds[name, "field", plan.tolerances[0]])).median
    found = {
        "rounds": float(len(outcome.seconds[name, "step", plan.tolerances[-1]])),
        "first_forward_s": told["first_forward_s"],
        "first_step_s": told["first_step_s"],
        "field_ms": 1e3 * field,
    }
    if told["memory_mib"] is not None:
        found["memory_mib"] = told["memory_mib"]
    for tolerance, counts in zip(plan.tolerances, told["tolerances"], strict=True):
        end, shown = key(tolerance), {**counts}
        for work in ("forward", "step"):
            timing = Timing(tuple(outcome.seconds[name, work, tolerance]))
            shown[f"{work}_ms"] = 1e3 * timing.median
            shown[f"{work}_spread"] = 1e3 * timing.spread
        if not told["fused"]:
            loop = shown["forward_ms"] - counts["nfe_forward"] * found["field_ms"]
            shown["loop_ms"] = loop / counts["steps"]
        kept = [metric for metric in shown if tolerance == MARK or metric in EVERYWHERE]
        found |= {f"{metric}_{end}": shown[metric] for metric in kept}
    return found


def _compared(own: str, name: str, plan: Plan, outcome: Outcome) -> dict[str, float]:
    """Return the ratios of ours to an alternative at equal error."""
    found: dict[str, float] = {}
    for work in ERRORS:
        ratio, error = _ratio(work, own, name, plan, outcome, outcome)
        found |= {
            f"{work}_ratio": ratio.value,
            f"{work}_ratio_low": ratio.low,
            f"{work}_ratio_high": ratio.high,
            f"{work}_ratio_error": error,
        }
    return found


def _elsewhere(own: str, name: str, plan: Plan, outcome: Outcome) -> dict[str, float]:
    """Return the ratios at the errors of ours at other tolerances, and at which they are taken."""
    found: dict[str, float] = {}
    for work in ERRORS:
        for tolerance in plan.tolerances:
            if tolerance != MARK:
                ratio, error = _ratio(work, own, name, plan, outcome, outcome, tolerance)
                found[f"{work}_ratio_{key(tolerance)}"] = ratio.value
                found[f"{work}_ratio_error_{key(tolerance)}"] = error
    return found


def _ratio(
    work: str,
    own: str,
    name: str,
    plan: Plan,
    told: Outcome,
    timed: Outcome,
    tolerance: float = MARK,
) -> tuple[Interval, float]:
    """Return the ratio of ours to an alternative, and the error at which it is taken.

    Args:
        work: ``forward`` or ``step``.
        own: Ours.
        name: The alternative.
        plan: The tolerances.
        told: Has the errors.
        timed: Has the times.
        tolerance: Of ours, at whose error, or at the least that both reach.
    """
    ours, theirs = (
        work_precision.Curve(
            [at[ERRORS[work]] for at in told.told[one]["tolerances"]],
            [timed.seconds[one, work, tolerance] for tolerance in plan.tolerances],
        )
        for one in (own, name)
    )
    wanted = ours.errors[list(plan.tolerances).index(tolerance)]
    error = work_precision.common_error(ours, theirs, wanted)
    return work_precision.ratio(ours, theirs, error), error


def of_sessions(
    label: str,
    ours: str,
    plan: Plan,
    outcome: Outcome,
    rows: Mapping[str, Mapping[str, float]],
    sessions: int,
) -> Rows:
    """Return the row of a marked problem's library, with its ratio from session to session.

    Each session has new processes of ours and of the library's best way. The interval is that of
    the mean over sessions, of the logarithms of their medians.

    Args:
        label: How the rows of the problem begin; others than those of `MARKED` have no such row.
        ours: What stands for ours.
        plan: What was measured.
        outcome: What came of it; it has the errors, which are the same in every session.
        rows: The rows that were made of it.
        sessions: Their number.
    """
    library = MARKED.get(label, "")
    row = f"{label}_vs_{library}"
    if not sessions or row not in rows or ours not in outcome.told:
        return {}
    ways = [name for name in outcome.told if name.startswith(f"{library}_")]
    best = max(ways, key=lambda name: rows[f"{label}_{name}"]["step_ratio"])
    logarithms = []
    for _ in range(sessions):
        again = contest.hold(replace(plan, alternatives=(ours, best), errors=False, rounds=FEWEST))
        if not {ours, best} <= again.told.keys():
            return {}  # fewer than was said before are no mark's
        ratio, _ = _ratio("step", ours, best, plan, outcome, again)
        logarithms.append(math.log(ratio.value))
    found = mean_interval(logarithms)
    told = {
        "sessions": float(len(logarithms)),
        "step_ratio_sessions": math.exp(found.value),
        "step_ratio_sessions_low": math.exp(found.low),
        "step_ratio_sessions_high": math.exp(found.high),
    }
    return {row: {**rows[row], **told}}


def _keep_best(best: dict[str, float], compared: Mapping[str, float], end: str = "") -> None:
    """Keep, of each work, the ratio to the alternative that is fastest; ``end`` ends its name."""
    for work in ERRORS:
        ratio = f"{work}_ratio"
        if compared.get(ratio + end, 0.0) > best.get(ratio + end, 0.0):
            told = {k: v for k, v in compared.items() if k.startswith(ratio) and k.endswith(end)}
            best |= told


def key(tolerance: float) -> str:
    """Return how the metrics of a tolerance end."""
    return f"{tolerance:.0e}".replace("e-0", "e-")
