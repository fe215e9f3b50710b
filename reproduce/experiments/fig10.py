"""Reconstructions by latent ODEs from more and more observed points (Figure 10).

Nothing is trained: the networks are those of `table2`, of their lowest seed, on the same 500 test
spirals.

Rows `trained_<n>`: the network that was trained with n of 100 points, given n; `given_<n>`: the
one that was trained with 30, given another number than it has ever seen. Metrics: `rmse_span` and
`rmse` as in `table2`, and `posterior_std`, the mean standard deviation of q(z0).

Deviations: the paper shows pictures alone and does not say which of the two they are.
"""

from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_modules import TrajectoryModel

PROTOCOL = 1
TRAINS = False
TRAINED = (30, 50, 100)
GIVEN = (10, 20, 30, 50, 100)  # to the network that was trained with the first of these
PROFILES = {
    name: Profile({}, seeds=1, minutes=0.2) for name in ("smoke", "quick", "short", "paper")
}


def run(ctx: Context) -> list[Record]:
    """Give networks more and more points; write all rows at once."""
    from reproduce import trained_series

    networks = {
        n: trained_series.of_table_2(f"latent_ode_{n}", [ctx.out], ctx.profile) for n in TRAINED
    }
    first = networks[TRAINED[0]]
    values = {f"trained_{n}": _errors(*network, n) for n, network in networks.items()}
    values |= {f"given_{n}": _errors(*first, n) for n in GIVEN}
    facts = first[1]
    return ctx.keep(
        "fig10",
        PROTOCOL,
        values,
        {f"latent_ode_{n}": found["run"] for n, (_, found) in networks.items()},
        budget=facts["budget"],
        unit=lambda metric: "",
        seed=facts["seed"],
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per number of points, given to which network."""
    from reproduce.records import to_frame

    wide = to_frame(records).pivot_table(index="row", columns="metric", values="value")
    rows = [*(f"trained_{n}" for n in TRAINED), *(f"given_{n}" for n in GIVEN)]
    return wide.reindex([row for row in rows if row in wide.index])


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return two spirals reconstructed from few and from many points, and the errors."""
    from reproduce import plotting, spiral_panels, trained_series

    with plotting.style():
        figure, axes = plotting.subplots(2, len(TRAINED) + 1, size=(3.4, 3.5))
        for column, points in enumerate(TRAINED):
            name = f"latent_ode_{points}"
            model, facts = trained_series.of_table_2(name, [folder.parent], records[0].profile)
            data = trained_series.spirals(facts)
            _, _, x, _, truth, clockwise = data.fixed("test")
            means = trained_series.predicted(model, data)
            for row, which in enumerate((True, False)):
                i = int((clockwise == which).nonzero()[0])
                spiral_panels.path(axes[row][column], truth[i], x[i], means[i], data.grid)
            axes[0][column].set_title(f"{points} points")
        for panel, metric, name in zip(
            axes[:, -1], ("rmse_span", "rmse"), ("within the span", "beyond it"), strict=True
        ):
            _draw_errors(panel, {r.row: r.value for r in records if r.metric == metric})
            panel.set_ylabel(f"RMSE {name}", fontsize=11)
        axes[0][-1].legend(fontsize=9)
        axes[-1][-1].set_xlabel("points given", fontsize=11)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=11)
        figure.suptitle(f"Latent ODEs; {records[0].budget}", fontsize=12)
    return {"": figure}


def _draw_errors(axes: "Axes", values: dict[str, float]) -> None:
    from reproduce.plotting import OKABE_ITO

    looks = {
        "trained": (TRAINED, "blue", "o-", "trained with as many"),
        "given": (GIVEN, "orange", "x--", f"trained with {TRAINED[0]}"),
    }
    for kind, (points, colour, line, label) in looks.items():
        found = {n: values[f"{kind}_{n}"] for n in points if f"{kind}_{n}" in values}
        axes.plot(list(found), list(found.values()), line, color=OKABE_ITO[colour], label=label)
    axes.set_ylim(0, 1.06 * axes.get_ylim()[1])


def _errors(model: "TrajectoryModel", facts: dict[str, Any], points: int) -> dict[str, float]:
    """Return what a network misses that is given so many points of each test spiral."""
    import torch

    from reproduce import trained_series

    batch = trained_series.spirals(facts, points).fixed("test")
    with torch.no_grad():
        beyond, span = model.errors(batch)
        _, std = model.encode(batch[0][batch[1]], batch[2])
    return {
        "rmse_span": float(span.mean().sqrt()),
        "rmse": float(beyond.mean().sqrt()),
        "posterior_std": float(std.mean()),
    }
