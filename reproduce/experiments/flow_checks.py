"""Theorem 1, reversal and cost of continuous flows: what is exact, checked; what costs, measured.

Rows:

- `theorem1`: `largest_difference` between log|det| as the solve of the trace has it and that of
  the flow map by automatic differentiation (float64, tolerance 1e-8; planar fields and perceptrons
  in 2 to 5 dimensions), and `mass`, the integral of the density of a random flow over the plane.
- `trace`: `largest_difference` between the trace of random fields, up to 10 dimensions, in closed
  form or by vector-Jacobian products, and that of their whole Jacobian.
- `hutchinson_rademacher`, `hutchinson_gaussian`: `bias`, the mean error of 20,000 estimates in
  standard errors, and `spread`, the standard deviation of one over the trace.
- `reversal`: `rms` between points and the same after going to the base and back at tolerance 1e-5,
  and `evaluations_ratio`, evaluations to the base over those from it; a value for every seed of
  the moons of `fig5`, which must have been trained.
- `width`: `time_exponent`, slope of log time of one evaluation with its trace over log width, 64
  to 512 units on 4,096 points, with the 95 % interval over rounds; `units_<M>`, that time over
  that at 64. The hypernetwork, which is asked once a step, is left out.
- `iteration_<who>`: `ratio`, time of a training iteration (512 points, 64 units, dopri5 at 1e-5,
  t from 0 to 10, forward and backward) over that of the public example, which differentiates for
  the trace and solves with torchdiffeq, in the same rounds; its `milliseconds`, which mean this
  machine alone; and `evaluations`, forward.
- `members_cnf`, `members_planar`: `ratio`, time of an iteration of 15 fits side by side (Figure 4,
  size 8, 512 points) over that of one.

Deviations: none, the paper measured none of this.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from lightning_modules import DensityModel
    from lightning_modules.nets import Flow, PlanarField

PROTOCOL = 1
TRAINS = False
WIDTHS = (8, 16, 32, 64, 128, 256, 512)
FITTED = tuple(width for width in WIDTHS if width >= 64)
POINTS = 512
EXAMPLE = "example"
PROFILES = {
    "smoke": Profile({"rounds": 2, "estimates": 200, "cells": 200}, seeds=1, minutes=0.5),
    "quick": Profile({"rounds": 15, "estimates": 20_000, "cells": 600}, seeds=1, minutes=1),
    "short": Profile({"rounds": 40, "estimates": 20_000, "cells": 600}, seeds=5, minutes=0.2),
    "paper": Profile({"rounds": 40, "estimates": 20_000, "cells": 600}, seeds=5, minutes=0.2),
}


def run(ctx: Context) -> list[Record]:
    """Check and measure everything; rows are written part by part."""
    given = PROFILES[ctx.profile].overrides
    settings = {**given, "device": "cpu"}
    checks: dict[str, Callable[[], dict[str, dict[str, float]]]] = {
        "exact": lambda: {"theorem1": _theorem(given["cells"]), "trace": _traces()},
        "hutchinson": lambda: _hutchinson(given["estimates"]),
        "width": lambda: {"width": _width(given["rounds"])},
        "iteration": lambda: _iterations(given["rounds"]),
        "members": lambda: _members(given["rounds"]),
    }
    records: list[Record] = []
    for check in checks.values():
        records += ctx.keep(
            "flow_checks", PROTOCOL, check(), settings, budget=_budget(given), unit=_unit
        )
    for seed, values in _reversals(ctx).items():
        records += ctx.keep(
            "flow_checks",
            PROTOCOL,
            {"reversal": values},
            {**settings, "seed": seed},
            budget=_budget(given),
            unit=_unit,
            seed=seed,
        )
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row and metric: mean over seeds."""
    from reproduce.records import to_frame

    frame = to_frame(records)
    return frame.groupby(["row", "metric"], sort=False)["value"].mean().to_frame()


