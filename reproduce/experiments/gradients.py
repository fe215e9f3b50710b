"""On smooth fields the adjoint is as exact as its tolerance; direct gradients are their steps'.

Relative errors of gradients against tolerance, with what they cost, in float64: on a linear
equation (z' = A z, T = 5) and the cubic spiral of the authors' demo (z' = z³ A, T = 2), for a loss
of the end state, and for losses at three times; and on the trained ODE-Net for eight test images.

- `<problem>_direct`, `_checkpoint`, `_adjoint`, `_adjoint_seminorm`: our solver, dopri5;
  `_adjoint_vode`: SciPy's VODE-Adams, one norm over everything, as in the paper.
- `z0_<tol>`, `theta_<tol>`, `t0_<tol>`, `t1_<tol>`: norm of the error of dL/dz0 (dL/dA, …) over
  the norm of the true gradient; `_checkpoint` offers none by times. `nfe_<tol>`: evaluations,
  forward and backward together.
- `…_slope`: slope of log error over log tolerance, with its 95 % interval.
- `adjoint`, `adjoint_start_time`, `adjoint_end_time`, `adjoint_several_times`: what the claims C01
  and C02 are judged by, the larger of both problems at the tightest tolerance.
- `batch_shared`, `batch_alone`, `batch_torchode`: `nfe_<tol>`, the evaluations that an image takes
  on average where a mini-batch is one equation, where each image is solved by itself, and where
  torchode gives each its own steps in a common call; `time_<tol>` over that of the first.

References: SciPy's DOP853 on the forward sensitivities at 1e-13, no solver of ours; for the
ODE-Net the exact gradient of our own solution at 1e-10. How far that is from the one at 1e-9 is
the row `odenet_reference`: its field has kinks, so the reference itself is no better than that,
and slopes leave out errors below five times it.

Deviations: none, the paper measured none of this.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from reproduce.trained import Trained

PROTOCOL = 2
TRAINS = False
METHODS: dict[str, dict[str, Any]] = {
    "direct": {"backend": "native", "gradient": "direct"},
    "checkpoint": {"backend": "native", "gradient": "checkpoint"},
    "adjoint": {"backend": "native", "gradient": "adjoint"},
    "adjoint_seminorm": {
        "backend": "native",
        "gradient": "adjoint",
        "adjoint_norm": "seminorm",
    },
    "adjoint_vode": {
        "backend": "scipy",
        "method": "vode_adams",
        "gradient": "adjoint",
        "adjoint_norm": "rms",
    },
}
PROBLEMS = ("linear", "spiral")
QUANTITIES = ("z0", "theta", "t0", "t1")
IMAGES = 8
NET_REFERENCE = (1e-9, 1e-10)
TRUSTED = 5  # an error counts where it is this many times that of its reference
BATCHES = ("batch_shared", "batch_alone", "batch_torchode")

_FULL = {"decades": 10, "net_decades": 7, "batch_tolerances": [1e-1, 1e-3, 1e-5]}
PROFILES = {
    "smoke": Profile(
        {"decades": 4, "net_decades": 2, "batch": 2, "batch_tolerances": [1e-3]},
        seeds=1,
        minutes=0.3,
    ),
    "quick": Profile({**_FULL, "batch": 32}, seeds=1, minutes=3),
    "short": Profile({**_FULL, "batch": 128}, seeds=1, minutes=5),
    "paper": Profile({**_FULL, "batch": 128}, seeds=1, minutes=5),
}


def run(ctx: Context) -> list[Record]:
    """Measure all problems; their rows are written together."""
    from reproduce import trained

    given = PROFILES[ctx.profile].overrides
    net = trained.odenet(ctx, None)  # first: without it nothing else counts
    values: dict[str, dict[str, float]] = {}
    tolerances = [10.0**-k for k in range(1, given["decades"] + 1)]
    for problem in PROBLEMS:
        for method in METHODS:
            values[f"{problem}_{method}"] = _system_row(problem, method, tolerances)
    values |= _judged(values, tolerances)
    values |= _net_rows(ctx, net, [10.0**-k for k in range(1, given["net_decades"] + 1)])
    batches, skipped = _batch_rows(ctx, net, given["batch"], given["batch_tolerances"])
    settings = {**given, "weights": net.text, "methods": METHODS}
    return ctx.keep(
        "gradients",
        PROTOCOL,
        values | batches,
        settings,
        budget=f"ODE-Net: {net.text}",
        unit=_unit,
        seed=net.seed,
        skipped=skipped,
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row: error at the tightest tolerance, slope with its interval, evaluations."""
    import pandas as pd

    values = {(r.row, r.metric): r.value for r in records if r.status == "ok"}
    lines: dict[str, dict[str, str]] = {}
    for row in dict.fromkeys(r.row for r in records):
        ks = sorted(_by_tolerance(records, row, "z0"))
        if row in BATCHES or not ks:
            continue
        line = {
            "tolerance": f"1e-{ks[-1]}",
            "evaluations": f"{values[row, f'nfe_1e-{ks[-1]}']:.0f}",
        }
        for quantity in (*QUANTITIES, "several"):
            error = values.get((row, f"{quantity}_1e-{ks[-1]}"))
            if error is not None:
                line[quantity] = f"{error:.0e}"
            slope, low, high = (
                values.get((row, f"{quantity}_slope{end}")) for end in ("", "_low", "_high")
            )
            if slope is not None:
                line[f"{quantity}, slope"] = f"{slope:.2f} ({low:.2f} to {high:.2f})"
        lines[row] = line
    return pd.DataFrame.from_dict(lines, orient="index").fillna("")


