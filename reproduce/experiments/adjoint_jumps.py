"""The adjoint state jumps by dL/dz(t) at every observation, and ends as the gradient (Figure 2).

z' = W z from (1, 0), W = [[-0.1, 1], [-0.2, -0.1]], is the deck's adjoint example, whose target
x = (0, 1/2) is asked for here at t = 5, 10, 15, 20 and 25. L is the sum of |z(t_i) - x|². Then

    a(t) = Σ over t_i ≥ t of exp(Wᵀ (t_i - t)) dL/dz(t_i),  dL/dz(t_i) = 2 (z(t_i) - x),

with SciPy's matrix exponential, and dL/dW by its Fréchet derivative. The suite's adjoint is
watched step by step while it solves backwards (Algorithm 1); native tsit5, which lands on the
observations, where dopri5 would step beyond and interpolate.

Rows:

- `adjoint_<tolerance>`: absolute and relative tolerance alike. `a_error`, largest error of a at
  the starts and ends of all steps, over the largest |a|; `jump_error_<i>`, that of the jump at the
  i-th observation, and `z0_error`, `theta_error`, those of dL/dz(0) and dL/dW, each over the
  largest number of its own; `steps`, backward.
- `adjoint`: at 1e-10 the `loss`, the jumps `jump_<i>_1`, `jump_<i>_2`, the gradients `z0_1`,
  `z0_2` and `w_11` to `w_22`, as the suite has them.

Deviations:

1. The paper's Figure 2 is a sketch without numbers; system and observations are ours.
2. The deck's slide has h' = W h, its code h' = h W, which is another system; this is the slide's.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_modules.solvers.watching import Step

Array = np.ndarray[Any, np.dtype[np.float64]]

PROTOCOL = 1
TRAINS = False
W = np.array([[-0.1, 1.0], [-0.2, -0.1]])
START, TARGET = np.array([1.0, 0.0]), np.array([0.0, 0.5])
OBSERVED = (5.0, 10.0, 15.0, 20.0, 25.0)
TOLERANCES = ("1e-3", "1e-6", "1e-10")
SHOWN = "1e-3"  # whose steps the figure shows: few enough to be told apart
PROFILES = {
    name: Profile({}, seeds=1, minutes=0.1) for name in ("smoke", "quick", "short", "paper")
}


def run(ctx: Context) -> list[Record]:
    """Watch the adjoint at every tolerance; all rows are written together."""
    values: dict[str, dict[str, float]] = {}
    for name in TOLERANCES:
        watched = watch(float(name))
        values[f"adjoint_{name}"] = errors(watched)
    values["adjoint"] = _numbers(watched)
    settings = {"w": W.tolist(), "observed": OBSERVED, "tolerances": TOLERANCES}
    return ctx.keep(
        "adjoint_jumps",
        PROTOCOL,
        values,
        settings,
        budget=f"t in [0, {OBSERVED[-1]:g}]",
        unit=lambda metric: "steps" if metric == "steps" else "",
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per tolerance."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.row != "adjoint"])
    wide = frame.pivot_table(index="row", columns="metric", values="value")
    return wide.reindex([f"adjoint_{name}" for name in TOLERANCES])


def plot(records: list[Record]) -> "Figure":
    """The state forwards in time, and below it the adjoint backwards, with its jumps."""
    from reproduce import plotting

    found = {r.metric: r.value for r in records if r.row == f"adjoint_{SHOWN}"}
    with plotting.style():
        figure, (above, below) = plotting.slide(2, 1, sharex=True)
        _draw_states(above)
        _draw_adjoint(below, watch(float(SHOWN)))
        below.set_title(
            f"a(t), backwards: {found['steps']:.0f} steps at tolerance {SHOWN} (marks), "
            f"off by {100 * found['a_error']:.1f} % of the largest |a|",
            fontsize=14,
        )
        below.set_xlabel("time t")
    return figure


@dataclass(frozen=True)
class Watched:
    """What the suite's adjoint did.

    Args:
        loss: The loss.
        steps: Steps taken backwards, in their order, each with the states (time, a) at its ends.
        jumps: By how much a jumps at the observations, ``(observations, 2)``, the first in time
            first.
        z0: dL/dz(0), ``(2,)``.
        theta: dL/dW, ``(2, 2)``.
    """

    loss: float
    steps: list[tuple[tuple[float, Array], tuple[float, Array]]]
    jumps: Array
    z0: Array
    theta: Array


def watch(tolerance: float) -> Watched:
    """Solve forwards, and look on while the adjoint solves backwards."""
    import torch
    from torch import Tensor, nn

    from lightning_modules.solvers import SolverSettings, odeint, watch_steps

    class Linear(nn.Module):
        """z' = W z."""

        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.from_numpy(W.copy()))

        def forward(self, t: Tensor, z: Tensor) -> Tensor:
            return self.w @ z

    field = Linear()
    taken: list[Step] = []
    z0 = torch.from_numpy(START.copy()).requires_grad_()
    times = torch.tensor([0.0, *OBSERVED], dtype=torch.float64)
    settings = SolverSettings(
        "native", "tsit5", rtol=tolerance, atol=tolerance, gradient="adjoint"
    )
    states = odeint(field, z0, times, settings).ys
    loss = (states[1:] - torch.from_numpy(TARGET)).square().sum()
    with watch_steps(taken.append):
        loss.backward()
    assert z0.grad is not None
    assert field.w.grad is not None
    steps = [_ends(step) for step in taken if step.accepted]
    return Watched(loss.item(), steps, _jumps(steps), z0.grad.numpy(), field.w.grad.numpy())


