"""Direct gradients take memory for every solver step, the adjoint none; all take equal time.

Table 1 of the paper prints O(L), O(L~) and O(1) and measures nothing. Here memory and time of one
forward and backward pass are measured against depth (residual blocks) and against solver steps
(Euler over t in [0, 1], so that a step is one evaluation of the field), for gradients `direct`,
`checkpoint` and `adjoint`; a child process for every point, batch 32, 64 channels of 7 x 7.

- `memory_…`: peak of the live tensors less the level before, in MiB; on a GPU, of what is
  allocated. `resident_…` is by how much the process grew, a rough cross-check.
- `units_…`: time over that of one block, or of one evaluation with its vector-Jacobian product,
  in the same rounds: times themselves (`seconds_…`) mean this machine alone.
- exponents: slopes of log memory and log time over log depth or steps, with 95 % intervals.
  `memory_per_step` and `memory_r_squared` belong to a straight line through the memory.
- `equal_depth`: time of the ODE-Net of Table 1 (dopri5 at 1e-3, untrained) over that of as many
  residual blocks as it evaluates its field (the deck's claim D01).

Deviations: none, the paper measured neither. Stem and head are left out: they are the same for
all rows and would only add a constant. Inputs are noise and weights as drawn.
"""

import hashlib
import math
from typing import TYPE_CHECKING, Any

from reproduce import provenance
from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROTOCOL = 1
TRAINS = False
GRADIENTS = ("direct", "checkpoint", "adjoint")
ROWS = ("resnet", *GRADIENTS, "equal_depth")
SIZED = ROWS[:-1]
UNITS = {
    "memory": "MiB",
    "resident": "MiB",
    "units": "",
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
    from reproduce.children import measured
    from reproduce.progress import Display

    given = PROFILES[ctx.profile].overrides
    settings = {**given, "device": ctx.device}
    common = {key: settings[key] for key in ("batch", "rounds", "device")}
    records: list[Record] = []
    points = [(row, size) for row in SIZED for size in sizes(row, given)] + [("equal_depth", 0)]
    found: dict[str, dict[int, dict[str, float]]] = {}
    with Display(len(points)) as display:
        for row, size in points:
            display.start(f"{row} {size or ''}".strip())
            extra = {"size": size} if size else {}
            found.setdefault(row, {})[size] = measured(body=row, **extra, **common)
            display.end("ok", "", False)
    for row, by_size in found.items():
        values = _fits(by_size) if row in SIZED else by_size[0]
        records += _records(ctx, settings, row, values)
    ctx.save(records, provenance.collect(ctx.command, settings))
    return records


def sizes(row: str, given: dict[str, Any]) -> list[int]:
    """Return the depths of the ResNet, or the steps of the others."""
    return list(given["depths"] if row == "resnet" else given["steps"])


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per body: fitted exponents and lines, without the points."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if not r.metric.rsplit("_", 1)[-1].isdigit()])
    wide = frame.pivot_table(index="row", columns="metric", values="value")
    return wide.reindex([row for row in ROWS if row in wide.index])


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
            axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
        figure.suptitle(f"One forward and backward pass, {records[0].budget}")
    return figure


def _draw(axes: "Axes", records: list[Record], row: str, metric: str, exponent: str) -> None:
    from reproduce import plotting

    points = {
        int(r.metric.rsplit("_", 1)[1]): r.value
        for r in records
        if r.row == row and r.metric.startswith(f"{metric}_") and r.metric[-1].isdigit()
    }
    slope = next(r.value for r in records if r.row == row and r.metric == exponent)
    style = plotting.method_style(row)
    style["label"] += f": exponent {slope:.2f}"
    xs = sorted(points)
    axes.plot(xs, [points[x] for x in xs], **style)


def _fits(by_size: dict[int, dict[str, float]]) -> dict[str, float]:
    """Return the points by name and what is fitted to them."""
    from reproduce import statistics

    xs = sorted(by_size)
    memory, units = ([by_size[x][name] for x in xs] for name in ("memory", "units"))
    values = {f"{name}_{x}": by_size[x][name] for x in xs for name in UNITS}
    of_memory, of_time = statistics.exponent(xs, memory), statistics.exponent(xs, units)
    slope, _, r_squared = statistics.line(xs, memory)
    return values | {
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


def _records(
    ctx: Context, settings: dict[str, Any], row: str, values: dict[str, float]
) -> list[Record]:
    identity = repr((sorted(settings.items()), PROTOCOL))
    return [
        Record(
            experiment="costs",
            row=row,
            metric=metric,
            value=value,
            unit=_unit(metric),
            seed=0,
            profile=ctx.profile,
            protocol=PROTOCOL,
            budget=f"batch {settings['batch']}, {settings['rounds']} rounds",
            overrides="",
            device=ctx.device_text,
            run=hashlib.sha256(identity.encode()).hexdigest()[:12],
        )
        for metric, value in values.items()
        if not math.isnan(value)
    ]


def _unit(metric: str) -> str:
    name, _, size = metric.rpartition("_")
    if metric in ("memory_per_step", "state"):
        return "MiB"
    return UNITS.get(name, "") if size.isdigit() else ""
