"""Back-propagation through a million steps needs more memory than a laptop has (the deck).

The deck: "for example we want to integrate dynamical systems through 1M timesteps". Memory, time
and gradient of one forward and backward pass by Euler's method in 10 to 1,000,000 steps over
t in [0, 1] are measured for each gradient: a perceptron with 16 hidden units, a batch of 128 with
16 numbers each (a state has 16 KiB in float64), one thread, every point above 1,000 steps in a
process of its own.

What is allowed is fixed before: half of the machine's memory, and no more than 16 GiB. A pass that
would take more, by what a step took in the largest one before, is not begun, and its row says what
it would need; should one take more than that all the same, its process is stopped by the system.

Rows `direct`, `checkpoint` and `adjoint`:

- `memory_<n>`: MiB by which the process grew at its peak.
- `microseconds_<n>`: processor time of a step; it means this machine alone.
- `error_<n>`: relative error of the gradient against the limit of infinitely many steps.
- `largest_steps`: the largest number of steps that were done. A row that was stopped by nothing
  but the profile has none.
- `memory_per_step` (KiB) and `needs_1000000` (GiB), by the largest pass; `time_exponent` of the
  time of a step from 1,000 on: 0 is flat.

`checkpoint` stores every state: it is linear too, with a third of the constant. Row `direct_small`
is `direct` with a state of two numbers: no tensors to speak of, yet the graph's own nodes take
kilobytes a step, and whether a million of them fit depends on the machine. `machine` has the
`limit` and the `memory` in GiB.

Deviations: none, the deck has no numbers. `quick` goes to 10,000 steps, all of a row in one
process, and says what a million would need; `short` goes to the million, where the adjoint alone
takes minutes.
"""

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROTOCOL = 1
TRAINS = False
ROWS = ("direct", "checkpoint", "adjoint")
SIZES = (10, 100, 1000, 10_000, 100_000, 1_000_000)
MILLION = SIZES[-1]
TOGETHER = 1000  # up to so many steps, points share a process
SMALL: dict[str, Any] = {"batch": 1, "states": 2, "hidden": 16}
SHARE, MOST_GIB = 0.5, 16.0
CONTAINER = Path("/sys/fs/cgroup/memory.max")  # bytes, or "max"
PROFILES = {
    "smoke": Profile({"most": 1000}, seeds=1, minutes=0.4),
    "quick": Profile({"most": 10_000}, seeds=1, minutes=0.7),
    "short": Profile({"most": MILLION}, seeds=1, minutes=10),
    "paper": Profile({"most": MILLION}, seeds=1, minutes=10),
}