def plot(records: list[Record]) -> "Figure":
    """Error of dL/dθ over tolerance, and over evaluations, problem by problem."""
    from reproduce import plotting

    with plotting.style():
        names = {
            "linear": "linear equation",
            "spiral": "cubic spiral",
            "odenet": "trained ODE-Net",
        }
        figure, axes = plotting.subplots(2, 3, size=(5.0, 4.2))
        for column, (problem, title) in enumerate(names.items()):
            for method in METHODS:
                errors = _by_tolerance(records, f"{problem}_{method}", "theta")
                evaluations = _by_tolerance(records, f"{problem}_{method}", "nfe")
                if not errors:
                    continue
                style = plotting.method_style(method)
                # Some methods take the very steps of others: all must be seen.
                look = {"linestyle": ":" if method == "adjoint_seminorm" else "-", **style}
                if method == "direct":
                    look |= {"markersize": 15, "markerfacecolor": "none", "linewidth": 5}
                ks = sorted(errors)
                ys = [errors[k] for k in ks]
                axes[0][column].plot([10.0**-k for k in ks], ys, **look)
                axes[1][column].plot([evaluations[k] for k in ks], ys, **look)
            axes[0][column].set_title(title)
            axes[0][column].set_xlabel("tolerance")
            axes[1][column].set_xlabel("evaluations, forward and backward")
        for axis in axes.flat:
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.xaxis.set_minor_formatter("")
        for column, problem in enumerate(names):
            _draw_reference(axes[:, column], records, f"{problem}_reference")
        for row in axes:
            row[0].set_ylabel(r"relative error of $dL/d\theta$")
        axes[0][0].legend()
    return figure


def findings(records: list[Record]) -> str:
    """Say what the common steps of a mini-batch cost beside steps of each image's own."""
    values = {(r.row, r.metric): r.value for r in records if r.status == "ok"}
    together, alone, own_steps = BATCHES
    counts = [m for row, m in values if row == together and m.startswith("nfe_")]
    if not counts:
        return ""
    tolerance = min((count.removeprefix("nfe_") for count in counts), key=float)
    nfe, time = f"nfe_{tolerance}", f"time_{tolerance}"
    text = (
        f"At {tolerance}, a mini-batch of {values[together, 'images']:.0f} images that is one "
        f"equation takes {values[together, nfe]:.1f} evaluations. Solved one by one, an image "
        f"takes {values[alone, nfe]:.1f} on average, and all together "
        f"{values[alone, time]:.1f} times as long. "
    )
    if (own_steps, nfe) not in values:
        return text + "Own steps in a common call, which torchode takes, were not measured."
    return text + (
        "In torchode, which gives each image its own steps in a common call, it takes "
        f"{values[own_steps, nfe]:.1f} evaluations, and all together "
        f"{values[own_steps, time]:.1f} times as long."
    )


