"""A field learned from short windows of one spiral continues it, by either gradient (the deck).

dy/dt = y³ A from (2, 0), each number by itself to the third, A = [[-0.1, 2], [-2, -0.1]]; 1,000
points over t in [0, 25]; the field y³ → 50 tanh units → 2. What is true comes from SciPy's DOP853
at 1e-13, never from a solver that trains.

Rows:

- `end`: the deck's variant A. Windows of 20 points, the end point alone, by the adjoint.
- `path`: the deck's variant B. The same windows, all their points, by back-propagation.
- `authors`: the authors' example. 20 windows of 10 points, all of them, by back-propagation.
- `end_off_by_one`: `end` as the deck's code has it, its target one grid step behind the time that
  is solved for, 20 steps instead of 19: the field it learns is 20/19 times too fast.
- `reference`: nothing trained; `deviation_<t>`, how far the reference is from the digits that were
  noted before, `rk4_error`, the largest error of RK4 on the 1,000 points, `radius_500` of the
  truth, and `blow_up`, the time before the start at which the true path backwards is infinite.

Metrics of the trained rows, the learned equation solved at 1e-7 in float64:

- `speed_ratio`: median over the 1,000 points of <learned, true> / <true, true>, 1 where the speed
  is right. Stated before running: within 0.026 of 1, and of 20/19 for `end_off_by_one`; that is
  half of what the slip makes.
- `field_error`: mean distance of learned from true slopes there, over the true slopes' mean size.
- `mae_path`: mean absolute error of the path from (2, 0) over [0, 25]. One window in ten begins
  in the outer turns, beyond |y| = 1.3, and what is missed there shifts all that follows: the loss
  over windows can fall while this rises.
- `mae_forward`, `radius_500`: the same from the true y(25) over 500 more, and |y| at their end.
- `rest_radius`: distance from the origin of where the learned field is smallest, searched within
  0.5 along both axes. The true one is zero at the origin, and so flat there that a bias of 0.002
  moves the place of rest by 0.1: long extrapolations settle there and not at the origin.
- `mae_backward`, `radius_backward`: from (2, 0) back over 1.25, near the end of the true path, and
  |y| after 25, where no true path exists. The learned field is bounded and goes on.

Beside the figures stands the training as a movie (GIF).

Deviations:

1. `quick` and `short`: the deck's rows train with dopri5 at 1e-4 instead of RK4 on the grid, and
   with Adam in one cycle up to 0.01: 900 updates and 1,500. `authors` has half of its updates, and
   all. In trials with other seeds the deck's own update rules, which `paper` has, left speeds of
   1.02 to 1.04 in `end` and `path` after 3,000 updates, which says less about the slip.
2. RMSProp is torch's, whose mean square begins at 0 and decays by 0.99; TensorFlow's begins at 1
   and decays by 0.9.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reproduce import fits, learned_spiral, phase_portraits, restored, trained_fields
from reproduce.context import Context, Profile
from reproduce.fits import Fit
from reproduce.records import Failed, Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from lightning_modules import VectorFieldModel
    from reproduce.jobs import Result

    Course = list[tuple[int, VectorFieldModel]]

PROTOCOL = 1
TRAINS = True
CONFIGS = {
    "end": "spiral_end.yaml",
    "path": "spiral_path.yaml",
    "authors": "spiral_authors.yaml",
    "end_off_by_one": "spiral_end.yaml",
}
FIXED = (
    "model.fit_to",
    "model.solver.gradient",
    "data.system",
    "data.span",
    "data.grid",
    "data.points",
    "data.late",
)
SLIP = 20 / 19
HALF = 2.2  # of the square that is shown

_FASTER: dict[str, Any] = {
    "model.solver.method": "dopri5",
    "model.solver.step_size": None,
    "model.solver.rtol": 1e-4,
    "model.solver.atol": 1e-4,
    "model.optimizer.name": "adam",
    "model.optimizer.lr": 0.01,
    "model.optimizer.momentum": 0.9,
    "model.schedule.name": "one_cycle",
}
_TINY = {"trainer.max_epochs": 2, "data.steps": 3}
# What the deck's rows and what the authors' row change in their configurations.
_CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "smoke": ({**_FASTER, **_TINY}, _TINY),
    "quick": ({**_FASTER, "data.steps": 30}, {"data.steps": 40}),
    "short": ({**_FASTER, "data.steps": 50}, {}),
    "paper": ({}, {}),
}
_SEEDS = {"smoke": 1, "quick": 1, "short": 5, "paper": 5}
_MINUTES = {"smoke": 0.7, "quick": 1.8, "short": 2.5, "paper": None}
PROFILES = {
    name: Profile(deck, _SEEDS[name], _MINUTES[name]) for name, (deck, _) in _CHANGES.items()
}


def run(ctx: Context) -> list[Record]:
    """Train every row, seed by seed, and check the reference."""
    work = [
        Fit(row, "speed_ratio", config, seed, overrides(ctx.profile, row))
        for seed in ctx.seeds
        for row, config in CONFIGS.items()
    ]
    trained = fits.run(ctx, "spiral", PROTOCOL, work, _measure, _unit, FIXED)
    reference = ctx.keep(
        "spiral",
        PROTOCOL,
        {"reference": learned_spiral.check_reference()},
        {"method": "DOP853", "tolerance": 1e-13},
        budget="DOP853 at 1e-13",
        unit=_unit,
    )
    return trained + reference


def overrides(profile: str, row: str) -> dict[str, Any]:
    """Return what a profile changes in the configuration of a row."""
    deck, authors = _CHANGES[profile]
    given = authors if row == "authors" else deck
    return {**given, "data.late": 1} if row == "end_off_by_one" else dict(given)


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per trained row: means over seeds."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.status == "ok" and r.row != "reference"])
    if frame.empty:
        return frame
    wide = frame.pivot_table(index="row", columns="metric", values="value", aggfunc="mean")
    return wide.reindex([row for row in CONFIGS if row in wide.index])


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return portraits over the training, paths over time, and what the slip does to the speed.

    All are drawn from the weights beside the rows; of changed settings none are kept, and there
    the figures have axes alone.
    """
    if not any(r.status == "ok" and r.row in CONFIGS for r in records):
        raise LookupError(f"a training of {' or '.join(CONFIGS)}")
    courses = {row: trained_fields.course(folder, records, row) for row in CONFIGS}
    last = {row: course[-1][1] for row, course in courses.items() if course}
    budgets = {r.row: r.budget for r in records}
    return {
        "": _portraits(courses, budgets),
        "extrapolation": _extrapolations(last, budgets),
        "off_by_one": _speeds(last),
    }