def state(t: float) -> Array:
    """Return z(t) = exp(W t) z(0), ``(2,)``."""
    from scipy.linalg import expm

    found: Array = expm(W * t) @ START
    return found


def cotangents() -> Array:
    """Return dL/dz(t_i) = 2 (z(t_i) - x), ``(observations, 2)``."""
    return 2 * (np.stack([state(t) for t in OBSERVED]) - TARGET)


def adjoint(t: float, *, jumped: bool = True) -> Array:
    """Return a(t) in closed form, ``(2,)``.

    Args:
        t: Time.
        jumped: At an observation, whether its own jump counts, as it does before it in time.
    """
    from scipy.linalg import expm

    parts = [
        expm(W.T * (at - t)) @ cotangent
        for at, cotangent in zip(OBSERVED, cotangents(), strict=True)
        if at > t or (jumped and at == t)
    ]
    return np.sum(parts, axis=0) if parts else np.zeros(2)


def by_weights() -> Array:
    """Return dL/dW, ``(2, 2)``, by the Fréchet derivative of the matrix exponential."""
    from scipy.linalg import expm_frechet

    found = np.zeros((2, 2))
    for i, j in np.ndindex(2, 2):
        direction = np.zeros((2, 2))
        direction[i, j] = 1.0
        for t, cotangent in zip(OBSERVED, cotangents(), strict=True):
            change = expm_frechet(W * t, direction * t, compute_expm=False)
            found[i, j] += cotangent @ change @ START
    return found


def errors(watched: Watched) -> dict[str, float]:
    """Return how far everything that was watched is from its closed form."""
    missed, largest = 0.0, 0.0
    for (t0, a0), (t1, a1) in watched.steps:
        # A step begins behind the jump at its start, and ends before that at its end.
        for t, a, jumped in ((t0, a0, True), (t1, a1, False)):
            exact = adjoint(t, jumped=jumped)
            missed = max(missed, float(np.abs(a - exact).max()))
            largest = max(largest, float(np.abs(exact).max()))
    values = {"a_error": missed / largest, "steps": float(len(watched.steps))}
    pairs = zip(watched.jumps, cotangents(), strict=True)
    values |= {f"jump_error_{i}": _relative(*pair) for i, pair in enumerate(pairs, start=1)}
    values["z0_error"] = _relative(watched.z0, adjoint(0.0))
    values["theta_error"] = _relative(watched.theta, by_weights())
    return values


