"""18 numbers of three bodies on springs, found by descent, foretell the future (the deck).

The deck asks how many numbers describe three bodies connected with springs, counts 18 (three
bodies × two initial positions × two initial velocities, three spring strengths and three
equilibrium distances) and says: now try to solve this problem with a regular neural network. It
gives neither equations nor constants: bodies of mass 1 in the plane, each pair joined by a spring
that obeys Hooke's law, and all constants below are this project's own.

Positions are observed 80 times over t in [0, 10], about four swings and 1.3 turns of the whole,
with normal noise of 0.02 where the springs are about 1 long; a seed draws initial state and noise.
What is true comes from SciPy's DOP853 at 1e-13. All rows learn from the same observations:

- `physics`: the equation is known, its 18 numbers are not. They begin at what the observations
  suggest: first positions and differences, mean distances, and one stiffness for all springs that
  fits the second differences best. Adam descends through dopri5 at 1e-5, 800 updates in one cycle
  up to 0.05. The first 320 updates see the span grow from 8 observations to 80: over the whole
  span at once, the descent gets stuck where paths are half a turn off.
- `neural_ode`: the equation is unknown. A field of 12 numbers, of which six are the positions,
  with 100 tanh units, and its initial state; dopri5 at 1e-4, 2,000 updates of Adam up to 0.01, the
  span growing over the first 1,200. It does not learn the whole span in that time (`misfit`), so
  its `horizon` measures the descent as much as the model.
- `network`: time → 64 → 64 → positions, tanh; 3,000 updates of Adam up to 0.01.

Metrics, of paths solved at 1e-7:

- `rmse_span`, `rmse_future`: root mean square distance of a body from the truth, on [0, 10] and on
  [10, 40]; `misfit`: mean squared residual of an observed coordinate over the noise's variance.
- `horizon`: time behind the last observation until the distance, root mean square over the bodies,
  exceeds 0.2; at most 30, where the truth ends.
- `error_<number>`, `sd_<number>` (`physics`): how far each of the 18 numbers is from the truth,
  and its standard error by the Fisher information JᵀJ/σ², J being taken through the solver.
- `chi_square` (`physics`): the 18 errors in the metric of that information, 18 on average where
  the standard errors are right; `undone`: how far from the minimum the descent ended, in the same.

Constants were chosen on seeds 100 to 111, so that paths are not chaotic: states that swing twice
as wide are not foretold for long by any 18 numbers with errors.

Beside the figures stands what the three foretell as a movie (GIF).

Deviations: none; the deck has a count and a question.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reproduce import fits, phase_portraits, restored, three_bodies
from reproduce import three_body_panels as panels
from reproduce.context import Context, Profile
from reproduce.fits import Fit
from reproduce.records import Failed, Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from datamodules import SpringObservations
    from lightning_modules import PathModel
    from reproduce.jobs import Result

    Drawn = dict[str, tuple[PathModel, SpringObservations]]

PROTOCOL = 1
TRAINS = True
ROWS = ("physics", "neural_ode", "network")
FIXED = ("model.kind", "data.data_seed")
SHOWN = ("rmse_span", "rmse_future", "horizon", "misfit", "chi_square", "undone", "parameters")
UNITS = {
    "parameters": "parameters",
    "train_seconds": "s",
    "train_nfe_forward": "evaluations",
}
AHEAD = 6.0  # behind the observations, of the paths in the plane
FRAMES = 75
MOVIE = (7.0, 22.0)  # times that the movie runs through
_TINY = {"trainer.max_epochs": 1, "data.steps": 3, "data.future": 2.0, "data.grid": 121}
PROFILES = {
    "smoke": Profile(_TINY, 1, 0.6),
    "quick": Profile({}, 1, 2.7),
    "short": Profile({}, 5, 2.6),
    "paper": Profile({}, 5, None),
}


def run(ctx: Context) -> list[Record]:
    """Train every row, seed by seed."""
    changes = PROFILES[ctx.profile].overrides
    work = [
        Fit(row, "rmse_future", f"springs_{row}.yaml", seed, dict(changes))
        for seed in ctx.seeds
        for row in ROWS
    ]
    return fits.run(ctx, "springs", PROTOCOL, work, _measure, lambda m: UNITS.get(m, ""), FIXED)


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row: means over seeds."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.status == "ok"])
    if frame.empty:
        return frame
    wide = frame.pivot_table(index="row", columns="metric", values="value", aggfunc="mean")
    return wide.reindex(
        index=[row for row in ROWS if row in wide.index],
        columns=[metric for metric in SHOWN if metric in wide.columns],
    )


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return paths over time and in the plane, the 18 numbers, and how the error grows.

    All but the errors of the numbers are drawn from the weights beside the rows, which must be
    there.
    """
    drawn = _drawn(records, folder)
    if not drawn:
        raise LookupError(f"weights of {' or '.join(ROWS)}")
    return {
        "": _over_time(drawn),
        "plane": _in_the_plane(drawn),
        "numbers": _numbers(records, drawn),
        "error": _growth(drawn),
    }