def movie(records: list[Record], folder: "Path") -> list["Figure"] | None:
    """Return the deck's two variants after every part of the training; None without weights."""
    from reproduce import plotting

    courses = {row: trained_fields.course(folder, records, row) for row in ("end", "path")}
    if not all(courses.values()):
        return None
    frames = []
    for stages in zip(*courses.values(), strict=False):
        with plotting.style():
            figure, axes = plotting.subplots(1, 2, size=(4.4, 4.9))
            for panel, row, (_, model) in zip(axes, courses, stages, strict=True):
                _portrait(panel, model, moving=True)
                panel.set_title(plotting.NAMES[row], fontsize=14)
                panel.set_xlabel("y₁", fontsize=12)
            axes[0].set_ylabel("y₂", fontsize=12)
            figure.suptitle(f"after {stages[0][0]:,} updates", fontsize=14)
        frames.append(figure)
    return frames


def _unit(metric: str) -> str:
    units = {
        "parameters": "parameters",
        "train_seconds": "s",
        "train_nfe_forward": "evaluations",
        "train_nfe_backward": "evaluations",
    }
    return units.get(metric, "")


def _measure(fit: Fit, result: "Result", records: Sequence[Record]) -> dict[str, float | Failed]:
    from lightning_modules import VectorFieldModel
    from lightning_modules.solvers import SolverFailed

    model = restored.finished(result, VectorFieldModel).double()
    speed, missed = learned_spiral.speed(model)
    found: dict[str, float | Failed] = {
        "speed_ratio": float(speed.median()),
        "field_error": missed,
        "rest_radius": learned_spiral.rest_radius(model),
        "parameters": result.parameters,
        **{
            name: result.cost[name]
            for name in ("train_seconds", "train_nfe_forward", "train_nfe_backward")
        },
    }
    paths = {
        "mae_path": learned_spiral.within,
        "mae_forward": learned_spiral.forward,
        "mae_backward": learned_spiral.backward,
    }
    for name, follow in paths.items():
        try:
            found |= follow(model)
        except SolverFailed as error:
            found[name] = Failed(error.kind, str(error))
    return found