def plot(records: list[Record]) -> "Figure":
    """Time against width, and training iterations beside the public example's."""
    from reproduce import plotting

    values = {(r.row, r.metric): r.value for r in records}
    with plotting.style():
        figure, (left, right) = plotting.subplots(1, 2, size=(6.0, 4.5))
        units = [values["width", f"units_{width}"] for width in WIDTHS]
        left.plot(WIDTHS, units, **plotting.method_style("cnf"))
        left.plot(FITTED, [w / FITTED[0] for w in FITTED], "--", color="#555555", label="O(M)")
        left.set_xscale("log", base=2)
        left.set_yscale("log", base=2)
        left.set_xlabel("width M")
        left.set_ylabel("time of f and its trace, M = 64 is 1")
        left.legend()
        rows = [row for row in ITERATIONS if (f"iteration_{row}", "ratio") in values]
        ratios = [values[f"iteration_{row}", "ratio"] for row in rows]
        bars = right.barh(range(len(rows)), ratios, color=plotting.OKABE_ITO["blue"])
        right.bar_label(bars, fmt="%.3f", padding=4)
        right.set_yticks(range(len(rows)), [ITERATIONS[row] for row in rows])
        right.invert_yaxis()
        right.margins(x=0.15)
        right.set_xlabel("time of a training iteration")
        figure.suptitle(records[0].budget, fontsize=11)
    return figure


ITERATIONS = {
    EXAMPLE: "public example\n(torchdiffeq,\ntrace by autograd)",
    "torchdiffeq": "closed form,\ntorchdiffeq",
    "adjoint": "closed form,\nnative adjoint",
    "native": "closed form,\nnative",
}


def _budget(given: dict[str, Any]) -> str:
    return f"{POINTS} points, {given['rounds']} rounds"


def _unit(metric: str) -> str:
    return {"evaluations": "evaluations", "milliseconds": "ms"}.get(metric, "")


def _random_flows() -> "list[Flow]":
    """Return continuous flows of both kinds in float64, with weights large enough to matter."""
    import torch

    from lightning_modules.nets import ContinuousFlow, PlanarField, TimeMLP, TracedField
    from lightning_modules.solvers import SolverSettings

    torch.manual_seed(0)
    tight = SolverSettings(backend="native", rtol=1e-8, atol=1e-8)
    flows: list[Flow] = []
    for dim in (2, 3, 5):
        planar = PlanarField(dim, 16, 32, [dim]).double()
        free = TracedField(TimeMLP(dim, 24, 2)).double()
        for field in (planar, free):
            with torch.no_grad():
                for parameter in field.parameters():
                    parameter.mul_(2.0)
            flows.append(ContinuousFlow(field, dim, 1, 1.0, tight))
    return flows


def _theorem(cells: int) -> dict[str, float]:
    """Return the largest difference from the flow map's own determinant, and the mass."""
    import torch

    largest = 0.0
    flows = _random_flows()
    for flow in flows:
        z = torch.randn(1, flow.dim, 6, dtype=torch.float64)
        for direction in (flow.push, flow.pull):
            # Points do not see each other, so the sum over them has all Jacobians at once.
            jacobian = torch.autograd.functional.jacobian(
                lambda v, d=direction: d(v)[0].sum(dim=2), z
            )
            of_points = jacobian[0, :, 0].permute(2, 0, 1)
            expected = torch.linalg.slogdet(of_points).logabsdet
            largest = max(largest, float((direction(z)[1][0] - expected).detach().abs().max()))
    return {"largest_difference": largest, "mass": _mass(flows[0], cells)}


def _mass(flow: "Flow", cells: int) -> float:
    """Return the integral of the density of a flow on the plane, by the midpoint rule."""
    import torch

    from reproduce.maps import grid

    half = 12.0
    points = grid(half, cells).double().view(-1, 2)
    with torch.no_grad():
        z, volume = flow.pull(points.T[None])
    log_density = -z.square().sum(dim=1) / 2 - math.log(2 * math.pi) + volume
    return float(log_density.exp().sum()) * (2 * half / cells) ** 2


