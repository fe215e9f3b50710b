"""What an ODE-Net's training step costs, by solver and gradient, beside the public example's.

Times forward and backward of the classifier with the `conv` stem on a batch of 128, all
alternatives once a round on the same weights and images, at tolerance 1e-3 with dopri5. Ratios are
medians over rounds of the time divided by that of `example_adjoint` in the same round; times count
on this machine only. Evaluations stand beside them: a ratio counts where they are equal.
`ratio_to_direct` is the mean over rounds of the time divided by that of the same backend's direct
gradient, with its 95 % interval (claim C24).

- `example_adjoint`: torchdiffeq's `odeint_adjoint` and a field that concatenates time as a
  channel, both as in the authors' public example: what the others are divided by.
- `torchdiffeq_…` and `native_…`: our interface and our field, by backend and gradient.
- `captured_…`: what `native` does, recorded once as CUDA graphs and replayed; recording is not
  timed. Without a GPU it is `native` itself, so its rows are skipped; where a step cannot be
  recorded, its row says why.
- `field_floor`: the field alone, as often as `native_checkpoint` evaluates it: forward without a
  graph, then with a graph and its vector-Jacobian product, and the stem and head once. No solver
  that evaluates the field as often in this way can be faster; a captured solve can, since the host
  makes fewer calls.
- `convolution_floor`: the same with the field's two convolutions alone.

Besides, the operators of `native_checkpoint` are profiled: which part of the step convolutions,
normalisations, rectifiers, the solver's sums over stages and copies take; on a GPU, which part of
the time of its kernels.

Deviations: none, the paper measured no time. Images are uniform noise and weights are as drawn,
which changes no cost but the number of evaluations.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from reproduce.context import Context, Profile
from reproduce.records import Failed, Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor, nn

PROTOCOL = 1
TRAINS = False
REFERENCE = "example_adjoint"
OURS = {
    "torchdiffeq_direct": ("torchdiffeq", "direct"),
    "torchdiffeq_adjoint": ("torchdiffeq", "adjoint"),
    "native_direct": ("native", "direct"),
    "native_checkpoint": ("native", "checkpoint"),
    "native_adjoint": ("native", "adjoint"),
}
CAPTURED = {
    "captured_checkpoint": ("captured", "checkpoint"),
    "captured_adjoint": ("captured", "adjoint"),
}
NEEDS_A_GPU = "needs a GPU: elsewhere the backend captured is native itself"
FLOORS = ("field_floor", "convolution_floor")
ROWS = (REFERENCE, *OURS, *CAPTURED, *FLOORS)
PROFILED = "native_checkpoint"
OPERATORS = {
    "convolutions": ("mkldnn_convolution", "convolution_backward", "_slow_conv2d", "cudnn_conv"),
    "normalisations": ("native_group_norm",),
    "rectifiers": ("clamp_min", "threshold", "relu"),
    "sums_over_stages": ("addmv", "mv", "sum"),
    "copies": ("copy_",),
}
TOLERANCE = 1e-3
BATCH = 128

PROFILES = {
    "smoke": Profile({"rounds": 2, "batch": 4}, seeds=1, minutes=0.2),
    "quick": Profile({"rounds": 15, "batch": BATCH}, seeds=1, minutes=2),
    "short": Profile({"rounds": 40, "batch": BATCH}, seeds=1, minutes=5),
    "paper": Profile({"rounds": 40, "batch": BATCH}, seeds=1, minutes=5),
}


def run(ctx: Context) -> list[Record]:
    """Time every alternative; write all rows at the end, since they only count together."""
    import torch

    from reproduce.statistics import mean_interval
    from reproduce.timing import interleave, shares

    settings = {**PROFILES[ctx.profile].overrides, "device": ctx.device}
    rounds, batch = settings["rounds"], settings["batch"]
    torch.manual_seed(0)
    images = torch.rand(batch, 1, 28, 28, device=ctx.device)
    labels = torch.randint(10, (batch,), device=ctx.device)
    captured = CAPTURED if images.is_cuda else {}
    steps = {name: _step(name, images, labels) for name in (REFERENCE, *OURS, *captured)}
    refused = {name: why for name in captured if (why := _refusal(steps[name]))}
    for name in refused:
        del steps[name]
    evaluations = {name: step() for name, step in steps.items()}
    work: dict[str, Callable[[], object]] = {**steps}
    for name in FLOORS:
        evaluations[name] = evaluations["native_checkpoint"]
        work[name] = _floor(name, images, labels, *evaluations[name])
    timings = interleave(work, rounds)
    parts = shares(steps[PROFILED], OPERATORS)
    values: dict[str, dict[str, float | Failed]] = {}
    for name, timing in timings.items():
        forward, backward = evaluations[name]
        values[name] = {
            "step_ms": 1e3 * timing.median,
            "step_spread_ms": 1e3 * timing.spread,
            "ratio": timing.ratio_to(timings[REFERENCE]),
            "nfe_forward": forward,
            "nfe_backward": backward,
        }
        backend, _, gradient = name.partition("_")
        direct = timings.get(f"{backend}_direct")
        if direct is not None and gradient != "direct":
            ratio = mean_interval(timing.ratios_to(direct))
            values[name] |= {
                "ratio_to_direct": ratio.value,
                "ratio_to_direct_low": ratio.low,
                "ratio_to_direct_high": ratio.high,
            }
    values[PROFILED] |= {f"share_{kind}": 100 * part for kind, part in parts.items()}
    values |= {name: {"all": Failed("error", why)} for name, why in refused.items()}
    budget = f"{rounds} rounds, batch {batch}, tolerance {TOLERANCE:g}"
    skipped = {name: NEEDS_A_GPU for name in CAPTURED if name not in captured}
    return ctx.keep(
        "step_time",
        PROTOCOL,
        values,
        settings,
        budget=budget,
        unit=_unit,
        skipped=skipped,
        instead_of=ROWS,
    )


def _refusal(step: Callable[[], object]) -> str:
    """Return why a step is solved natively after all; empty where it is recorded, by now."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* is solved step by step")
        try:
            for _ in range(2):  # the second is recorded
                step()
        except UserWarning as reason:
            return str(reason)
    return ""


