"""A continuous flow of 16 units turns two moons into a unit Gaussian, and back (the deck).

The deck's own experiment: two moons with noise 0.08, the field of 16 units with its hypernetwork,
RK4 in 9 steps over t in [0, 1], Adam 0.01, 1,100 steps of 512 fresh points. The row `cnf` is the
trained flow, `after_110` and `after_330` are the same training as far as it had come.

- `nll`, `nll_gap`: held-out mean of -log q, and the same above that of the moons themselves.
- `reconstruction_rms`: root mean square of what moons miss after going to the base and back. RK4's
  steps backwards are not the inverse of those forwards: this is what the deck's check looks at.

Beside the figure stand the density's movie from noise to moons (GIF) and its stills.

Deviations from the deck: its beta_2 is 0.99 where ours is Adam's own 0.999; its time runs from the
data at 0 to the Gaussian at 1, ours the other way; its points are spaced evenly along the moons.
"""

from typing import TYPE_CHECKING, Any

from reproduce import ensembles, restored
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
EPOCHS = {"after_110": 1, "after_330": 3, "cnf": 10}
HALF = 2.5
FRAMES = 50
STILLS = (0.02, 0.25, 0.5, 0.75, 1.0)

PROFILES = {
    "smoke": Profile({"steps": 2, "points": 100}, seeds=1, minutes=0.5),
    "quick": Profile({"steps": 110, "points": 10_000}, seeds=1, minutes=1),
    "short": Profile({"steps": 110, "points": 10_000}, seeds=5, minutes=0.2),
    "paper": Profile({"steps": 110, "points": 10_000}, seeds=5, minutes=0.2),
}


def run(ctx: Context) -> list[Record]:
    """Train three times as far each time; write the rows of each as soon as it ends."""
    fits = [_fit(ctx, row) for row in EPOCHS]
    return ensembles.run(ctx, "two_moons", PROTOCOL, fits, "nll", _checks)


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row: means over seeds."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.status == "ok"])
    return frame.pivot_table(index="row", columns="metric", values="value", aggfunc="mean")


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return the moons on their way into a Gaussian while training, and the stills of the movie.

    The movie itself is written beside them.
    """
    return {"": _training(records, folder), "stills": _stills(records, folder)}


def movie(records: list[Record], folder: "Path") -> list["Tensor"] | None:
    """Return the frames of the density from noise to moons; None without weights."""
    model = _model(records, folder, "cnf")
    if model is None:
        return None
    return [_density(model, (k + 1) / FRAMES) for k in range(FRAMES)]


def _fit(ctx: Context, row: str) -> Fit:
    given = PROFILES[ctx.profile].overrides
    overrides: dict[str, Any] = {
        "trainer.max_epochs": EPOCHS[row],
        "data.steps": given["steps"],
        "data.test_points": given["points"],
    }
    return Fit(row, "two_moons.yaml", overrides, (row,) * len(ctx.seeds), ctx.seeds)


def _checks(result: "Result", fit: Fit, i: int, values: dict[str, float]) -> dict[str, float]:
    """Return the likelihood lost, and what moons miss after going to the base and back."""
    import torch

    from datamodules import PlaneData
    from lightning_modules import DensityModel

    data = PlaneData(**result.job.resolved["data"]["init_args"])
    moons = data.fixed("test")[i]
    least = -float(data.log_density(moons).mean())
    model = restored.finished(result, DensityModel)
    with torch.no_grad():
        there = moons.T.expand(model.members, 2, len(moons))
        back, _ = model.net.push(model.net.pull(there)[0])
    missed = (back[i] - moons.T).square().sum(dim=0).mean().sqrt()
    return {"nll_gap": values["nll"] - least, "reconstruction_rms": float(missed)}


def _model(records: list[Record], folder: "Path", row: str) -> "DensityModel | None":
    found = ensembles.drawn_from(folder, records, row)
    return None if found is None else found[0]


def _density(model: "DensityModel", part: float) -> "Tensor":
    import torch

    from reproduce.maps import grid

    points = grid(HALF)
    with torch.no_grad():
        return model.log_prob(points.view(-1, 2), part).exp().view(points.shape[:2])


def _training(records: list[Record], folder: "Path") -> "Figure":
    """Moons pulled to the base after every part of the training, and samples pushed back."""
    import torch

    from datamodules import PlaneData
    from reproduce import plotting
    from reproduce.maps import SAMPLES, scatter

    moons = PlaneData("moons", test_points=SAMPLES).fixed("test")[0]
    budgets = {r.row: r.budget for r in records}
    with plotting.style():
        figure, axes = plotting.subplots(2, 1 + len(EPOCHS), size=(2.5, 2.6))
        base = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(0))
        scatter(axes[0][0], moons, HALF)
        scatter(axes[1][0], base, HALF)
        axes[0][0].set_title("two moons")
        axes[1][0].set_title("unit Gaussian")
        for column, row in enumerate(EPOCHS, start=1):
            model = _model(records, folder, row)
            if model is not None:
                with torch.no_grad():
                    scatter(axes[0][column], model.net.pull(moons.T[None])[0][0].T, HALF)
                    scatter(axes[1][column], model.net.push(base.T[None])[0][0].T, HALF)
            axes[0][column].set_title(budgets.get(row, "").partition(" iterations")[0] + " steps")
        axes[0][0].set_ylabel("moons to the base")
        axes[1][0].set_ylabel("noise to the data")
        figure.suptitle(
            f"Moons and noise, mapped by a flow trained with "
            f"{budgets['cnf'].partition(' of ')[2]}",
            fontsize=11,
        )
    return figure


def _stills(records: list[Record], folder: "Path") -> "Figure":
    from reproduce import plotting
    from reproduce.maps import show

    model = _model(records, folder, "cnf")
    with plotting.style():
        figure, axes = plotting.subplots(1, len(STILLS), size=(2.6, 2.9))
        for panel, part in zip(axes, STILLS, strict=True):
            show(panel, None if model is None else _density(model, part))
            panel.set_title(f"t = {part:g}")
        figure.suptitle("density from noise to two moons", fontsize=13)
    return figure