def _traces() -> dict[str, float]:
    """Return the largest difference of any trace from that of the whole Jacobian."""
    import torch

    from lightning_modules.nets import PlanarField, TimeMLP, TracedField

    torch.manual_seed(1)
    largest, t = 0.0, torch.tensor(0.3, dtype=torch.float64)
    for dim in range(1, 11):
        fields = (PlanarField(dim, 8, 16, [dim]), TracedField(TimeMLP(dim, 16, 2)))
        for field in (f.double() for f in fields):
            y = torch.randn(1, dim + 1, 1, dtype=torch.float64)
            whole = torch.autograd.functional.jacobian(lambda v, f=field: f(t, v), y)
            expected = whole[0, :dim, 0, 0, :dim, 0].trace()
            largest = max(largest, abs(float((field(t, y)[0, dim, 0] - expected).detach())))
    return {"largest_difference": largest}


def _hutchinson(estimates: int) -> dict[str, dict[str, float]]:
    """Return bias in standard errors, and relative spread, of both kinds of noise."""
    import torch

    from lightning_modules.nets import TimeMLP, TracedField

    found = {}
    for kind in ("rademacher", "gaussian"):
        torch.manual_seed(2)
        net, t = TimeMLP(6, 24, 2).double(), torch.tensor(0.3, dtype=torch.float64)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(2.0)
        # The same point again and again: its estimates differ by their noise alone.
        y = torch.randn(1, 7, 1, dtype=torch.float64).expand(1, 7, estimates).contiguous()
        exact = float(TracedField(net)(t, y[:, :, :1])[0, 6, 0].detach())
        estimating = TracedField(net, kind)
        estimating.begin(y)
        with torch.no_grad():
            traces = estimating(t, y)[0, 6]
        error = float(traces.std()) / math.sqrt(estimates)
        bias = (float(traces.mean()) - exact) / error
        found[f"hutchinson_{kind}"] = {"bias": bias, "spread": float(traces.std()) / abs(exact)}
    return found


def _width(rounds: int) -> dict[str, float]:
    """Return the exponent of time over width, and the times themselves."""
    import torch

    from lightning_modules.nets import PlanarField
    from reproduce import statistics
    from reproduce.timing import interleave

    y = torch.randn(1, 3, 8 * POINTS, generator=torch.Generator().manual_seed(0))
    out, work = torch.empty_like(y), {}
    for width in WIDTHS:
        field = PlanarField(2, width, 32, [0])
        with torch.no_grad():
            c = tuple(part[0] for part in field.coefficients(torch.tensor([0.5])))
        work[str(width)] = lambda f=field, c=c: [f.slope(c, y, out) for _ in range(10)]
    timings = interleave(work, rounds)
    exponents = [
        statistics.exponent(FITTED, [timings[str(w)].seconds[k] for w in FITTED]).value
        for k in range(rounds)
    ]
    interval = statistics.mean_interval(exponents)
    units = {f"units_{w}": timings[str(w)].ratio_to(timings[str(FITTED[0])]) for w in WIDTHS}
    return units | {
        "time_exponent": interval.value,
        "time_exponent_low": interval.low,
        "time_exponent_high": interval.high,
    }


def _reversals(ctx: Context) -> dict[int, dict[str, float]]:
    """Return error and cost of going to the base and back, for every trained seed."""
    import torch

    from datamodules import PlaneData
    from lightning_modules import DensityModel
    from lightning_modules.solvers import collect_stats
    from reproduce.trained_flows import moons

    model, seeds = moons(ctx)
    points = PlaneData(test_points=POINTS).fixed("test")[0]
    found = {}
    for i, seed in list(enumerate(seeds))[: len(ctx.seeds)]:
        alone: DensityModel = model.only([i])
        with torch.no_grad(), collect_stats() as solves:
            there, _ = alone.net.pull(points.T[None])
            back, _ = alone.net.push(there)
        missed = (back[0].T - points).square().sum(dim=1).mean().sqrt()
        ratio = solves[0].nfe_forward / solves[1].nfe_forward
        found[seed] = {"rms": float(missed), "evaluations_ratio": ratio}
    return found


