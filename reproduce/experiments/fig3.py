"""Figure 3: what a trained ODE-Net's solver does: error, time and evaluations against tolerance.

Panels a to c vary the tolerance of trained nets from 1 to 1e-5 on mini-batches of test images, for
dopri5 (with the adjoint's error norm per tensor) and for VODE-Adams, the family of the paper's
solver (one norm over the whole backward state, as there); panel d follows the evaluations through
the training, from its own log. The paper's marks, read off the figure, lie beneath.

- `nfe_forward_<tol>`, `nfe_backward_<tol>`, `nfe_ratio_<tol>`: medians over mini-batches; `_low`
  and `_high` are the quartiles. `gradient_scale_<tol>`: RMS of dL/dz(1), on which the backward
  count depends, since the absolute tolerance is the same.
- `error_<tol>`: RMS of z(1) against the same net solved at 1e-9 in float64.
- `time_<tol>`: forward time over that at 1e-5 on the same mini-batch. A solver's tolerances are
  timed in turn, nothing else between them: medians of three rounds after an untimed one.
- `error_increases`, `…_over_tolerance`, `time_fit_…`: what the claims C08 and C09 are judged by.
- `training`: rank correlation of evaluations with updates, and the mean over the last tenth of
  the training over that of the first (C11).

Deviations from the paper:

1. The nets are those of `table1`, whose deviations hold here; a row for every seed whose weights
   are there. Where there is none, one is trained first, with the same profile. `--row` adds the
   nets of a row of your own (`lightning_modules.FieldClassifier`); its name stands before theirs.
2. What one mark of the figure stands for is not stated; here it is a mini-batch of the test set.
3. Reference and norm of the error are not stated; see above.
4. The paper's panel d ends at 16.4 evaluations, which its panels a to c have at a tolerance
   between 1 and 0.1, not at the 1e-3 of its text: another run.

Protocol 4: up to protocol 3 forward solves were timed between the backward solves that are
counted, at last each right after the same solve untimed. However the order turned, dopri5 at
tolerance 1 came after VODE's long backward solve, and took twice the time of the 14 evaluations
that it shares with tolerance 0.1.
"""

import statistics as spread
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile, identity
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from lightning_modules.solvers import SolverSettings
    from reproduce.trained import Trained

PROTOCOL = 4
TRAINS = False
TOLERANCES = ("1", "1e-1", "1e-2", "1e-3", "1e-4", "1e-5")
SOLVERS: dict[str, dict[str, Any]] = {
    "dopri5": {"backend": "native", "method": "dopri5"},
    "vode_adams": {"backend": "scipy", "method": "vode_adams", "adjoint_norm": "rms"},
}
REFERENCE = 1e-9
COUNTS = ("nfe_forward", "nfe_backward", "nfe_at")
ROUNDS = 3  # of timed solves

PROFILES = {
    "smoke": Profile({"batches": 2, "batch": 4}, seeds=1, minutes=0.5),
    "quick": Profile({"batches": 10, "batch": 32}, seeds=1, minutes=5),
    "short": Profile({"batches": 10, "batch": 32}, seeds=5, minutes=5),
    "paper": Profile({"batches": 40, "batch": 128}, seeds=5, minutes=None),
}


@dataclass(frozen=True)
class _Mark:
    """One mini-batch at one tolerance."""

    nfe_forward: int
    nfe_backward: int
    error: float
    seconds: float
    gradient_scale: float


def run(ctx: Context) -> list[Record]:
    """Measure every trained net that has no rows yet; they are written as soon as it is done."""
    from reproduce import own_fields, trained
    from reproduce.progress import Display

    given = PROFILES[ctx.profile].overrides
    budget = f"{given['batches']} mini-batches of {given['batch']}"
    # Backward counts depend on the norm and on both tolerances, which are the same.
    solvers = {name: {"adjoint_norm": "per_tensor", **s} for name, s in SOLVERS.items()}
    records: list[Record] = []
    own = own_fields.odenets(ctx, ctx.profile)  # first: a row that is none is refused at once
    nets = [*trained.odenets(ctx, ctx.profile), *own]
    with Display(len(nets)) as display:
        for net in nets:
            line = display.start(f"net of seed {net.seed}")
            settings = {**given, "device": ctx.device, "weights": net.text, "solvers": solvers}
            there = ctx.found("fig3", identity(settings, PROTOCOL))
            records += there or ctx.keep(
                "fig3",
                PROTOCOL,
                _rows(ctx, net, given),
                settings,
                budget=f"{budget}; net: {net.budget}",
                unit=_unit,
                seed=net.seed,
            )
            line.end("ok", "", bool(there))
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per solver and tolerance: medians, means over nets."""
    import pandas as pd

    lines: dict[tuple[str, str], dict[str, list[float]]] = {}
    for r in records:
        name, _, tolerance = r.metric.rpartition("_")
        if tolerance in TOLERANCES:
            lines.setdefault((r.row, tolerance), {}).setdefault(name, []).append(r.value)
    means = {key: {n: spread.fmean(v) for n, v in line.items()} for key, line in lines.items()}
    return pd.DataFrame.from_dict(means, orient="index")


def plot(records: list[Record]) -> "Figure":
    """The four panels, with the paper's marks beneath."""
    from reproduce import plotting

    with plotting.style():
        figure, axes = plotting.subplots(2, 2, size=(6.0, 4.6))
        (a, b), (c, d) = axes
        for axis, metric in ((a, "error"), (b, "time"), (c, "nfe_backward")):
            _draw_paper(axis, metric)
            for row in (row for solver in SOLVERS for row in _named(records, solver)):
                _draw(axis, records, row, metric)
            axis.set_xlabel("forward evaluations")
        a.set_yscale("log")
        a.set_ylabel("error of z(1)")
        b.set_ylabel("time, relative to 1e-5")
        c.set_ylabel("backward evaluations")
        most = max(c.get_xlim()[1], c.get_ylim()[1])
        c.plot([0, most], [0, most], color="#999999", linestyle="--", linewidth=1)
        _draw_training(d, records)
        plotting.legend(a)
        figure.suptitle(f"Figure 3: {records[0].budget}", fontsize=13)
    return figure


