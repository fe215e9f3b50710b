"""Direct gradients take memory for every solver step, the adjoint none, for which it takes longer.

Table 1 of the paper prints O(L), O(L~) and O(1) and measures nothing. Here memory and time of one
forward and backward pass are measured against depth (residual blocks) and against solver steps
(Euler over t in [0, 1], so that a step is one evaluation of the field), for gradients `direct`,
`checkpoint` and `adjoint`; a child process for every point, batch 32, 64 channels of 7 x 7.

- `memory_…`: peak of the live tensors less the level before, in MiB; on a GPU, of what is
  allocated. `resident_…` is by how much the first pass made the process grow, gradients of the
  parameters included: a rough cross-check.
- `units_…`: time over that of one block, or of one evaluation with its vector-Jacobian product,
  in the same rounds, mean and 95 % interval: times themselves (`seconds_…`) mean this machine
  alone.
- exponents: p of a + b xᵖ fitted to memory and to time against depth or steps, with 95 %
  intervals. `memory_per_step` and `memory_r_squared` belong to a straight line through the memory.
- `equal_depth`: time of the ODE-Net of Table 1 (dopri5 at 1e-3, untrained) over that of as many
  residual blocks as it evaluates its field (the deck's claim D01).

Deviations: none, the paper measured neither. Stem and head are left out: they are the same for
all rows and would only add a constant. Inputs are noise and weights as drawn.
"""

import math
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROTOCOL = 2
TRAINS = False
GRADIENTS = ("direct", "checkpoint", "adjoint")
ROWS = ("resnet", *GRADIENTS, "equal_depth")
SIZED = ROWS[:-1]
PUBLISHED = {"resnet": "resnet", "direct": "rknet", "adjoint": "odenet"}  # rows of Table 1
UNITS = {
    "memory": "MiB",
    "resident": "MiB",
    "units": "",
    "units_low": "",
    "units_high": "",
    "seconds": "s",
    "nfe_forward": "evaluations",
    "nfe_backward": "evaluations",
}

_FULL = {"depths": [1, 2, 4, 8, 16, 32, 64], "steps": [8, 16, 32, 64, 128, 256, 512]}
PROFILES = {
    "smoke": Profile(
        {"depths": [1, 2, 4], "steps": [2, 4, 8], "batch": 2, "rounds": 2}, seeds=1, minutes=0.7
    ),
    "quick": Profile({**_FULL, "batch": 32, "rounds": 5}, seeds=1, minutes=5),
    "short": Profile({**_FULL, "batch": 32, "rounds": 15}, seeds=1, minutes=10),
    "paper": Profile({**_FULL, "batch": 128, "rounds": 15}, seeds=1, minutes=None),
}


def run(ctx: Context) -> list[Record]:
    """Measure all points, each in a process of its own; rows of a body are written at once."""
    from reproduce import children
    from reproduce.progress import Display

    given = PROFILES[ctx.profile].overrides
    settings = {**given, "device": ctx.device}
    common = {key: settings[key] for key in ("batch", "rounds", "device")}
    budget = f"batch {given['batch']}, {given['rounds']} rounds"
    records: list[Record] = []
    with Display(sum(len(sizes(row, given)) for row in ROWS)) as display:
        for row in ROWS:
            found: dict[int, dict[str, float]] = {}
            for size in sizes(row, given):
                line = display.start(f"{row} {size}")
                found[size] = children.measured(body=row, size=size, **common)
                line.end("ok", "", False)
            values = _fits(found) if row in SIZED else found[1]
            records += ctx.keep(
                "costs", PROTOCOL, {row: values}, settings, budget=budget, unit=_unit
            )
    return records


