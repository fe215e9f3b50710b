"""Euler steps of one field are residual blocks with shared weights, gradients too; Figure 1.

A perceptron f with 4 states and 16 tanh units, on a batch of 8, in float64: k Euler steps of
h' = f(h), k from 1 to 100, against a stack of k residual blocks h + f(h) that share one f and run
without a solver. Compared are outputs, and the gradients of their sum of squares by weights and
input.

Rows, differences in units of the machine epsilon 2⁻⁵² times the largest number compared:

- `unit_steps`: t in [0, k], a block is h + f(h), as in the paper's equation (1).
  `largest_difference` and `largest_gradient_difference` over all k.
- `unit_span`: t in [0, 1], a block is h + f(h) / k, as in the deck's code.
- `heun_steps`: the same blocks against Heun's steps of the same size, which they are not.
- `hundred_blocks`: `parameters_shared` and `parameters_own`, what 100 blocks have that share one f
  as the steps of a solver do, and what they have where each has its own, as in a ResNet.
- `residual_network`, `ode_network`: the two panels of Figure 1, redone for a random field f(t, h)
  of one state and seven inputs. Left five residual blocks h + f(l, h), l = 0 to 4; right bosh3 at
  1e-2 over [0, 5], every input by itself. `evaluations` of f over all inputs, which the circles
  show; `steps`, accepted and rejected; `gap`, the largest distance of the outputs from those of
  dopri5 at 1e-6, which the smooth paths are by.

A seed draws f, the batch and the field of Figure 1.

Deviations:

1. The deck calls `linspace(0, 1, 100)` a ResNet of 100 layers; it has 99 steps. Here k is steps.
2. The paper does not say of which networks its Figure 1 is, nor of which solver. dopri5 would be
   evaluated beyond t = 5, since it interpolates its outputs; bosh3 lands on them.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from reproduce import residual_paths
from reproduce.context import Context, Profile
from reproduce.progress import track
from reproduce.records import Record
from reproduce.residual_paths import DEPTH, INPUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor, nn


PROTOCOL = 1
TRAINS = False
SEEDED = True
STATES, UNITS, BATCH = 4, 16, 8
IN_EPSILONS = ("largest_difference", "largest_gradient_difference")
EPSILON = "ε"
SPANS = {"unit_steps": "euler", "unit_span": "euler", "heun_steps": "heun"}
PROFILES = {
    "smoke": Profile({"blocks": 10}, seeds=1, minutes=0.2),
    "quick": Profile({"blocks": 100}, seeds=1, minutes=0.2),
    "short": Profile({"blocks": 100}, seeds=1, minutes=0.2),
    "paper": Profile({"blocks": 100}, seeds=1, minutes=0.2),
}


def run(ctx: Context) -> list[Record]:
    """Compare steps with blocks, and solve both panels of Figure 1, seed by seed."""
    given = PROFILES[ctx.profile].overrides
    records: list[Record] = []
    for seed in ctx.seeds:
        records += ctx.keep(
            "resnet_euler",
            PROTOCOL,
            {**_compared(seed, given["blocks"]), **_parameters(seed), **_panels(seed)},
            {**given, "seed": seed},
            budget=f"1 to {given['blocks']} blocks",
            unit=_unit,
            seed=seed,
        )
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row, of the first seed."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.seed == records[0].seed])
    # Without its unit, 1e15 would be read as a difference of that size.
    frame["metric"] = frame["metric"].replace(
        {name: f"{name} [{EPSILON}]" for name in IN_EPSILONS}
    )
    return frame.pivot_table(index="row", columns="metric", values="value", sort=False)


def plot(records: list[Record]) -> "Figure":
    """Figure 1: a residual network's jumps, and the paths of the continuous field."""
    from reproduce import plotting

    seed = records[0].seed
    found = {(r.row, r.metric): r.value for r in records if r.seed == seed}
    with plotting.style():
        figure, (left, right) = plotting.slide(1, 2, sharex=True, sharey=True)
        _draw_jumps(left, seed)
        _draw_paths(right, seed)
        stages = f"stages of bosh3 at {residual_paths.TOLERANCE:g}, lines: dopri5 at 1e-6"
        for axes, row, name, below in (
            (left, "residual_network", "Residual network", "at every layer"),
            (right, "ode_network", "ODE network", stages),
        ):
            count = f"{found[row, 'evaluations']:.0f} evaluations"
            axes.set_title(f"{name}, {count}\n(circles: {below})", fontsize=15)
            axes.set_xlabel("hidden state h")
            axes.grid(False)
            axes.set_ylim(-0.2, DEPTH + 0.2)
        left.set_ylabel("depth, or time t")
        figure.suptitle(
            f"Random field of seed {seed}; rough stages lie off the tight paths that are drawn",
            fontsize=16,
        )
    return figure