def _iterations(rounds: int) -> dict[str, dict[str, float]]:
    """Return the time of a training iteration of each way over that of the public example."""
    import torch
    from torch import nn

    from lightning_modules.nets import ContinuousFlow, PlanarField
    from lightning_modules.solvers import SolverSettings, collect_stats
    from reproduce.timing import interleave

    z = torch.randn(1, 2, POINTS, generator=torch.Generator().manual_seed(0))
    field = PlanarField(2, 64, 32, [0])
    ways: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        EXAMPLE: (_example(field), {"backend": "torchdiffeq"}),
        "torchdiffeq": (field, {"backend": "torchdiffeq"}),
        "adjoint": (field, {"backend": "native", "gradient": "adjoint"}),
        "native": (field, {"backend": "native"}),
    }
    work, evaluations = {}, {}
    for name, (one, given) in ways.items():
        settings = SolverSettings(rtol=1e-5, atol=1e-5, **given)
        flow = ContinuousFlow(one, 2, 1, 10.0, settings)
        work[name] = lambda flow=flow: _iterate(flow, z)
        with collect_stats() as solves:
            work[name]()
        evaluations[name] = solves[0].nfe_forward
    timings = interleave(work, rounds)
    return {
        f"iteration_{name}": {
            "ratio": timings[name].ratio_to(timings[EXAMPLE]),
            "milliseconds": 1e3 * timings[name].median,
            "evaluations": evaluations[name],
        }
        for name in ways
    }


def _members(rounds: int) -> dict[str, dict[str, float]]:
    """Return the time of 15 fits side by side over that of one."""
    import torch

    from lightning_modules import DensityModel
    from reproduce.timing import interleave

    work = {}
    for kind in ("cnf", "planar"):
        for targets in (["u1"], ["u1"] * 5 + ["u3"] * 5 + ["u4"] * 5):
            seeds = list(range(len(targets)))
            model = DensityModel(kind, "kl", size=8, targets=targets, member_seeds=seeds)
            batch = torch.randn(len(targets), POINTS, 2)
            work[f"{kind}_{len(targets)}"] = partial(_update, model, batch)
    timings = interleave(work, rounds)
    return {
        f"members_{kind}": {"ratio": timings[f"{kind}_15"].ratio_to(timings[f"{kind}_1"])}
        for kind in ("cnf", "planar")
    }


def _update(model: "DensityModel", batch: "Tensor") -> None:
    model.zero_grad()
    model.member_losses(batch).sum().backward()


def _iterate(flow: "Flow", z: "Tensor") -> None:
    flow.zero_grad()
    x, volume = flow.pull(z)
    (x.square().sum(dim=1) / 2 - volume).mean().backward()


def _example(field: "PlanarField") -> "nn.Module":
    """Return the same field as the public example computes it.

    Every unit has its own copy of the points and its own product with them, and the trace is
    differentiated coordinate by coordinate.
    """
    import torch
    from torch import nn

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                z = y[0, :2].T
                z = z if z.requires_grad else z.detach().requires_grad_()
                w, b, u, _ = (part[0, 0] for part in field.hyper(t.view(1)))
                copies = z.unsqueeze(0).repeat(len(w), 1, 1)
                hidden = torch.tanh(copies @ w.unsqueeze(2) + b.unsqueeze(2))
                dz = (hidden @ u.T.unsqueeze(1)).sum(dim=0)
                rows = [
                    torch.autograd.grad(dz[:, i].sum(), z, create_graph=True)[0][:, i]
                    for i in range(2)
                ]
            return torch.cat([dz.T, (rows[0] + rows[1])[None]])[None]

    return Example()
