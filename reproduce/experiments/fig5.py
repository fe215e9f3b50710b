"""By maximum likelihood, do planar layers fit circles and moons worse than a continuous flow?

Figure 5: a continuous flow with 64 hidden units and 64 planar layers, each trained on two circles
and on two moons, and the densities and samples on the way from noise to data. Rows are `cnf` and
`nf` with `circles` and `moons`.

- `nll`: mean of -log q over 10,000 held-out points, in nats, with `nll_se` over the points.
- `nll_gap`: the same less that of the density the points come from, on the same points. Zero is
  what that density has itself.

Samples of the planar flow, which the paper's figure does not show, need the inverse of every
layer: a root in one variable, found by Newton's method to 16 roundings.

Deviations from the paper, which states no constants of the data, no optimiser and no iterations:

1. Circles of radii 1 and 1/2 and moons of radius 1, noise 0.08, independent points.
2. Adam 5e-3, 5,000 iterations of 512 fresh points (`quick`: 1,500), horizon 1, base N(0, I), for
   both models alike. `paper` has 10,000 iterations, as in Figure 4.
3. Planar layers lead from data to base: only then has the likelihood a closed form.
"""

from typing import TYPE_CHECKING, Any

from reproduce import ensembles
from reproduce.context import Context, Profile
from reproduce.ensembles import Fit
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from lightning_modules import DensityModel
    from reproduce.jobs import Result

PROTOCOL = 1
TRAINS = True
DATA = ("circles", "moons")
KINDS = ("cnf", "nf")
PARTS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)
HALF = {"circles": 1.6, "moons": 2.5}  # half the side of what is shown

PROFILES = {
    "smoke": Profile({"iterations": 4, "points": 100}, seeds=1, minutes=0.5),
    "quick": Profile({"iterations": 1_500, "points": 10_000}, seeds=1, minutes=2),
    "short": Profile({"iterations": 5_000, "points": 10_000}, seeds=5, minutes=5),
    "paper": Profile({"iterations": 10_000, "points": 10_000}, seeds=5, minutes=None),
}


def run(ctx: Context) -> list[Record]:
    """Train all seeds of a row side by side; write their rows as soon as they end."""
    fits = [_fit(ctx, kind, data) for data in DATA for kind in KINDS]
    return ensembles.run(ctx, "fig5", PROTOCOL, fits, "nll", _gap, all_weights=True)


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row: means over seeds."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.status == "ok"])
    columns = ["nll", "nll_gap", "parameters", "train_seconds"]
    wide = frame.pivot_table(index="row", columns="metric", values="value", aggfunc="mean")
    return wide[[column for column in columns if column in wide]]


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return the transformation of each data set, and the gaps of all rows."""
    drawn = {data: _transformation(records, folder, data) for data in DATA}
    return {"": _gaps(records), **drawn}


def _fit(ctx: Context, kind: str, data: str) -> Fit:
    given = PROFILES[ctx.profile].overrides
    iterations = given["iterations"]
    epochs = 10 if iterations % 10 == 0 else 1
    overrides: dict[str, Any] = {
        "data.name": data,
        "data.steps": iterations // epochs,
        "data.test_points": given["points"],
        "trainer.max_epochs": epochs,
        "trainer.log_every_n_steps": max(iterations // 50, 1),
    }
    row = f"{kind}_{data}"
    return Fit(row, f"fig5_{kind}.yaml", overrides, (row,) * len(ctx.seeds), ctx.seeds)


def _gap(result: "Result", fit: Fit, i: int, values: dict[str, float]) -> dict[str, float]:
    """Return the likelihood lost against the density that the test points come from."""
    from datamodules import PlaneData

    data = PlaneData(**result.job.resolved["data"]["init_args"])
    least = -float(data.log_density(data.fixed("test")[i]).mean())
    return {"nll_gap": values["nll"] - least}


def _gaps(records: list[Record]) -> "Figure":
    """The likelihood lost in every row, one mark a seed."""
    from reproduce import plotting

    with plotting.style():
        figure, axes = plotting.subplots(size=(7.5, 4.4))
        rows = [(data, kind) for data in DATA for kind in KINDS]
        for place, (data, kind) in enumerate(rows):
            gaps = [r.value for r in records if (r.row, r.metric) == (f"{kind}_{data}", "nll_gap")]
            # Seeds of nearly the same gap would hide each other on one line.
            heights = [place + shift for shift in plotting.side_by_side(len(gaps), 0.5)]
            axes.plot(gaps, heights, linestyle="none", **plotting.method_style(kind))
        names = [f"{data},\n{plotting.method_style(kind)['label']}" for data, kind in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axhline(len(KINDS) - 0.5, color="#555555", linewidth=1)  # between the data
        axes.set_xlim(left=0)
        axes.set_xlabel("held-out -log q above the entropy of the data (nats);\na mark a seed")
        figure.suptitle(records[0].budget, fontsize=11)
    return figure


def _transformation(records: list[Record], folder: "Path", data: str) -> "Figure":
    """Densities and samples of both models on the way from noise to data, as in the paper."""
    from reproduce import plotting
    from reproduce.maps import scatter, show

    names = {"cnf": "continuous flow", "nf": "planar layers"}
    with plotting.style():
        figure, axes = plotting.subplots(4, len(PARTS) + 1, size=(1.5, 1.55))
        for k, kind in enumerate(KINDS):
            found = ensembles.drawn_from(folder, records, f"{kind}_{data}")
            parts = _parts(None if found is None else found[0], HALF[data])
            for column, (part, density, samples) in enumerate(parts):
                upper, lower = axes[2 * k][column], axes[2 * k + 1][column]
                show(upper, density)
                scatter(lower, samples, HALF[data])
                if k == 0:
                    upper.set_title(f"{part:.0%}", fontsize=13)
            axes[2 * k][0].set_ylabel(f"{names[kind]}\ndensity", fontsize=11)
            axes[2 * k + 1][0].set_ylabel("samples", fontsize=11)
        density, samples = _target(data)
        for row in range(4):
            if row % 2:
                scatter(axes[row][-1], samples, HALF[data])
            else:
                show(axes[row][-1], density)
        axes[0][-1].set_title("target", fontsize=13)
        figure.suptitle(f"From noise to {data}; {records[0].budget}", fontsize=12)
    return figure


def _parts(model: "DensityModel | None", half: float) -> list[tuple[float, Any, Any]]:
    """Return part, density and samples for every part of the way; None without a model."""
    import torch

    from reproduce.maps import density_and_samples

    if model is None:
        return [(part, None, None) for part in PARTS]
    generator = torch.Generator()
    return [
        (part, *density_and_samples(model, half, generator.manual_seed(0), part)) for part in PARTS
    ]


def _target(data: str) -> tuple["Tensor", "Tensor"]:
    from datamodules import PlaneData
    from reproduce.maps import SAMPLES, grid

    source = PlaneData(data, test_points=SAMPLES)
    points = grid(HALF[data])
    density = source.log_density(points.view(-1, 2)).exp().view(points.shape[:2])
    return density, source.fixed("test")[0]