def _portrait(axes: "Axes", model: "VectorFieldModel", *, moving: bool = False) -> None:
    """Show a learned field, and its path beside the true one."""
    from lightning_modules.solvers import SolverFailed
    from reproduce.plotting import OKABE_ITO

    times, truth = learned_spiral.truth()
    show = phase_portraits.arrows if moving else phase_portraits.streams
    show(axes, model.slopes, HALF)
    phase_portraits.line(
        axes, truth, color=OKABE_ITO["green"], linewidth=3.5, alpha=0.6, label="truth", zorder=2
    )
    try:
        found = phase_portraits.path(model, truth[0], times, tolerance=1e-4)
    except SolverFailed:
        return
    phase_portraits.line(
        axes, found, color=OKABE_ITO["blue"], linewidth=1.3, label="learned field", zorder=3
    )


def _shown(course: "Course") -> "Course":
    """Return five stages of a training: as drawn, early ones, and the last."""
    last = len(course) - 1
    places = {0, min(1, last), -(-last // 10), -(-last // 3), last} if course else set()
    return [course[k] for k in sorted(places)]


def _portraits(courses: dict[str, "Course"], budgets: dict[str, str]) -> "Figure":
    """Show how the fields come; the slip's is left out, whose portrait is that of `end`."""
    from reproduce import plotting

    rows = [row for row in CONFIGS if row != "end_off_by_one"]
    with plotting.style():
        figure, axes = plotting.subplots(len(rows), 5, size=(2.1, 2.25))
        for line, row in zip(axes, rows, strict=True):
            for panel in line:
                panel.set_xticks([])
                panel.set_yticks([])
            line[0].set_ylabel(plotting.NAMES[row], fontsize=11)
            for panel, (update, model) in zip(line, _shown(courses[row]), strict=False):
                _portrait(panel, model)
                panel.set_title(f"{update:,} updates", fontsize=12)
        axes[-1][0].set_xlabel(f"y₁ and y₂ from -{HALF} to {HALF}", fontsize=11)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=2)
        figure.suptitle(_trained(budgets), fontsize=12)
    return figure


def _extrapolations(last: dict[str, "VectorFieldModel"], budgets: dict[str, str]) -> "Figure":
    """Show paths over time: within the data, 500 on from their end, and back from their start."""
    import torch

    from reproduce import plotting

    models = {row: model for row, model in last.items() if row != "end_off_by_one"}
    times, truth = learned_spiral.future()
    within, later = _followed(models, *learned_spiral.truth()), _followed(models, times, truth)
    back = torch.linspace(0, -learned_spiral.BACKWARD, 1001, dtype=torch.float64)
    with plotting.style():
        figure, axes = plotting.subplots(2, 3, size=(5.0, 3.6))
        for (x, y), found, true in (
            (axes[0][:2], within, learned_spiral.truth()),
            (axes[1][:2], later, (times, truth)),
        ):
            _course(x, 0, found, *true)
            _course(y, 1, found, *true)
        axes[0][0].set_title("within the data", fontsize=14)
        axes[1][0].set_title("on from the true y(25)", fontsize=14)
        _backwards(axes[0][2], _followed(models, back, learned_spiral.past()[1]), back)
        _settled(axes[1][2], later, times, truth)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=4)
        figure.suptitle(_trained(budgets), fontsize=12)
    return figure


def _trained(budgets: dict[str, str]) -> str:
    """Say how the rows that are shown were trained, in two lines: one is wider than a figure."""
    deck, authors = (budgets.get(row, "not trained") for row in ("end", "authors"))
    return f"Deck's variants: {deck}\nAuthors: {authors}"