def _unit(metric: str) -> str:
    if metric.startswith("nfe"):
        return "evaluations"
    if metric.startswith("share"):
        return "%"
    return "ms" if metric.endswith("_ms") else ""


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per alternative: milliseconds, ratio and evaluations."""
    from reproduce.records import to_frame

    measured = [r for r in records if r.status == "ok" and not r.metric.startswith("share_")]
    frame = to_frame(measured)
    wide = frame.pivot_table(index="row", columns="metric", values="value")
    return wide.reindex([row for row in ROWS if row in wide.index])


def plot(records: list[Record]) -> "Figure":
    """Bars of the ratios to the public example's step; below, where the checkpoint step goes."""
    from reproduce import plotting

    ratios = {r.row: r.value for r in records if r.metric == "ratio"}
    shares = {r.metric[6:]: r.value for r in records if r.metric.startswith("share_")}
    with plotting.style():
        figure, axes = plotting.subplots(
            rows=2, size=(10.0, 4.5), height_ratios=(len(ratios), len(shares))
        )
        colour = plotting.OKABE_ITO["blue"]
        by_row = {row.replace("_", ", "): ratios[row] for row in ROWS if row in ratios}
        _bars(axes[0], by_row, "%.2f", colour)
        axes[0].set_xlabel("time of a training step, relative to the public example's")
        by_kind = {kind.replace("_", " "): share for kind, share in shares.items()}
        _bars(axes[1], by_kind, "%.0f %%", colour)
        axes[1].set_xlabel(f"time in operators of {PROFILED.replace('_', ', ')}, %")
        figure.suptitle("ODE-Net on MNIST, " + records[0].budget)
    return figure