def movie(records: list[Record], folder: "Path") -> list["Figure"]:
    """Return truth and predictions side by side as time goes on."""
    import torch

    from reproduce import plotting

    drawn = _drawn(records, folder)
    times = torch.linspace(*MOVIE, FRAMES, dtype=torch.float64)
    found, truth = _paths(drawn, times)
    span, half = _data(drawn).span, 1.15 * float(truth.abs().max())
    frames = []
    for k, time in enumerate(times.tolist()):
        with plotting.style():
            figure, axes = plotting.subplots(1, len(found), size=(3.3, 3.7), squeeze=False)
            for panel, (row, positions) in zip(axes[0], found.items(), strict=True):
                panels.bodies(panel, truth[k], "#BBBBBB", wide=True)
                panels.bodies(panel, positions[k], _colour(row))
                phase_portraits.square(panel, half)
                panel.set_xticks([])
                panel.set_yticks([])
                panel.set_title(plotting.NAMES[row], fontsize=13)
            state = "observed" if time <= span else f"{time - span:.1f} foretold"
            figure.suptitle(f"t = {time:.1f}, {state}; wide and grey: truth", fontsize=13)
        frames.append(figure)
    return frames


def _measure(fit: Fit, result: "Result", records: Sequence[Record]) -> dict[str, float | Failed]:
    import torch

    from lightning_modules import PathModel

    model = restored.finished(result, PathModel).double()
    data = three_bodies.observed(result.job.resolved["data"]["init_args"], fit.seed)
    found: dict[str, float | Failed] = {
        **three_bodies.errors(three_bodies.predicted(model, data.at), data),
        "misfit": three_bodies.misfit(model, data),
        "parameters": result.parameters,
        "train_seconds": result.cost["train_seconds"],
    }
    if fit.row != "network":
        found["train_nfe_forward"] = result.cost["train_nfe_forward"]
    if fit.row == "physics":
        try:
            found |= three_bodies.recovery(model, data)
        except torch.linalg.LinAlgError as error:
            hint = f"the Fisher information has no inverse: {error}"
            found["chi_square"] = Failed("error", hint)
    return found


def _drawn(records: list[Record], folder: "Path") -> "Drawn":
    """Return models and their observations, of the rows whose weights are there.

    Where rows have weights of different seeds, since trainings failed or were cut off, only those
    of the first row's seed are drawn: the others learned from another path.
    """
    found = {row: three_bodies.drawn_from(folder, records, row) for row in ROWS}
    there = {row: pair for row, pair in found.items() if pair is not None}
    seeds = {row: data.data_seed for row, (_, data) in there.items()}
    return {row: pair for row, pair in there.items() if seeds[row] == next(iter(seeds.values()))}


def _data(drawn: "Drawn") -> "SpringObservations":
    """Return the observations, which all rows that are drawn have in common."""
    return next(iter(drawn.values()))[1]


def _paths(drawn: "Drawn", times: "Tensor") -> tuple[dict[str, "Tensor"], "Tensor"]:
    """Return what the rows predict, without those that cannot be followed, and the truth."""
    from lightning_modules.solvers import SolverFailed

    found = {}
    for row, (model, _) in drawn.items():
        try:
            found[row] = three_bodies.predicted(model, times)
        except SolverFailed:
            continue
    return found, _data(drawn).true_positions(times)


def _colour(row: str) -> str:
    from reproduce import plotting

    return plotting.method_style(row)["color"]