_TRUE: dict[str, Any] = {"color": "#009E73", "linewidth": 4.5, "alpha": 0.45, "label": "truth"}


def _stroke(row: str) -> dict[str, Any]:
    from reproduce import plotting

    strokes = {"end": "--", "path": "-", "authors": ":", "end_off_by_one": "-."}
    style: dict[str, Any] = {**plotting.method_style(row), "marker": "", "linewidth": 1.5}
    return {**style, "linestyle": strokes[row]}


def _followed(
    models: dict[str, "VectorFieldModel"], times: "Tensor", truth: "Tensor"
) -> dict[str, "Tensor"]:
    """Return the rows' paths from the first true state, without those that cannot be followed."""
    from lightning_modules.solvers import SolverFailed

    found = {}
    for row, model in models.items():
        try:
            found[row] = phase_portraits.path(model, truth[0], times)
        except SolverFailed:
            continue
    return found


def _course(
    axes: "Axes", column: int, found: dict[str, "Tensor"], times: "Tensor", truth: "Tensor"
) -> None:
    """Show one coordinate over time."""
    axes.plot(times, truth[:, column], **_TRUE)
    for row, states in found.items():
        axes.plot(times, states[:, column], **_stroke(row))
    axes.set_xlabel("time")
    axes.set_ylabel("y₁" if column == 0 else "y₂")


def _backwards(axes: "Axes", found: dict[str, "Tensor"], times: "Tensor") -> None:
    """Show how far from the origin paths are before the start."""
    past, truth = learned_spiral.past()
    axes.plot(past, truth.norm(dim=1), **_TRUE)
    for row, states in found.items():
        axes.plot(times, states.norm(dim=1), **_stroke(row))
    axes.set_xlabel("time")
    axes.set_ylabel("|y|")
    axes.set_title("backwards; the truth ends at -1.39", fontsize=14)


def _settled(axes: "Axes", found: dict[str, "Tensor"], times: "Tensor", truth: "Tensor") -> None:
    """Show the last 300 units of time around the origin."""
    late = times >= times[-1] - 300
    phase_portraits.line(axes, truth[late], **_TRUE)
    for row, states in found.items():
        phase_portraits.line(axes, states[late], **_stroke(row))
    axes.plot(0, 0, "+", color="#000000", markersize=10)
    phase_portraits.square(axes, 0.32)
    axes.set_title("the last 300 of it", fontsize=14)
    axes.set_xlabel("y₁")
    axes.set_ylabel("y₂")


def _speeds(last: dict[str, "VectorFieldModel"]) -> "Figure":
    """Show the learned over the true speed along the path, and what that does to its course."""
    from reproduce import plotting

    times, path = learned_spiral.truth()
    # From behind the first turns, where few windows lie and every field is at its worst.
    later, truth = times[200:], path[200:]
    ends = {row: model for row, model in last.items() if row.startswith("end")}
    with plotting.style():
        figure, (left, right) = plotting.subplots(1, 2, size=(6.0, 4.6))
        for row, model in last.items():
            left.plot(times, learned_spiral.speed(model)[0], **_stroke(row))
        for value, text in ((1.0, "right"), (SLIP, "20/19")):
            left.axhline(value, color="#555555", linewidth=1, zorder=1)
            left.text(learned_spiral.SPAN + 0.3, value, text, va="center", fontsize=12)
        left.set_xlim(0, learned_spiral.SPAN)
        left.set_ylim(0.92, 1.1)
        left.set_xlabel("time along the true path")
        left.set_ylabel("learned speed / true speed")
        _course(right, 0, _followed(ends, later, truth), later, truth)
        dotted: dict[str, Any] = {"color": "#555555", "linestyle": (0, (6, 2, 1, 2, 1, 2))}
        ahead = later[0] + (later - later[0]) / SLIP
        right.plot(ahead, truth[:, 0], label="truth, 20/19 as fast", **dotted)
        right.set_xlabel("time, on from the true y(5)")
        named = {
            label: handle
            for axes in (left, right)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(named.values(), named.keys(), loc="outside lower left", ncols=3)
    return figure
