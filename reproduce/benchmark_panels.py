"""The figures of the benchmark: time over error, and by the size of a problem."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reproduce.benchmark_plans import TITLES
from reproduce.records import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = {"ours": "-", "torchdiffeq": "--", "torchode": "-.", "torchdyn": ":", "diffrax": "-"}


def over_error(
    records: Sequence[Record], labels: Sequence[str], work: str, error: str, said: str
) -> "Figure":
    """Draw time over error, the best way of each library.

    Args:
        records: The rows.
        labels: The problems, a panel each.
        work: ``step`` or ``forward``.
        error: The metric of its error.
        said: The error in words.
    """
    from reproduce import plotting

    columns = min(4, len(labels))
    rows = -(-len(labels) // columns)
    with plotting.style():
        figure, axes = plotting.subplots(rows, columns, size=(4.2, 3.9), squeeze=False)
        places = list(axes.flat)
        for place, label in zip(places, labels, strict=False):
            _draw(place, records, label, work, error)
            place.set_title(TITLES[label])
            place.set_xlabel(said)
            place.set_ylabel("ms")
        for place in places[len(labels) :]:
            place.set_axis_off()
        handles = {h.get_label(): h for p in places for h in p.get_lines()}
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5)
    return figure


def by_size(records: Sequence[Record], labels: Sequence[str]) -> "Figure":
    """Draw the time of a step at tolerance 1e-5 for every size, the fastest way of each library.

    Args:
        records: The rows.
        labels: The sizes, such as ``linear_64x2``.
    """
    from reproduce import plotting
    from reproduce.peers import LIBRARIES

    values = {(r.row, r.metric): r.value for r in records if r.status == "ok"}
    labels = sorted(labels, key=_size)
    with plotting.style():
        figure, axes = plotting.subplots(size=(10.0, 4.8))
        shifts = plotting.side_by_side(len(LIBRARIES))
        for (library, ways), shift in zip(LIBRARIES.items(), shifts, strict=True):
            found = []
            for place, label in enumerate(labels):
                times = [values.get((f"{label}_{library}_{w}", "step_ms_1e-5")) for w in ways]
                there = [t for t in times if t is not None]
                if there:
                    found.append((place + shift, min(there)))
            if found:
                style = plotting.method_style(library)
                axes.plot(*zip(*found, strict=True), linestyle="none", **style)
        plotting.slots(axes, [_size_in_words(label) for label in labels], fontsize=9)
        axes.set_yscale("log")
        plotting.plain_ticks(axes.yaxis)
        axes.set_ylabel("training step at tolerance 1e-5 (ms)")
        axes.margins(y=0.1)
        axes.set_xlabel("problem, batch × state; marks of one side by side")
        plotting.legend(axes)
    return figure


def _draw(axes: "Axes", records: Sequence[Record], label: str, work: str, error: str) -> None:
    from reproduce import plotting
    from reproduce.peers import LIBRARIES

    for library, ways in LIBRARIES.items():
        curves = [_curve(records, f"{label}_{library}_{way}", work, error) for way in ways]
        curves = [curve for curve in curves if curve]
        if curves:
            # One that is right at more tolerances goes before one that is faster at fewer.
            best = min(curves, key=lambda curve: (-len(curve), min(y for _, y in curve[-2:])))
            style = plotting.method_style(library)
            axes.plot(*zip(*best, strict=True), linestyle=LINES[library], **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.1)
    plotting.plain_ticks(axes.yaxis)
    plotting.spaced_ticks(axes.xaxis)
    axes.invert_xaxis()


def _curve(
    records: Sequence[Record], row: str, work: str, error: str
) -> list[tuple[float, float]]:
    """Return errors and times of a row from its loosest tolerance on.

    Without those that have not one digit right, beside which nothing else could be seen.
    """
    values = {r.metric: r.value for r in records if r.row == row and r.status == "ok"}
    keys = [m.removeprefix(f"{error}_") for m in values if m.startswith(f"{error}_1e")]
    keys.sort(key=float, reverse=True)
    points = [(values[f"{error}_{key}"], values[f"{work}_ms_{key}"]) for key in keys]
    return [(wrong, time) for wrong, time in points if wrong < 1]


def _size_in_words(label: str) -> str:
    problem, size = _size(label)
    return f"{TITLES[problem]}\n{' × '.join(f'{number:,}' for number in size)}"


def _size(label: str) -> tuple[str, list[int]]:
    problem, _, size = label.rpartition("_")
    return problem, [int(number) for number in size.split("x")]