def _over_time(drawn: "Drawn") -> "Figure":
    """Show one coordinate over time: truth, observations and what each row makes of them."""
    from reproduce import plotting

    with plotting.style():
        figure, axes = plotting.slide(len(ROWS), 1, sharex=True)
        data = _data(drawn)
        found, truth = _paths(drawn, data.at)
        for panel, (row, positions) in zip(axes, found.items(), strict=False):
            panels.course(panel, data, truth[:, 0], positions[:, 0], _colour(row))
            panel.set_title(plotting.NAMES[row], loc="left", fontsize=15)
            panel.set_ylabel("x₁")
        axes[-1].set_xlabel(f"time; observed until {data.span:g}, foretold from there on")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3)
    return figure


def _in_the_plane(drawn: "Drawn") -> "Figure":
    """Show the paths of all bodies while they are observed, and for a while behind that."""
    import torch

    from reproduce import plotting

    with plotting.style():
        figure, axes = plotting.slide(2, len(ROWS))
        data = _data(drawn)
        half = 1.15 * float(data.truth.abs().max())
        for line, (first, last) in zip(
            axes, ((data.span - AHEAD, data.span), (data.span, data.span + AHEAD)), strict=True
        ):
            times = torch.linspace(first, last, 301, dtype=torch.float64)
            found, truth = _paths(drawn, times)
            for panel, (row, positions) in zip(line, found.items(), strict=False):
                panels.plane(panel, truth, positions, _colour(row))
                phase_portraits.square(panel, half)
                panel.set_xticks([])
                panel.set_yticks([])
                panel.set_title(plotting.NAMES[row], fontsize=14)
            what = "observed" if last <= data.span else "foretold"
            line[0].set_ylabel(f"{what}, t = {first:g} to {last:g}", fontsize=13)
        figure.suptitle("wide and green: truth; marks: where the bodies end", fontsize=14)
    return figure


def _numbers(records: list[Record], drawn: "Drawn") -> "Figure":
    """Show recovered against true numbers of one seed, and the errors of all."""
    from reproduce import plotting

    physics = [r for r in records if r.row == "physics" and r.status == "ok"]
    values = {(r.seed, r.metric): r.value for r in physics}
    seeds = sorted({seed for seed, metric in values if metric == "chi_square"})
    with plotting.style():
        figure, (left, right) = plotting.slide(1, 2, width_ratios=(1, 1.5))
        shown = drawn["physics"][1].data_seed if "physics" in drawn else None
        if shown is not None and shown in seeds:
            model, data = drawn["physics"]
            true = three_bodies.true_numbers(data).tolist()
            found = three_bodies.numbers(model).tolist()
            sd = [values[shown, f"sd_{name}"] for name in three_bodies.NUMBERS]
            panels.recovered(left, true, found, sd)
        errors = {
            seed: [
                values[seed, f"error_{name}"] / values[seed, f"sd_{name}"]
                for name in three_bodies.NUMBERS
            ]
            for seed in seeds
        }
        if errors:
            panels.errors_of_numbers(right, errors)
            mean = sum(values[seed, "chi_square"] for seed in seeds) / len(seeds)
            over = f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ""
            right.set_title(f"χ² of the 18 errors: {mean:.1f}{over}", fontsize=15)
    return figure


def _growth(drawn: "Drawn") -> "Figure":
    """Show the distance from the truth over time, and what the Fisher information foresees."""
    from reproduce import plotting

    with plotting.style():
        figure, axes = plotting.slide()
        data = _data(drawn)
        found, truth = _paths(drawn, data.at)
        strokes = {"physics": "-", "neural_ode": "--", "network": ":"}
        for row, positions in found.items():
            missed = three_bodies.distances(positions, truth)
            name = plotting.NAMES[row]
            axes.plot(data.at, missed, strokes[row], color=_colour(row), label=name)
        if "physics" in drawn:
            model, times = drawn["physics"][0], data.at[::10]
            expected = three_bodies.foreseen(model, data, times)
            look: dict[str, Any] = {"linewidth": 6, "alpha": 0.3, "zorder": 1}
            label = "18 numbers, by the Fisher information"
            axes.plot(times, expected, color=_colour("physics"), label=label, **look)
        panels.growth(axes, data)
    return figure