def _ends(step: "Step") -> tuple[tuple[float, Array], tuple[float, Array]]:
    """Return time and adjoint at both ends of a step; its vector holds [z, a, dL/dW so far]."""
    start, end = step.y0[2:4].numpy(), step.y1[2:4].numpy()
    # Steps land on observations to rounding.
    near = [t for t in (0.0, *OBSERVED) if abs(t - (step.t + step.dt)) < 1e-9]
    return (step.t, start), (near[0] if near else step.t + step.dt, end)


def _jumps(steps: list[tuple[tuple[float, Array], tuple[float, Array]]]) -> Array:
    """Return what is added to a between the step that ends at an observation and the next."""
    found = {steps[0][0][0]: steps[0][0][1]}  # a is zero behind the last observation
    for (_, (t, before)), ((_, behind), _) in pairwise(steps):
        if t in OBSERVED:
            found[t] = behind - before
    return np.stack([found[t] for t in OBSERVED])


def _relative(found: Array, exact: Array) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def _numbers(watched: Watched) -> dict[str, float]:
    """Return loss, jumps and gradients as the suite has them."""
    values = {"loss": watched.loss}
    for i, jump in enumerate(watched.jumps, start=1):
        values |= {f"jump_{i}_{k}": float(jump[k - 1]) for k in (1, 2)}
    values |= {f"z0_{k}": float(watched.z0[k - 1]) for k in (1, 2)}
    return values | {f"w_{i + 1}{j + 1}": float(watched.theta[i, j]) for i, j in np.ndindex(2, 2)}


_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "linestyle": "-"},
    {"color": "#D55E00", "linestyle": "--"},
)


def _draw_states(axes: "Axes") -> None:
    """Show both numbers of the state, and what was observed of them."""
    times = np.linspace(0, OBSERVED[-1], 501)
    states = np.stack([state(t) for t in times])
    for k, look in enumerate(_LOOKS):
        axes.plot(times, states[:, k], label=f"z{'₁₂'[k]}", **look)
        marks: dict[str, Any] = {"marker": "x+"[k], "linestyle": "none", "markeredgewidth": 2.5}
        marks |= {"color": look["color"], "markersize": 11}
        axes.plot(OBSERVED, [TARGET[k]] * len(OBSERVED), label=f"x{'₁₂'[k]}", **marks)
    axes.set_title("z(t), forwards, and the observed x (crosses)", fontsize=14)
    axes.set_ylabel("state z")
    _mark(axes)


def _draw_adjoint(axes: "Axes", watched: Watched) -> None:
    """Show both numbers of the adjoint, the steps of the solver, and the jumps as arrows."""
    for start, end in pairwise((0.0, *OBSERVED)):
        times = np.linspace(start, end, 101)[1:]
        inside = np.stack([adjoint(start, jumped=False), *(adjoint(t) for t in times)])
        for k, look in enumerate(_LOOKS):
            label = f"a{'₁₂'[k]}" if start == 0 else None
            axes.plot([start, *times], inside[:, k], label=label, **look)
    for k, look in enumerate(_LOOKS):
        points = [(t, a[k]) for ends in watched.steps for t, a in ends]
        circles: dict[str, Any] = {"marker": "os"[k], "linestyle": "none", "markersize": 6}
        circles |= {"color": look["color"], "markerfacecolor": "none"}
        axes.plot(*zip(*points, strict=True), **circles)
        for t in OBSERVED:
            arrow = {"arrowstyle": "-|>", "color": look["color"], "linewidth": 2.5, "shrinkA": 0}
            tip, tail = float(adjoint(t)[k]), float(adjoint(t, jumped=False)[k])
            # A short arrow has a small head, lest it be all head.
            small = {"mutation_scale": 8, "linewidth": 1.5} if abs(tip - tail) < 0.3 else {}
            props = {**arrow, "mutation_scale": 16, **small, "shrinkB": 0}
            axes.annotate("", (t, tip), (t, tail), arrowprops=props)
    axes.set_ylabel("adjoint a = dL/dz")
    _mark(axes)


def _mark(axes: "Axes") -> None:
    """Show where observations are, and name the lines."""
    axes.grid(False)
    axes.axhline(0, color="#AAAAAA", linewidth=1, zorder=0)
    for t in OBSERVED:
        axes.axvline(t, color="#AAAAAA", linewidth=1, linestyle=":", zorder=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