def _rows(ctx: Context, net: "Trained", given: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the metrics of one net, by row."""
    marks = _marks(ctx, net, given["batches"], given["batch"])
    rows = {solver: _summaries(of_solver) for solver, of_solver in marks.items()}
    rows["training"] = _training(net.curve("nfe_forward"))
    return {f"{net.prefix}{row}": values for row, values in rows.items()}


def _named(records: list[Record], name: str) -> list[str]:
    """Return the row of that name, and those of the user's nets that end in it."""
    return [row for row in dict.fromkeys(r.row for r in records) if f"_{row}".endswith(f"_{name}")]


def _marks(
    ctx: Context, net: "Trained", batches: int, batch: int
) -> dict[str, dict[str, list[_Mark]]]:
    """Return the marks by solver and tolerance."""
    import torch

    from reproduce.digits import test_images

    stem, field, head = net.parts(ctx.device)
    images, labels = test_images(ctx.data_root, ctx.device, batches * batch)
    found: dict[str, dict[str, list[_Mark]]] = {
        solver: {tolerance: [] for tolerance in TOLERANCES} for solver in SOLVERS
    }
    pairs = list(zip(images.split(batch), labels.split(batch), strict=True))
    for number, (some, theirs) in enumerate([pairs[0], *pairs]):
        with torch.no_grad():
            features = stem(some)
        exact = _reference(field, features)
        for solver, of_solver in found.items():
            seconds = _seconds(field, features, solver)
            for tolerance in TOLERANCES:
                settings = _settings(solver, tolerance)
                mark = _mark(field, head, features, theirs, exact, settings, seconds[tolerance])
                if number:  # the first mini-batch comes twice: once to warm up
                    of_solver[tolerance].append(mark)
    return found


def _settings(solver: str, tolerance: str) -> "SolverSettings":
    from lightning_modules.solvers import SolverSettings

    rtol = float(tolerance)
    return SolverSettings(rtol=rtol, atol=rtol, gradient="adjoint", **SOLVERS[solver])


def _seconds(field: "nn.Module", features: "Tensor", solver: str) -> dict[str, float]:
    """Return the time of a forward solve by tolerance; no backward solve comes in between."""
    from lightning_modules.solvers import odeint
    from reproduce.timing import interleave

    times = features.new_tensor([0.0, 1.0])
    work = {
        tolerance: partial(odeint, field, features, times, _settings(solver, tolerance))
        for tolerance in TOLERANCES
    }
    timings = interleave(work, ROUNDS, warm_up=1)
    return {tolerance: timing.median for tolerance, timing in timings.items()}


def _reference(field: "nn.Module", features: "Tensor") -> "Tensor":
    import copy

    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    settings = SolverSettings(backend="native", rtol=REFERENCE, atol=REFERENCE, max_steps=100_000)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, device=features.device)
    with torch.no_grad():
        return odeint(copy.deepcopy(field).double(), features.double(), times, settings).ys[-1]


def _mark(
    field: "nn.Module",
    head: "nn.Module",
    features: "Tensor",
    labels: "Tensor",
    exact: "Tensor",
    settings: "SolverSettings",
    seconds: float,
) -> _Mark:
    import torch.nn.functional as F

    from lightning_modules.solvers import odeint

    start = features.clone().requires_grad_()
    solution = odeint(field, start, features.new_tensor([0.0, 1.0]), settings)
    end = solution.ys[-1]
    end.retain_grad()
    F.cross_entropy(head(end), labels).backward()
    assert end.grad is not None
    return _Mark(
        nfe_forward=solution.stats.nfe_forward,
        nfe_backward=solution.stats.nfe_backward,
        error=float((end.detach().double() - exact).square().mean().sqrt()),
        seconds=seconds,
        gradient_scale=float(end.grad.square().mean().sqrt()),
    )