def residual_network(f: "nn.Module", blocks: int, scale: float) -> "nn.Module":
    """Return blocks h + scale · f(h), one after another, that share one f."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = f

        def forward(self, h: "Tensor") -> "Tensor":
            out: Tensor = h + scale * self.f(h)
            return out

    return nn.Sequential(*(Block() for _ in range(blocks)))


def perceptron(seed: int) -> "tuple[nn.Module, Tensor]":
    """Return f and a batch of inputs, ``(8, 4)``."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    f = nn.Sequential(nn.Linear(STATES, UNITS), nn.Tanh(), nn.Linear(UNITS, STATES)).double()
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.normal_(std=1 / math.sqrt(UNITS), generator=generator)
    return f, torch.randn(BATCH, STATES, dtype=torch.float64, generator=generator)


def differences(
    f: "nn.Module", h0: "Tensor", blocks: int, method: str = "euler", end: float | None = None
) -> tuple[float, float]:
    """Return how far steps are from blocks, in outputs and in gradients, in epsilons.

    Args:
        f: What both evaluate.
        h0: Inputs.
        blocks: How many blocks, and steps.
        method: Of the steps.
        end: Of the time that the steps share; None is ``blocks``.
    """
    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    end = float(blocks) if end is None else end
    times = torch.linspace(0, end, blocks + 1, dtype=torch.float64)
    settings = SolverSettings("native", method)
    network = residual_network(f, blocks, end / blocks)
    by_steps = _with_gradients(f, h0, lambda h: odeint(_Field(f), h, times, settings).ys[-1])
    by_blocks = _with_gradients(f, h0, network)
    outputs, *gradients = (
        _in_epsilons(one, other) for one, other in zip(by_steps, by_blocks, strict=True)
    )
    return outputs, max(gradients)


@dataclass(frozen=True)
class _Field:
    """An autonomous field: f whatever the time."""

    f: "nn.Module"

    def __call__(self, t: "Tensor", h: "Tensor") -> "Tensor":
        out: Tensor = self.f(h)
        return out


def _with_gradients(
    f: "nn.Module", h0: "Tensor", follow: "Callable[[Tensor], Tensor]"
) -> "list[Tensor]":
    """Return outputs, and the gradients of their sum of squares by h0 and the weights of f."""
    import torch

    h = h0.clone().requires_grad_()
    out = follow(h)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), [h, *f.parameters()])]


def _in_epsilons(one: "Tensor", other: "Tensor") -> float:
    import torch

    unit = torch.finfo(other.dtype).eps * other.abs().max()
    return float((one - other).abs().max() / unit)


def _compared(seed: int, blocks: int) -> dict[str, dict[str, float]]:
    """Return the largest differences over all numbers of blocks."""
    f, h0 = perceptron(seed)
    values = {
        row: {"largest_difference": 0.0, "largest_gradient_difference": 0.0} for row in SPANS
    }
    for k in track(range(1, blocks + 1), "resnet_euler"):
        for row, method in SPANS.items():
            found = differences(f, h0, k, method, 1.0 if row == "unit_span" else None)
            for metric, value in zip(values[row], found, strict=True):
                values[row][metric] = max(values[row][metric], value)
    return values


