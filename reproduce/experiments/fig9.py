"""Does moving the initial state of a latent ODE turn a spiral's direction over (Figure 9)?

Nothing is trained: the network is that of `table2` with 30 of 100 points, of its lowest seed. The
figure decodes paths from initial states on the line between the mean z0 of counter-clockwise and
that of clockwise test spirals, and, as the paper does, from states in which a single coordinate of
z0 moves along that line while the others stay in the middle.

Rows: `line` for all coordinates, `coordinate_1` to `coordinate_4` for each alone. Metrics:
`turning_<k>`, the angle in radians by which the velocity turns over the observed span at step k of
21, above 0 counter-clockwise, and `flips`, how often its sign changes along the steps.

Deviations: the paper does not say which coordinate it moves, nor from where to where.
"""

from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from datamodules import Spirals
    from lightning_modules import TrajectoryModel

PROTOCOL = 1
TRAINS = False
NETWORK = "latent_ode_30"
PANELS = 7
PROFILES = {
    name: Profile({}, seeds=1, minutes=0.2) for name in ("smoke", "quick", "short", "paper")
}


def run(ctx: Context) -> list[Record]:
    """Decode all lines; write their rows at once."""
    from reproduce import latent_space, trained_series

    model, facts = trained_series.of_table_2(NETWORK, [ctx.out], ctx.profile)
    values = {}
    for row, turned in _turnings(model, trained_series.spirals(facts)).items():
        values[row] = {f"turning_{k}": float(angle) for k, angle in enumerate(turned)}
        values[row]["flips"] = latent_space.flips(turned)
    return ctx.keep(
        "fig9",
        PROTOCOL,
        values,
        {"run": facts["run"]},
        budget=facts["budget"],
        unit=lambda metric: "rad" if metric.startswith("turning") else "",
        seed=facts["seed"],
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per line: turning at both ends and in the middle, and flips."""
    from reproduce.latent_space import STEPS
    from reproduce.records import to_frame

    wide = to_frame(records).pivot_table(index="row", columns="metric", values="value")
    return wide[["turning_0", f"turning_{STEPS // 2}", f"turning_{STEPS - 1}", "flips"]]


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return paths along the line, coloured by time, and how much each turns."""
    import torch

    from reproduce import latent_space, plotting, trained_series

    model, facts = trained_series.of_table_2(NETWORK, [folder.parent], records[0].profile)
    data = trained_series.spirals(facts)
    turned = {row: _course(records, row) for row in sorted({r.row for r in records})}
    flips = {r.row: int(r.value) for r in records if r.metric == "flips"}
    # The line, and the coordinate that turns a path over, or else turns it most on its own.
    others = [row for row in turned if row != "line"]
    alone = max(others, key=lambda row: (flips[row] == 1, max(turned[row]) - min(turned[row])))
    states = _lines(model, data)
    steps = torch.linspace(0, latent_space.STEPS - 1, PANELS).round().int().tolist()
    with plotting.style():
        figure, axes = plotting.subplots(3, PANELS, size=(1.9, 2.1))
        for line, row in enumerate(("line", alone)):
            with torch.no_grad():
                paths = model.decode(states[row], data.times[: data.grid])
            half = 1.2 * float(paths.abs().max())
            for panel, k in zip(axes[line], steps, strict=True):
                panel.scatter(*paths[k].T.numpy(), c=data.times[: data.grid], cmap="plasma", s=6)
                panel.set(xlim=(-half, half), ylim=(-half, half), xticks=[], yticks=[])
                panel.set_aspect("equal")
                panel.grid(False)
                panel.spines[:].set(visible=True, color="#999999", linewidth=0.8)
                if line == 0:
                    panel.set_title(f"{k / (latent_space.STEPS - 1):.2f}", fontsize=12)
            axes[line][0].set_ylabel(_name(row), fontsize=11)
        grid = axes[2][0].get_gridspec()
        for blank in axes[2]:
            blank.remove()
        below = figure.add_subplot(grid[2, :])
        for row, mark in zip(turned, "os^vXPdph", strict=False):
            places = [k / (len(turned[row]) - 1) for k in range(len(turned[row]))]
            look: dict[str, Any] = {"marker": mark, "markersize": 4, "label": _name(row)}
            below.plot(places, turned[row], linewidth=2.5 if row == "line" else 1.0, **look)
        below.axhline(0, color="#555555", linewidth=1)
        ends = "from the mean z0 of counter-clockwise (0) to that of clockwise spirals (1)"
        below.set_xlabel(ends, fontsize=12)
        below.set_ylabel("turning (rad)", fontsize=12)
        below.legend(fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5))
        told = (
            f"{_flips(flips['line'])} along all of z0, {_flips(flips[alone])} along {_name(alone)}"
        )
        figure.suptitle(
            f"Decoded paths, dark to light in time: {told}\n{records[0].budget}", fontsize=12
        )
    return {"": figure}


def _course(records: list[Record], row: str) -> list[float]:
    """Return the turnings of a row from step to step."""
    found = {
        int(r.metric.removeprefix("turning_")): r.value
        for r in records
        if r.row == row and r.metric.startswith("turning_")
    }
    return [found[k] for k in sorted(found)]


def _flips(count: int) -> str:
    return f"{count} flip{'' if count == 1 else 's'} of direction"


def _name(row: str) -> str:
    return "all of z0" if row == "line" else row.replace("_", " ")


def _lines(model: "TrajectoryModel", data: "Spirals") -> "dict[str, Tensor]":
    """Return the initial states of every row, ``(steps, latent)``."""
    from reproduce import latent_space

    line = latent_space.line(model, data)
    middle = line[len(line) // 2]
    found = {"line": line}
    for i in range(line.shape[1]):
        states = middle.expand_as(line).clone()
        states[:, i] = line[:, i]
        found[f"coordinate_{i + 1}"] = states
    return found


def _turnings(model: "TrajectoryModel", data: "Spirals") -> "dict[str, Tensor]":
    import torch

    from reproduce import latent_space

    times = data.times[: data.grid]
    with torch.no_grad():
        return {
            row: latent_space.turning(model.decode(states, times))
            for row, states in _lines(model, data).items()
        }