def run(ctx: Context) -> list[Record]:
    """Measure row after row, each with more and more steps; rows are written at once."""
    from reproduce.progress import Display

    most = PROFILES[ctx.profile].overrides["most"]
    memory = _memory()
    limit = min(SHARE * memory, MOST_GIB)
    settings = {"most": most, "limit": round(limit, 2), "device": "cpu"}
    groups = _groups(most)
    records: list[Record] = []
    with Display(len(ROWS) * len(groups) + 1) as display:
        for row in (*ROWS, "direct_small"):
            found: dict[str, float] = {}
            skipped: dict[str, str] = {}
            stopped = ""  # why, once it is
            for sizes in groups if row in ROWS else [_small(most)]:
                line = display.start(f"{row}, {sizes[-1]:,} steps")
                reason = stopped or _too_much(found, sizes[-1], limit)
                if not reason and sizes[-1] <= most:
                    reason = _measure(row, sizes, limit, found)
                stopped = reason
                if sizes[-1] > most and not reason:
                    reason = "left to the profiles short and paper"
                if reason:
                    skipped[f"{row}_{sizes[-1]}"] = reason
                line.end("skipped" if reason else "ok", reason, False)
            values = {row: _values(found, stopped=bool(stopped))}
            if row == ROWS[0]:
                values["machine"] = {"limit": limit, "memory": memory}
            records += ctx.keep(
                "million_steps",
                PROTOCOL,
                values,
                settings,
                budget=f"Euler, up to {most:,} steps, {limit:.1f} GiB",
                unit=_unit,
                skipped=skipped,
            )
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per gradient: the largest pass, and what a million steps need."""
    import pandas as pd

    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.status == "ok" and r.row != "machine"])
    wide = frame.pivot_table(index="row", columns="metric", values="value")
    names = {"memory_per_step": "KiB a step", "needs_1000000": "GiB for a million steps"}
    lines = {name: wide[metric] for metric, name in names.items() if metric in wide}
    for metric in ("largest_steps", "time_exponent"):
        if metric in wide:
            lines[metric.replace("_", " ")] = wide[metric]
    return pd.DataFrame(lines).reindex([r for r in (*ROWS, "direct_small") if r in wide.index])


def plot(records: list[Record]) -> "Figure":
    """Memory and time of a pass against steps, with what is allowed and where direct stops."""
    from reproduce import plotting

    values = {(r.row, r.metric): r.value for r in records}
    with plotting.style():
        figure, (left, right) = plotting.slide(1, 2)
        for row in [row for row in ROWS if (row, "needs_1000000") in values]:
            _draw(left, values, row, "memory", 1.0)
            _draw(right, values, row, "microseconds", 1e-6)
        _limit(left, values)
        for axes, what in ((left, "memory (MiB)"), (right, "processor time (s)")):
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(SIZES)
            axes.set_xlabel("steps")
            axes.set_ylabel(what)
        left.set_xlim(7, 5e7)  # what would be needed is written beside
        right.set_xlim(7, 2.5e6)
        right.legend(loc="upper left")
        figure.suptitle("Gradient through Euler steps of a small network, state of 16 KiB")
    return figure


def _groups(most: int) -> list[list[int]]:
    """Return the numbers of steps by the process that measures them; a million is always asked."""
    shared = most if most <= 10_000 else TOGETHER  # a process takes longer to start than those
    together = [n for n in SIZES if n <= shared]
    return [together, *([n] for n in SIZES if n > shared and (n <= most or n == MILLION))]


def _small(most: int) -> list[int]:
    """Return the numbers of steps of `direct_small`."""
    return [most // 10, most] if most <= 10_000 else [1000, 10_000]


def _measure(row: str, sizes: list[int], limit: float, found: dict[str, float]) -> str:
    """Add what a process measures; return why it could not, if so."""
    from reproduce import children

    more = SMALL if row == "direct_small" else {}
    try:
        found |= children.measured(
            "reproduce.long_solve",
            gradient=row.partition("_")[0],
            steps=sizes,
            limit=1024 * limit,
            **more,
        )
    except RuntimeError as error:
        if "MemoryError" in str(error):
            return f"stopped where it had taken the {limit:.1f} GiB that it may take"
        if f"exit status -{int(signal.SIGKILL)}" in str(error):
            return "killed by the system, which was out of memory"
        raise
    return ""


def _too_much(found: dict[str, float], steps: int, limit: float) -> str:
    """Return why a pass is not begun: what it would need, by those before; else nothing."""
    if not found:
        return ""
    needed = _per_step(found) * steps / 1024**2
    if needed <= limit:
        return ""
    return f"would need {needed:.1f} GiB, more than the {limit:.1f} GiB that it may take"


def _sizes(found: dict[str, float]) -> list[int]:
    return [n for n in SIZES if f"memory_{n}" in found]


def _per_step(found: dict[str, float]) -> float:
    """Return the KiB that one step more takes, from the smallest to the largest pass."""
    sizes = _sizes(found)
    grown = found[f"memory_{sizes[-1]}"] - found[f"memory_{sizes[0]}"]
    return 1024 * max(grown, 0.0) / (sizes[-1] - sizes[0])


def _values(found: dict[str, float], *, stopped: bool) -> dict[str, float]:
    """Return the metrics of a row."""
    from reproduce import statistics

    sizes = _sizes(found)
    values: dict[str, float] = {}
    for n in sizes:
        values[f"memory_{n}"] = found[f"memory_{n}"]
        values[f"microseconds_{n}"] = 1e6 * found[f"seconds_{n}"] / n
        values[f"error_{n}"] = found[f"error_{n}"]
    values["memory_per_step"] = _per_step(found)
    values["needs_1000000"] = _per_step(found) * MILLION / 1024**2
    long = [n for n in sizes if n >= 1000]
    if len(long) > 2:
        times = [values[f"microseconds_{n}"] for n in long]
        values["time_exponent"] = statistics.exponent(long, times).value
    if stopped or sizes[-1] == MILLION:
        values["largest_steps"] = sizes[-1]
    return values


def _unit(metric: str) -> str:
    name, _, size = metric.rpartition("_")
    units = {"memory_per_step": "KiB", "needs_1000000": "GiB", "limit": "GiB", "memory": "GiB",
             "largest_steps": "steps"}  # fmt: skip
    if metric in units:
        return units[metric]
    return {"memory": "MiB", "microseconds": "µs"}.get(name, "") if size.isdigit() else ""


def _memory() -> float:
    """Return the machine's memory in GiB, or that of the container this runs in."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    container = CONTAINER.read_text().strip() if CONTAINER.exists() else "max"
    return (whole if container == "max" else min(whole, int(container))) / 1024**3


def _draw(
    axes: "Axes", values: dict[tuple[str, str], float], row: str, metric: str, scale: float
) -> None:
    """Show a row; where it was stopped, on to what a million steps would need."""
    from reproduce import plotting

    lines = {"direct": "-", "checkpoint": "--", "adjoint": ":"}
    sizes = [n for n in SIZES if (row, f"{metric}_{n}") in values]
    of_pass = [values[row, f"{metric}_{n}"] * scale for n in sizes]
    if metric == "microseconds":
        of_pass = [value * n for value, n in zip(of_pass, sizes, strict=True)]
    look = plotting.method_style(row)
    axes.plot(sizes, of_pass, lines[row], **look)
    needed = 1024 * values[row, "needs_1000000"]
    if metric == "memory" and needed > 1024 * values["machine", "limit"]:
        axes.plot(
            [sizes[-1], MILLION],
            [of_pass[-1], needed],
            color=look["color"],
            linestyle=lines[row],
            linewidth=1,
            marker=look["marker"],
            markevery=[1],
            markerfacecolor="none",
        )
        text = f"would need\n{needed / 1024:.0f} GiB"
        axes.annotate(text, (MILLION, needed), (10, 0), textcoords="offset points", va="center")


def _limit(axes: "Axes", values: dict[tuple[str, str], float]) -> None:
    limit = values["machine", "limit"]
    axes.axhline(1024 * limit, color="#555555", linestyle="-.", linewidth=1.5)
    axes.annotate(
        f"{limit:.1f} GiB may be taken",
        (10, 1024 * limit),
        (0, 6),
        textcoords="offset points",
    )