def _draw_reference(axes: Any, records: list[Record], row: str) -> None:
    """Draw how far the reference itself may be off, where that is known."""
    for r in records:
        if (r.row, r.metric) == (row, "theta"):
            for axis in axes:
                axis.axhline(r.value, color="#555555", linestyle="--", linewidth=1)
                # Below its line, where no mark is: an error that small could not be told.
                axis.annotate(
                    "how far the reference may be off",
                    (0.02, r.value),
                    (0, -4),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    va="top",
                    fontsize=11,
                )
                axis.set_ylim(bottom=r.value / 3)


def _by_tolerance(records: list[Record], row: str, quantity: str) -> dict[int, float]:
    start = f"{quantity}_1e-"
    return {
        int(r.metric.removeprefix(start)): r.value
        for r in records
        if r.row == row and r.metric.startswith(start)
    }


@dataclass(frozen=True)
class _Problem:
    """A system, its start and end, and the same field as a module."""

    field: "Callable[[], nn.Module]"
    theta: "np.ndarray[Any, Any]"
    z0: "np.ndarray[Any, Any]"
    end: float
    system: Any


def _problem(name: str) -> _Problem:
    import numpy as np
    import torch
    from torch import nn

    from reproduce.sensitivities import System

    cubic = name == "spiral"

    class Field(nn.Module):
        """z' = A z, or z' = z³ A with row vectors."""

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.from_numpy(theta.reshape(2, 2).copy()))

        def forward(self, t: "Tensor", z: "Tensor") -> "Tensor":
            return z**3 @ self.a if cubic else self.a @ z

    def field(z: Any, p: Any) -> Any:
        a = p.reshape(2, 2)
        return z**3 @ a if cubic else a @ z

    def by_state(z: Any, p: Any) -> Any:
        a = p.reshape(2, 2)
        return a.T * (3 * z**2) if cubic else a

    def by_parameters(z: Any, p: Any) -> Any:
        return np.kron(z**3, np.eye(2)).reshape(2, 4) if cubic else np.kron(np.eye(2), z)

    if cubic:
        theta, z0, end = np.array([-0.1, 2.0, -2.0, -0.1]), np.array([2.0, 0.0]), 2.0
    else:
        theta, z0, end = np.array([-0.1, 1.0, -0.2, -0.1]), np.array([1.0, 0.5]), 5.0
    return _Problem(Field, theta, z0, end, System(field, by_state, by_parameters))


def _system_row(name: str, method: str, tolerances: list[float]) -> dict[str, float]:
    """Return errors and evaluations by tolerance, and slopes."""
    import numpy as np

    problem = _problem(name)
    at_end, several = np.array([0.0, problem.end]), np.linspace(0.0, problem.end, 4)
    weight = np.array([[0.0, 0.0], [1.0, 0.4], [-0.3, 0.8], [0.6, -1.0]])
    values: dict[str, float] = {}
    for tolerance in tolerances:
        key = f"1e-{round(-math.log10(tolerance))}"
        found, evaluations = _solved(problem, method, tolerance, at_end, weight[[0, 3]])
        for quantity, error in _errors(problem, found, at_end, weight[[0, 3]]).items():
            values[f"{quantity}_{key}"] = error
        values[f"nfe_{key}"] = evaluations
        found, _ = _solved(problem, method, tolerance, several, weight)
        values[f"several_{key}"] = max(_errors(problem, found, several, weight).values())
    return values | _slopes(values, tolerances)