def _bars(axes: "Axes", values: dict[str, float], text: str, colour: str) -> None:
    for place, value in enumerate(values.values()):
        axes.bar_label(axes.barh(place, value, height=0.6, color=colour), fmt=text, padding=4)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.margins(x=0.08)


def _step(name: str, images: "Tensor", labels: "Tensor") -> Callable[[], tuple[int, int]]:
    """Return a training step that returns its evaluations, forward and backward."""
    import torch.nn.functional as F

    from lightning_modules.solvers import collect_stats

    model = _example() if name == REFERENCE else _ours(*(OURS | CAPTURED)[name])
    model = model.to(images.device)
    own_count = getattr(model[1], "evaluations", None)

    def step() -> tuple[int, int]:
        model.zero_grad()
        with collect_stats() as solves:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
        if own_count is not None:
            return own_count()
        return sum(s.nfe_forward for s in solves), sum(s.nfe_backward for s in solves)

    return step


def _parts(field: "nn.Module") -> tuple["nn.Module", "nn.Module"]:
    """Return stem and head, and draw the field's weights: the same for every alternative."""
    import torch
    from torch import nn

    from lightning_modules.nets import build_head, build_stem

    torch.manual_seed(0)
    stem, head = build_stem("conv", 64, 32), build_head(64, 32, 10)
    for module in field.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return stem, head


def _ours(backend: str, gradient: str) -> "nn.Sequential":
    from torch import nn

    from lightning_modules.nets import ConvField, OdeBlock
    from lightning_modules.solvers import SolverSettings

    field = ConvField(64, 32)
    stem, head = _parts(field)
    settings = SolverSettings(
        backend=backend,
        rtol=TOLERANCE,
        atol=TOLERANCE,
        gradient=gradient,  # type: ignore[arg-type]
    )
    return nn.Sequential(stem, OdeBlock(field, settings), head)


def _example() -> "nn.Sequential":
    import torch
    import torchdiffeq
    from torch import nn

    from lightning_modules.nets import ConcatConvField

    class Counted(nn.Module):
        """The example's field with a counter, as the example itself has one."""

        def __init__(self) -> None:
            super().__init__()
            self.field = ConcatConvField(64, 32)
            self.count = 0

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.count += 1
            return self.field(t, y)

    class ExampleBlock(nn.Module):
        """The ODE block of the public example."""

        def __init__(self) -> None:
            super().__init__()
            self.odefunc = Counted()
            self.forward_count = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.odefunc.count = 0
            times = torch.tensor([0.0, 1.0], device=x.device)
            solve = torchdiffeq.odeint_adjoint
            out = solve(self.odefunc, x, times, rtol=TOLERANCE, atol=TOLERANCE, method="dopri5")
            self.forward_count = self.odefunc.count
            return out[1]

        def evaluations(self) -> tuple[int, int]:
            return self.forward_count, self.odefunc.count - self.forward_count

    block = ExampleBlock()
    stem, head = _parts(block)
    return nn.Sequential(stem, block, head)


def _floor(
    name: str, images: "Tensor", labels: "Tensor", forward: int, backward: int
) -> Callable[[], object]:
    """Return the same evaluations of field, stem and head without any solver."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    from lightning_modules.nets import ConvField

    class Convolutions(nn.Sequential):
        """Two convolutions of the field's size, called like a field."""

        def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(y)

    two = (nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))
    field = ConvField(64, 32) if name == "field_floor" else Convolutions(*two)
    stem, head = (part.to(images.device) for part in _parts(field))
    field.to(images.device)
    t = torch.tensor(0.5, device=images.device)
    parameters = tuple(field.parameters())

    def evaluate() -> None:
        state = stem(images)
        y = state.detach()
        with torch.no_grad():
            for _ in range(forward):
                field(t, y)
        for _ in range(backward):
            start = y.requires_grad_()
            dy = field(t, start)
            torch.autograd.grad(dy, (start, *parameters), torch.ones_like(dy))
        F.cross_entropy(head(state), labels).backward()

    return evaluate
