"""More observed points, closer reconstructions by the same latent ODE (Figure 10).

Nothing is trained: the network is that of `table2` with 30 of 100 points, of its lowest seed. It
is given 10, 20, 30, 50 or 100 points of the same 500 test spirals.

Rows `points_<n>`: `rmse_span` against the noise-free truth over the whole observed span, `rmse`
over the 100 times behind it, and `posterior_std`, the mean standard deviation of q(z0).

Deviations: the paper shows pictures alone and does not say whether it trains a network for each
number of points; this one has seen 30 in training and no other number.
"""

from typing import TYPE_CHECKING

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

PROTOCOL = 1
TRAINS = False
NETWORK = "latent_ode_30"
POINTS = (10, 20, 30, 50, 100)
SHOWN = (10, 30, 100)
PROFILES = {
    name: Profile({}, seeds=1, minutes=0.2) for name in ("smoke", "quick", "short", "paper")
}


def run(ctx: Context) -> list[Record]:
    """Give the network more and more points; write all rows at once."""
    import torch

    from reproduce import trained_series

    model, facts = trained_series.of_table_2(NETWORK, [ctx.out], ctx.profile)
    values = {}
    for points in POINTS:
        data = trained_series.spirals(facts, points)
        times, seen, x, _, truth, _ = data.fixed("test")
        errors = (trained_series.predicted(model, data) - truth).square().mean(dim=(0, 2))
        with torch.no_grad():
            _, std = model.encode(times[seen], x)
        values[f"points_{points}"] = {
            "rmse_span": float(errors[: data.grid].mean().sqrt()),
            "rmse": float(errors[data.grid :].mean().sqrt()),
            "posterior_std": float(std.mean()),
        }
    return ctx.keep(
        "fig10",
        PROTOCOL,
        values,
        {"run": facts["run"]},
        budget=facts["budget"],
        unit=lambda metric: "",
        seed=facts["seed"],
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per number of points."""
    from reproduce.records import to_frame

    frame = to_frame(records)
    wide = frame.pivot_table(index="row", columns="metric", values="value")
    return wide.reindex([f"points_{n}" for n in POINTS if f"points_{n}" in wide.index])


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return two spirals reconstructed from few and from many points, and the errors."""
    from reproduce import plotting, spiral_panels, trained_series

    model, facts = trained_series.of_table_2(NETWORK, [folder.parent], records[0].profile)
    with plotting.style():
        figure, axes = plotting.subplots(2, len(SHOWN) + 1, size=(3.4, 3.5))
        for column, points in enumerate(SHOWN):
            data = trained_series.spirals(facts, points)
            _, _, x, _, truth, clockwise = data.fixed("test")
            means = trained_series.predicted(model, data)
            for row, which in enumerate((True, False)):
                i = int((clockwise == which).nonzero()[0])
                spiral_panels.path(axes[row][column], truth[i], x[i], means[i], data.grid)
            axes[0][column].set_title(f"{points} points")
        for panel, metric, name in zip(
            axes[:, -1], ("rmse_span", "rmse"), ("within the span", "beyond it"), strict=True
        ):
            found = {r.row: r.value for r in records if r.metric == metric}
            values = {n: found[f"points_{n}"] for n in POINTS if f"points_{n}" in found}
            panel.plot(list(values), list(values.values()), color=plotting.OKABE_ITO["blue"],
                       marker="o")  # fmt: skip
            panel.set_ylim(bottom=0)
            panel.set_ylabel(f"RMSE {name}", fontsize=11)
        axes[-1][-1].set_xlabel("points given", fontsize=11)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=11)
        figure.suptitle(f"Latent ODE trained with 30 points; {records[0].budget}", fontsize=12)
    return {"": figure}