def _solved(
    problem: _Problem, method: str, tolerance: float, times: Any, weight: Any
) -> tuple[dict[str, Any], int]:
    """Return the gradients of the loss Σ weight · state, and the evaluations."""
    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    field = problem.field()
    z0 = torch.from_numpy(problem.z0.copy()).requires_grad_()
    ticks = torch.from_numpy(times.copy())
    if method != "checkpoint":  # which offers no gradient by times
        ticks.requires_grad_()
    settings = SolverSettings(rtol=tolerance, atol=tolerance, max_steps=100_000, **METHODS[method])
    solution = odeint(field, z0, ticks, settings)
    (solution.ys * torch.from_numpy(weight)).sum().backward()
    (theta,) = field.parameters()
    found = {"z0": _array(z0.grad), "theta": _array(theta.grad).ravel()}
    if ticks.grad is not None:
        found["times"] = _array(ticks.grad)
    return found, solution.stats.nfe_forward + solution.stats.nfe_backward


def _array(tensor: "Tensor | None") -> Any:
    assert tensor is not None
    return tensor.detach().numpy()


def _errors(problem: _Problem, found: dict[str, Any], times: Any, weight: Any) -> dict[str, float]:
    from reproduce.sensitivities import gradient

    true = gradient(problem.system, problem.z0, problem.theta, times, weight)
    errors = {
        "z0": _relative(found["z0"], true.z0),
        "theta": _relative(found["theta"], true.theta),
    }
    if "times" in found:
        errors["t0"] = _relative(found["times"][:1], true.times[:1])
        errors["t1"] = _relative(found["times"][1:], true.times[1:])
    return errors


def _relative(found: Any, true: Any) -> float:
    import numpy as np

    # Below the last digit there is nothing to measure, and a logarithm needs a number.
    return max(float(np.linalg.norm(found - true) / np.linalg.norm(true)), 1e-16)


def _slopes(
    values: dict[str, float], tolerances: list[float], reference: dict[str, float] | None = None
) -> dict[str, float]:
    """Return slopes over the tolerances whose errors are well above those of the reference."""
    from reproduce import statistics

    found = {}
    for quantity in (*QUANTITIES, "several"):
        errors = {t: values.get(f"{quantity}_1e-{round(-math.log10(t))}") for t in tolerances}
        least = TRUSTED * (reference or {}).get(quantity, 0.0)
        kept = {t: error for t, error in errors.items() if error is not None and error > least}
        if len(kept) >= 3:
            slope = statistics.exponent(list(kept), list(kept.values()))
            found[f"{quantity}_slope"] = slope.value
            found[f"{quantity}_slope_low"] = slope.low
            found[f"{quantity}_slope_high"] = slope.high
    return found


def _judged(
    values: dict[str, dict[str, float]], tolerances: list[float]
) -> dict[str, dict[str, float]]:
    """Return the rows that claims name: the larger error of both problems."""
    from reproduce import statistics

    def worst(quantities: tuple[str, ...], tolerance: float) -> float:
        key = f"1e-{round(-math.log10(tolerance))}"
        rows = [values[f"{problem}_adjoint"] for problem in PROBLEMS]
        return max(row[f"{quantity}_{key}"] for row in rows for quantity in quantities)

    tightest = tolerances[-1]
    slope = statistics.exponent(tolerances, [worst(("z0", "theta"), t) for t in tolerances])
    return {
        "adjoint": {
            "relative_error": worst(("z0", "theta"), tightest),
            "error_slope": slope.value,
            "error_slope_low": slope.low,
            "error_slope_high": slope.high,
        },
        "adjoint_start_time": {"relative_error": worst(("t0",), tightest)},
        "adjoint_end_time": {"relative_error": worst(("t1",), tightest)},
        "adjoint_several_times": {"relative_error": worst(("several",), tightest)},
    }