def sizes(row: str, given: dict[str, Any]) -> list[int]:
    """Return the depths of the ResNet, or the steps of the others; one size for equal depth."""
    if row not in SIZED:
        return [1]
    return list(given["depths"] if row == "resnet" else given["steps"])


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per body: fitted exponents beside what Table 1 prints, without the points."""
    import pandas as pd

    from reproduce import paper

    values = {(r.row, r.metric): r.value for r in records}
    printed = {(n.row, n.metric): n.value for n in paper.numbers("table1")}
    lines = {}
    for row in SIZED:
        line: dict[str, Any] = {}
        for what in ("memory", "time"):
            ends = ("", "_low", "_high")
            value, low, high = (values[row, f"{what}_exponent{end}"] for end in ends)
            line[f"{what} exponent"] = f"{value:.2f} ({low:.2f} to {high:.2f})"
            line[f"{what}, paper"] = printed.get((PUBLISHED.get(row, ""), what), "")
        line["MiB a step"] = values[row, "memory_per_step"]
        line["largest over smallest memory"] = values[row, "memory_max_over_min"]
        lines[row] = line
    return pd.DataFrame.from_dict(lines, orient="index")


def plot(records: list[Record]) -> "Figure":
    """Memory and time against depth or steps, both axes logarithmic."""
    from reproduce import plotting

    with plotting.style():
        figure, (left, right) = plotting.subplots(1, 2, size=(6.5, 5.0))
        for row in SIZED:
            _draw(left, records, row, "memory", "memory_exponent")
            _draw(right, records, row, "units", "time_exponent")
        for axes, what in ((left, "memory (MiB)"), (right, "time (blocks or evaluations)")):
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel("residual blocks, or solver steps")
            axes.set_ylabel(what)
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), title="exponent")
        figure.suptitle(f"One forward and backward pass, {records[0].budget}")
    return figure


def _draw(axes: "Axes", records: list[Record], row: str, metric: str, exponent: str) -> None:
    from reproduce import plotting

    points = {
        int(r.metric.rsplit("_", 1)[1]): r.value
        for r in records
        if r.row == row and r.metric.rpartition("_")[0] == metric and r.metric[-1].isdigit()
    }
    of_row = {r.metric: r.value for r in records if r.row == row}
    slope, low, high = (of_row[exponent + end] for end in ("", "_low", "_high"))
    style = plotting.method_style(row)
    style["label"] += f": {slope:.2f} ({low:.2f} to {high:.2f})"
    xs = sorted(points)
    ends = [[of_row.get(f"{metric}_{end}_{x}", points[x]) for x in xs] for end in ("low", "high")]
    # Of two rounds, the interval may reach below zero, which a logarithm has not.
    bars = [
        [min(abs(e - points[x]), 0.9 * points[x]) for e, x in zip(side, xs, strict=True)]
        for side in ends
    ]
    axes.errorbar(xs, [points[x] for x in xs], bars, capsize=3, **style)


def _fits(by_size: dict[int, dict[str, float]]) -> dict[str, float]:
    """Return the points by name and what is fitted to them."""
    from reproduce import statistics

    xs = sorted(by_size)
    memory, units = ([by_size[x][name] for x in xs] for name in ("memory", "units"))
    values = {f"{name}_{x}": by_size[x][name] for x in xs for name in UNITS}
    of_memory, of_time = statistics.growth(xs, memory), statistics.growth(xs, units)
    slope, _, r_squared = statistics.line(xs, memory)
    fits = {
        "memory_exponent": of_memory.value,
        "memory_exponent_low": of_memory.low,
        "memory_exponent_high": of_memory.high,
        "memory_max_over_min": max(memory) / min(memory),
        "memory_per_step": slope,
        "memory_r_squared": r_squared,
        "state": by_size[xs[0]]["state"],
        "time_exponent": of_time.value,
        "time_exponent_low": of_time.low,
        "time_exponent_high": of_time.high,
    }
    # A straight line explains nothing of a memory that never changes.
    return values | {name: value for name, value in fits.items() if not math.isnan(value)}


def _unit(metric: str) -> str:
    name, _, size = metric.rpartition("_")
    if metric in ("memory_per_step", "state"):
        return "MiB"
    return UNITS.get(name, "") if size.isdigit() else ""