def _parameters(seed: int) -> dict[str, dict[str, float]]:
    """Return the parameters of a hundred blocks, sharing one f or not."""
    f, _ = perceptron(seed)
    one = sum(p.numel() for p in residual_network(f, 1, 1.0).parameters())
    shared = sum(p.numel() for p in residual_network(f, 100, 1.0).parameters())
    return {"hundred_blocks": {"parameters_shared": shared, "parameters_own": 100 * one}}


def _panels(seed: int) -> dict[str, dict[str, float]]:
    """Return what both networks of Figure 1 cost, and how far their outputs are off."""
    discrete, at_blocks = residual_paths.jumps(seed)
    continuous, at_stages, steps = residual_paths.adaptive(seed)
    ends = residual_paths.smooth(seed)[-1]
    return {
        "residual_network": {
            "evaluations": len(at_blocks),
            "steps": DEPTH * len(INPUTS),
            "gap": float((discrete[-1] - ends).abs().max()),
        },
        "ode_network": {
            "evaluations": len(at_stages),
            "steps": steps,
            "gap": float((continuous[-1] - ends).abs().max()),
        },
    }


def _unit(metric: str) -> str:
    if metric.startswith("parameters"):
        return "parameters"
    if metric in IN_EPSILONS:
        return EPSILON
    return {"evaluations": "evaluations", "steps": "steps"}.get(metric, "")


def _draw_jumps(axes: "Axes", seed: int) -> None:
    """Show the states of every layer and the jumps between, and the field where layers are."""
    from reproduce.plotting import OKABE_ITO

    states, seen = residual_paths.jumps(seed)
    _draw_arrows(axes, seed, range(DEPTH))
    look: dict[str, Any] = {"arrowstyle": "-|>", "linewidth": 2, "mutation_scale": 16}
    for path in states.T.tolist():
        for layer, (h0, h1) in enumerate(pairwise(path)):
            arrow = {**look, "color": OKABE_ITO["blue"], "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", (h1, layer + 1), (h0, layer), arrowprops=arrow)
    _draw_circles(axes, seen)


def _draw_paths(axes: "Axes", seed: int) -> None:
    """Show the continuous paths, where the solver evaluated the field, and the field."""
    from reproduce.plotting import OKABE_ITO

    _draw_arrows(axes, seed, [k / 4 for k in range(4 * DEPTH + 1)])
    axes.plot(residual_paths.smooth(seed), residual_paths.grid(200), color=OKABE_ITO["vermillion"])
    _draw_circles(axes, residual_paths.adaptive(seed)[1])


def _draw_arrows(axes: "Axes", seed: int, depths: "Sequence[float]") -> None:
    """Show the field as arrows of one length over the plane of state and depth."""
    import torch

    field = residual_paths.field(seed)
    reach = torch.cat([residual_paths.smooth(seed), residual_paths.jumps(seed)[0]])
    h = torch.linspace(float(reach.min()) - 0.7, float(reach.max()) + 0.7, 25, dtype=torch.float64)
    look: dict[str, Any] = {"color": "#AAAAAA", "angles": "xy", "width": 0.003, "zorder": 1}
    for depth in depths:
        slopes = field(torch.tensor(float(depth), dtype=torch.float64), h.unsqueeze(1)).squeeze(1)
        # As long on the slide: a unit of depth is drawn longer than one of the state.
        length = (1 + (slopes * DEPTH / float(h[-1] - h[0])) ** 2).sqrt() * 25 / DEPTH
        at = torch.full_like(h, float(depth))
        axes.quiver(h, at, slopes / length, 1 / length, scale_units="xy", scale=1, **look)


def _draw_circles(axes: "Axes", seen: list[tuple[float, float]]) -> None:
    """Show where the field was evaluated."""
    t, h = zip(*seen, strict=True)
    axes.plot(h, t, "o", color="#000000", markerfacecolor="none", markersize=7, zorder=4)