def _net_rows(
    ctx: Context, net: "Trained", tolerances: list[float]
) -> dict[str, dict[str, float]]:
    """Return the rows of the trained ODE-Net, in float64."""
    import torch
    import torch.nn.functional as F

    from lightning_modules.solvers import SolverSettings, odeint
    from reproduce.digits import test_images

    stem, field, head = net.parts("cpu", torch.float64)
    images, labels = test_images(ctx.data_root, "cpu", IMAGES)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with torch.no_grad():
        features = stem(images.double())

    def gradient(tolerance: float, **settings: Any) -> tuple[dict[str, Any], int]:
        start = features.clone().requires_grad_()
        field.zero_grad()
        given = SolverSettings(rtol=tolerance, atol=tolerance, max_steps=100_000, **settings)
        solution = odeint(field, start, times, given)
        F.cross_entropy(head(solution.ys[-1]), labels).backward()
        theta = torch.cat([_filled(p).ravel() for p in field.parameters()])
        found = {"z0": _array(start.grad), "theta": theta.numpy()}
        return found, solution.stats.nfe_forward + solution.stats.nfe_backward

    exact = {"backend": "native", "gradient": "checkpoint"}
    rough, true = (gradient(tolerance, **exact)[0] for tolerance in NET_REFERENCE)
    reference = {quantity: _relative(rough[quantity], true[quantity]) for quantity in true}
    rows: dict[str, dict[str, float]] = {"odenet_reference": reference}
    for method, given in METHODS.items():
        values: dict[str, float] = {}
        for tolerance in tolerances:
            key = f"1e-{round(-math.log10(tolerance))}"
            found, values[f"nfe_{key}"] = gradient(tolerance, **given)
            for quantity in true:
                values[f"{quantity}_{key}"] = _relative(found[quantity], true[quantity])
        rows[f"odenet_{method}"] = values | _slopes(values, tolerances, reference)
    net.parts("cpu")
    return rows


def _filled(parameter: "nn.Parameter") -> "Tensor":
    assert parameter.grad is not None
    return parameter.grad.detach().clone()


def _batch_rows(
    ctx: Context, net: "Trained", batch: int, tolerances: list[float]
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return evaluations and time of each way to step a mini-batch, and what was skipped."""
    import torch

    from lightning_modules.solvers import SolverSettings, odeint
    from reproduce.digits import test_images
    from reproduce.peers import Skip, torchode_steps
    from reproduce.timing import interleave

    stem, field, _ = net.parts("cpu")
    times = torch.tensor([0.0, 1.0])
    images, _ = test_images(ctx.data_root, "cpu", batch)
    rows: dict[str, dict[str, float]] = {}
    skipped: dict[str, str] = {}
    with torch.no_grad():
        features = stem(images)
        for tolerance in tolerances:
            settings = SolverSettings(backend="native", rtol=tolerance, atol=tolerance)

            def evaluations(y: "Tensor", settings: SolverSettings = settings) -> int:
                return odeint(field, y, times, settings).stats.nfe_forward

            def of_torchode(tolerance: float = tolerance) -> float:
                # As many evaluations a step as dopri5 has new slopes, and two for the first step.
                return 2 + 6 * float(torchode_steps(field, features, tolerance).float().mean())

            work = {
                "batch_shared": lambda: float(evaluations(features)),
                "batch_alone": lambda: sum(map(evaluations, features.split(1))) / batch,
                "batch_torchode": of_torchode,
            }
            found: dict[str, float] = {}
            for row, solve in list(work.items()):
                try:
                    found[row] = solve()
                except Skip as reason:
                    skipped[row] = str(reason)
                    del work[row]
            timings = interleave(work, rounds=3, warm_up=0)
            for row, nfe in found.items():
                name = f"{tolerance:.0e}".replace("e-0", "e-")
                values = rows.setdefault(row, {"images": batch})
                values[f"nfe_{name}"] = nfe
                values[f"time_{name}"] = timings[row].ratio_to(timings["batch_shared"])
    return rows, skipped


def _unit(metric: str) -> str:
    return "evaluations" if metric.startswith("nfe") else ""
