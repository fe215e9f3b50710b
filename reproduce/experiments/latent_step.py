"""What a latent ODE's training step costs, by solver and gradient, beside the public example's.

Times a whole step on 1,000 spirals of 100 evenly spaced points each (loss, backward, Adam), in
float32 with dopri5 at rtol 1e-7 and atol 1e-9, the example's solver. All alternatives once a
round; ratios are medians over rounds of the time divided by that of `example` in the same round.

- `example`: as the authors' public code does it. The recognition network is fed observation by
  observation in a loop that concatenates input and units and reads out every time; field with two
  hidden layers of 20; torchdiffeq differentiates through its own steps and interpolations;
  everything is decoded. Its weights are those of our model, which differ in nothing but the gaps
  that ours are told, and z0 is drawn with the same numbers.
- `torchdiffeq`: our model with the same sizes, solved by torchdiffeq.
- `adjoint`, `native`: our model and our solver core, by gradient.
- `native_1e-5`: the tolerance at which `table2` trains, and its field with one hidden layer.

Metrics: `ratio`; `milliseconds`, which mean this machine alone; `evaluations` of the field,
forward, the same in every round, since no update changes a weight. `solve` is the ratio of the
solve by itself, forward and backward, to torchdiffeq's on the same field, weights and states;
`largest_difference` is that of their states, relative to the largest.

Deviations: none, the paper measured no time. Weights stay as drawn; over whole trainings of
`table2` fields take up to twice as many evaluations, all alike.

Protocol 2: in protocol 1 the updates were made, so that evaluations grew from round to round.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from lightning_modules import TrajectoryModel

PROTOCOL = 2
TRAINS = False
REFERENCE = "example"
TOLERANCE = {"rtol": 1e-7, "atol": 1e-9}
OURS: dict[str, dict[str, Any]] = {
    "torchdiffeq": {"backend": "torchdiffeq", **TOLERANCE},
    "adjoint": {"backend": "native", "gradient": "adjoint", **TOLERANCE},
    "native": {"backend": "native", **TOLERANCE},
    "native_1e-5": {"backend": "native", "rtol": 1e-5, "atol": 1e-5},
}
NAMES = {
    REFERENCE: "public example",
    "torchdiffeq": "our model, torchdiffeq",
    "adjoint": "native, adjoint",
    "native": "native, direct",
    "native_1e-5": "native as table2 trains",
}
PROFILES = {
    "smoke": Profile({"rounds": 2, "series": 10}, seeds=1, minutes=0.2),
    "quick": Profile({"rounds": 10, "series": 1000}, seeds=1, minutes=0.5),
    "short": Profile({"rounds": 30, "series": 1000}, seeds=1, minutes=1),
    "paper": Profile({"rounds": 30, "series": 1000}, seeds=1, minutes=1),
}


def run(ctx: Context) -> list[Record]:
    """Time every alternative; write all rows at the end, since they only count together."""
    import torch

    from datamodules import Spirals
    from reproduce.timing import interleave

    given = PROFILES[ctx.profile].overrides
    torch.manual_seed(0)
    data = Spirals(points=100, test_size=given["series"], data_seed=0)
    batch = data.fixed("test")[:3]
    noise = torch.randn(given["series"], 4)
    models = {name: _model(name) for name in OURS}
    field = _example_field(models["native"])
    steps: dict[str, Callable[[], None]] = {
        REFERENCE: _example(batch, noise, field, models["native"])
    }
    steps |= {name: _step(model, batch, noise) for name, model in models.items()}
    evaluations = {name: _count(step) for name, step in steps.items() if name != REFERENCE}
    calls: list[int] = []
    counting = field.register_forward_hook(lambda *_: calls.append(1))
    steps[REFERENCE]()
    counting.remove()
    evaluations[REFERENCE] = len(calls)
    alone = {name: partial(_solve, models["native"], name) for name in ("torchdiffeq", "native")}
    states = {name: work() for name, work in alone.items()}
    work: dict[str, Callable[[], object]]
    work = {**steps, **{f"solve {name}": solve for name, solve in alone.items()}}
    timings = interleave(work, given["rounds"])
    values: dict[str, dict[str, float]] = {
        name: {
            "ratio": timings[name].ratio_to(timings[REFERENCE]),
            "milliseconds": 1e3 * timings[name].median,
        }
        for name in steps
    }
    for name, count in evaluations.items():
        values[name]["evaluations"] = count
    difference = (states["native"] - states["torchdiffeq"]).abs().max()
    values["solve"] = {
        "ratio": timings["solve native"].ratio_to(timings["solve torchdiffeq"]),
        "milliseconds": 1e3 * timings["solve native"].median,
        "largest_difference": float(difference / states["torchdiffeq"].abs().max()),
    }
    budget = f"{given['series']} series of 100 points, {given['rounds']} rounds"
    return ctx.keep(
        "latent_step", PROTOCOL, values, {**given, "device": "cpu"}, budget=budget, unit=_unit
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per alternative."""
    from reproduce.records import to_frame

    wide = to_frame(records).pivot_table(index="row", columns="metric", values="value")
    return wide.reindex([row for row in (*NAMES, "solve") if row in wide.index])