def _summaries(marks: dict[str, list[_Mark]]) -> dict[str, float]:
    """Return medians and quartiles by tolerance, and what claims are judged by."""
    from reproduce import statistics

    slowest = [mark.seconds for mark in marks[TOLERANCES[-1]]]
    values: dict[str, float] = {}
    for tolerance, some in marks.items():
        measured: dict[str, list[float]] = {
            "nfe_forward": [mark.nfe_forward for mark in some],
            "nfe_backward": [mark.nfe_backward for mark in some],
            "nfe_ratio": [mark.nfe_backward / mark.nfe_forward for mark in some],
            "error": [mark.error for mark in some],
            "time": [mark.seconds / most for mark, most in zip(some, slowest, strict=True)],
            "gradient_scale": [mark.gradient_scale for mark in some],
        }
        for name, found in measured.items():
            low, median, high = spread.quantiles(found, n=4, method="inclusive")
            values[f"{name}_{tolerance}"] = median
            values[f"{name}_{tolerance}_low"] = low
            values[f"{name}_{tolerance}_high"] = high
    errors = [values[f"error_{tolerance}"] for tolerance in TOLERANCES]
    over = [error / float(tol) for error, tol in zip(errors, TOLERANCES, strict=True)]
    evaluations = [values[f"nfe_forward_{tolerance}"] for tolerance in TOLERANCES]
    times = [values[f"time_{tolerance}"] for tolerance in TOLERANCES]
    _, intercept, r_squared = statistics.line(evaluations, times)
    return values | {
        "error_increases": sum(b > a for a, b in pairwise(errors)),
        "least_error_over_tolerance": min(over[1:]),
        "largest_error_over_tolerance": max(over[1:]),
        "largest_median_error_over_tolerance": max(over),
        "time_fit_r_squared": r_squared,
        "time_fit_intercept": intercept / times[-1],
    }


def _training(curve: list[tuple[int, float]]) -> dict[str, float]:
    """Return how evaluations went with the training; nothing without its curve."""
    from reproduce import statistics

    if len(curve) < 2:
        return {}
    updates, evaluations = zip(*curve, strict=True)
    tenth = max(len(curve) // 10, 1)
    values = {f"nfe_at_{update}": value for update, value in curve}
    return values | {
        "nfe_growth": spread.fmean(evaluations[-tenth:]) / spread.fmean(evaluations[:tenth]),
        "nfe_rank_correlation": statistics.rank_correlation(updates, evaluations),
    }


def _draw(axes: "Axes", records: list[Record], row: str, metric: str) -> None:
    """Draw medians over mini-batches, one mark a net, with the quartiles as bars."""
    from reproduce import plotting

    rows = {(r.seed, r.metric): r.value for r in records if r.row == row}
    style = plotting.method_style(row)
    for seed in sorted({seed for seed, _ in rows}):
        for tolerance in TOLERANCES:
            key = f"{metric}_{tolerance}"
            y, low, high = (rows[seed, key + end] for end in ("", "_low", "_high"))
            x = rows[seed, f"nfe_forward_{tolerance}"]
            axes.errorbar(x, y, [[y - low], [high - y]], linestyle="none", **style)


def _draw_paper(axes: "Axes", metric: str) -> None:
    from reproduce import paper, plotting

    names = {"error": "numerical_error", "time": "relative_time"}
    read_off = [n for n in paper.numbers("fig3") if not isinstance(n.value, str)]
    ys = {n.row: n.value for n in read_off if n.metric == names.get(metric, metric)}
    xs = {n.row: n.value for n in read_off if n.metric == "nfe_forward"}
    rows = [row for row in ys if row in xs]
    axes.plot([xs[row] for row in rows], [ys[row] for row in rows], **plotting.PAPER_STYLE)


def _draw_training(axes: "Axes", records: list[Record]) -> None:
    """Draw evaluations over the training, as a part of it: the paper's has 120 epochs."""
    from reproduce import paper, plotting

    epochs = {
        int(n.row.removeprefix("epoch_")): n.value
        for n in paper.numbers("fig3")
        if n.row.startswith("epoch_")
    }
    last = max(epochs)
    xs = [epoch / last for epoch in epochs]
    axes.plot(xs, list(epochs.values()), **plotting.PAPER_STYLE)
    trainings = _named(records, "training")
    for row, seed in sorted({(r.row, r.seed) for r in records if r.row in trainings}):
        colour = plotting.OKABE_ITO["vermillion" if row == "training" else "green"]
        points = sorted(
            (int(r.metric.removeprefix("nfe_at_")), r.value)
            for r in records
            if r.row == row and r.seed == seed and r.metric.startswith("nfe_at_")
        )
        if points:
            end = points[-1][0]
            axes.plot([x / end for x, _ in points], [y for _, y in points], color=colour)
    axes.set_xlabel("part of the training")
    axes.set_ylabel("forward evaluations")


def _unit(metric: str) -> str:
    return "evaluations" if metric.startswith(COUNTS) else ""
