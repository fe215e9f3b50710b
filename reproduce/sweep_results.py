"""What the rows of a sweep say: errors over seeds, and differences to the row that was changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from reproduce import statistics
from reproduce.records import Record
from reproduce.statistics import Interval

Values = Mapping[str, Sequence[float]]
NEAR = 1.5  # what is within this factor of a published error is named
SIGNIFICANT = 0.05


def values(records: Sequence[Record], metric: str) -> dict[str, list[float]]:
    """Return a metric of every row, one value a seed; failed trainings are left out."""
    found: dict[str, dict[int, float]] = {}
    for r in records:
        if r.metric == metric and r.status == "ok" and math.isfinite(r.value):
            found.setdefault(r.row, {})[r.seed] = r.value
    return {row: [seeds[seed] for seed in sorted(seeds)] for row, seeds in found.items()}


def reference(row: str) -> str:
    """Return the row of which ``<variant>-<network>`` changes one thing; of itself, if none.

    A variant changes the base of its network, another reading of the RNN the base's own.
    """
    variant, _, network = row.partition("-")
    read = variant == "base" and network.startswith("rnn")
    return "base-rnn" if read else f"base-{network}"


def differences(errors: Values) -> dict[str, Interval]:
    """Return by how much rows differ from their references, with Welch's 95 % interval.

    Only of rows that have two seeds or more, like their references.
    """
    return {
        row: statistics.welch_interval(errors[row], errors[reference(row)])
        for row in _compared(errors)
    }


def shown(errors: Values) -> list[str]:
    """Return the rows that differ from their references by Welch's test.

    Holm's procedure over all rows that are compared keeps chance differences at 5 % together.
    """
    rows = _compared(errors)
    if not rows:
        return []
    p = statistics.holm([statistics.welch_p(errors[r], errors[reference(r)]) for r in rows])
    return [row for row, one in zip(rows, p, strict=True) if one < SIGNIFICANT]


def spread(found: Sequence[float]) -> str:
    """Write an error over its seeds: one value, or mean ± standard deviation and number."""
    if len(found) == 1:
        return f"{found[0]:.3f}"
    return f"{fmean(found):.3f} ± {stdev(found):.3f}, n = {len(found)}"


def difference(interval: Interval) -> str:
    """Write a difference with its interval."""
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def findings(errors: Values, published: Mapping[str, float], budget: str) -> str:
    """Say in words which rows come near the published errors, and what seeds show of a cause.

    Args:
        errors: Errors of every row, one value a seed.
        published: The published error for rows that have one.
        budget: How long the rows are trained, in words.
    """
    parts = [f"With {budget}, {_near(errors, published)}."]
    below = [
        row for row in published if row in errors and fmean(errors[row]) < published[row] / NEAR
    ]
    latent = [row for row in below if row.endswith("-latent_ode")]
    if latent:
        parts.append(f"Lower than the paper's is the latent ODE's with {_listed(errors, latent)}.")
    return " ".join([*parts, *_causes(errors)])


def _compared(errors: Values) -> list[str]:
    return [
        row
        for row, found in errors.items()
        if reference(row) != row and min(len(found), len(errors.get(reference(row), ()))) > 1
    ]


def _near(errors: Values, published: Mapping[str, float]) -> str:
    """Say which rows come near, recurrent networks first."""
    said = []
    for latent, who in ((False, "recurrent networks"), (True, "latent ODEs")):
        near = [
            row
            for row, value in published.items()
            if row.endswith("-latent_ode") == latent
            and row in errors
            and 1 / NEAR <= fmean(errors[row]) / value <= NEAR
        ]
        said.append(f"of the {who} {_listed(errors, near, published) or 'none'}")
    return f"within a factor of {NEAR:g} of the paper's error come {', and '.join(said)}"


def _listed(
    errors: Values, rows: Sequence[str], published: Mapping[str, float] | None = None
) -> str:
    beside = {row: f"; paper {published[row]:.3f}" if published else "" for row in rows}
    return ", ".join(f"`{row}` ({spread(errors[row])}{beside[row]})" for row in rows)


def _causes(errors: Values) -> list[str]:
    """Say what is shown of a cause: by differences over seeds, and by one seed nothing."""
    compared = differences(errors)
    if not compared:
        alone = "That is one seed each, and the seeds of `table2` differ as much"
        return [f"{alone}: no cause is shown."]
    told = ", ".join(f"{difference(one)} in `{row}`" for row, one in compared.items())
    certain = ", ".join(f"`{row}`" for row in shown(errors)) or "none of them"
    bases = _listed(errors, list(dict.fromkeys(map(reference, compared))))
    single = any(len(found) == 1 for found in errors.values())
    return [
        f"Against {bases} the difference, with Welch's 95 % interval, is {told}.",
        f"By Holm's procedure over these {len(compared)} a cause is shown in {certain}.",
        *(["All other rows are one seed each and show none."] if single else []),
    ]