def plot(records: list[Record]) -> "Figure":
    """Time of a step over that of the public example."""
    from reproduce import plotting

    values = {r.row: r.value for r in records if r.metric == "ratio"}
    rows = [row for row in NAMES if row in values]
    with plotting.style():
        figure, axes = plotting.subplots(size=(7.0, 3.6))
        bars = axes.barh(
            range(len(rows)), [values[row] for row in rows], color=plotting.OKABE_ITO["blue"]
        )
        for label in axes.bar_label(bars, fmt="%.2f", padding=4):
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
        axes.set_yticks(range(len(rows)), [NAMES[row] for row in rows])
        axes.invert_yaxis()
        axes.set_xscale("log")
        plotting.plain_ticks(axes.xaxis)
        axes.axvline(1, color="#555555", linewidth=1)
        axes.margins(x=0.25)
        axes.set_xlabel("time of a training step over the example's")
        figure.suptitle(records[0].budget, fontsize=12)
    return figure


def _unit(metric: str) -> str:
    return {"evaluations": "evaluations", "milliseconds": "ms"}.get(metric, "")


def _model(name: str) -> "TrajectoryModel":
    import torch

    from lightning_modules import TrajectoryModel
    from lightning_modules.solvers import SolverSettings

    torch.manual_seed(0)
    layers = 1 if name == "native_1e-5" else 2
    return TrajectoryModel("latent_ode", layers=layers, solver=SolverSettings(**OURS[name]))


def _step(
    model: "TrajectoryModel", batch: "tuple[Tensor, ...]", noise: "Tensor"
) -> Callable[[], None]:
    """Return a training step of ours."""
    optimizer = _stand_still(model.optimizer_settings.build(model.parameters()))

    def step() -> None:
        loss = model.losses(batch, noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _count(step: Callable[[], None]) -> int:
    """Take a step of ours; return how often it evaluated the field forward."""
    from lightning_modules.solvers import collect_stats

    with collect_stats() as solves:
        step()
    return sum(solve.nfe_forward for solve in solves)


def _stand_still(optimizer: "torch.optim.Optimizer") -> "torch.optim.Optimizer":
    """Return an optimizer whose updates cost what they cost and change nothing."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    return optimizer


def _solve(model: "TrajectoryModel", name: str) -> "Tensor":
    """Solve the latent equation of 1,000 states over the span, and go back; return the states."""
    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    draw = torch.Generator().manual_seed(0)
    z0 = torch.randn(1000, 4, generator=draw).requires_grad_()
    times = torch.arange(100) * 0.0378
    states = odeint(model.latent_ode.field, z0, times, SolverSettings(**OURS[name])).ys
    states.square().mean().backward()
    return states.detach()


def _example(
    batch: "tuple[Tensor, ...]", noise: "Tensor", field: "nn.Module", model: "TrajectoryModel"
) -> Callable[[], None]:
    """Return the public example's training step: its structure, sizes and solver; our weights."""
    import torch
    import torchdiffeq
    from torch import nn

    times, _, x = batch
    net = model.latent_ode
    recognise, summarise = nn.Linear(2 + 25, 25), nn.Linear(25, 8)
    decode = nn.Sequential(nn.Linear(4, 20), nn.ReLU(inplace=True), nn.Linear(20, 2))
    with torch.no_grad():
        into, memory = net.recognition.into, net.recognition.memory
        recognise.weight.copy_(torch.cat([into.weight[:, :2], memory.weight], dim=1))
        recognise.bias.copy_(into.bias)
    summarise.load_state_dict(net.posterior_of.state_dict())
    decode.load_state_dict(net.decoder.state_dict())
    parts: list[nn.Module] = [recognise, summarise, decode, field]
    weights = [p for part in parts for p in part.parameters()]
    optimizer = _stand_still(torch.optim.Adam(weights, lr=0.01))
    log_variance = torch.full_like(x, 0.01).log()

    def step() -> None:
        optimizer.zero_grad()
        h = torch.zeros(len(x), 25)
        for k in reversed(range(x.shape[1])):
            h = torch.tanh(recognise(torch.cat([x[:, k], h], dim=1)))
            read = summarise(h)
        mean, spread = read[:, :4], read[:, 4:]
        z0 = noise * torch.exp(0.5 * spread) + mean
        z = torchdiffeq.odeint(field, z0, times, **TOLERANCE).permute(1, 0, 2)
        squares = (x - decode(z)).square() / log_variance.exp()
        likelihood = -0.5 * (1.8378770664 + log_variance + squares).sum(-1).sum(-1)
        divergence = (-spread + spread.exp() + mean.square() - 1).sum(-1) / 2
        (divergence - likelihood).mean().backward()
        optimizer.step()

    return step


def _example_field(model: "TrajectoryModel") -> "nn.Module":
    """Return the example's field, two hidden layers of 20 with ELU units, with our weights."""
    import torch
    from torch import nn

    layers = nn.Sequential(
        nn.Linear(4, 20),
        nn.ELU(inplace=True),
        nn.Linear(20, 20),
        nn.ELU(inplace=True),
        nn.Linear(20, 4),
    )
    ours = model.latent_ode.field.layers
    with torch.no_grad():
        for theirs, layer in zip(layers[::2], ours, strict=True):
            theirs.load_state_dict(layer.state_dict())

    class OfState(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, t: "Tensor", z: "Tensor") -> "Tensor":
            out: Tensor = self.layers(z)
            return out

    return OfState()
