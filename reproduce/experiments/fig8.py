"""How a latent ODE and an RNN continue a spiral, and what z0 tells of its direction (Figure 8).

Nothing is trained: the networks are those of `table2` with 30 of 100 points, of its lowest seed.
The figure shows two test spirals, one of each direction, as both networks reconstruct and
extrapolate them, the first two coordinates of the mean of q(z0) of all test spirals, and the error
over time.

Rows `rnn`, `rnn_gap` and `latent_ode`: `rmse` over the 100 future times and `rmse_span` within the
observed span, both as in `table2`, and `shown_<direction>`, the error beyond the span of
the spiral shown. `latent_ode` besides: `probe_accuracy` on all coordinates of z0, and
`probe_accuracy_2d` on the two that the figure shows.

Deviations: those of `table2`. The spirals shown are the first two of the test, not chosen.
"""

from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

PROTOCOL = 1
TRAINS = False
NETWORKS = ("rnn", "rnn_gap", "latent_ode")
SHOWN = ("rnn", "latent_ode")
LINES = {"rnn": ":", "rnn_gap": "--", "latent_ode": "-"}
POINTS = 30
DIRECTIONS = {"clockwise": True, "counterclockwise": False}
PROFILES = {
    name: Profile({}, seeds=1, minutes=0.2) for name in ("smoke", "quick", "short", "paper")
}


def run(ctx: Context) -> list[Record]:
    """Measure the three networks; write their rows at once."""
    import torch

    from reproduce import latent_space, trained_series

    models = {
        n: trained_series.of_table_2(f"{n}_{POINTS}", [ctx.out], ctx.profile) for n in NETWORKS
    }
    facts = {network: found for network, (_, found) in models.items()}
    if len({found["seed"] for found in facts.values()}) > 1:
        seeds = ", ".join(f"{network} of seed {found['seed']}" for network, found in facts.items())
        raise ValueError(
            f"The weights are those of different trajectories: {seeds}. Run table2 again, so that "
            "all networks have their lowest seed."
        )
    values: dict[str, dict[str, float]] = {}
    for network, (model, found) in models.items():
        data = trained_series.spirals(found)
        batch = data.fixed("test")
        with torch.no_grad():
            beyond, span = model.errors(batch)
        values[network] = {
            "rmse": float(beyond.mean().sqrt()),
            "rmse_span": float(span.nanmean().sqrt()),
        }
        for name, which in DIRECTIONS.items():
            first = int((batch[-1] == which).nonzero()[0])
            values[network][f"shown_{name}"] = float(beyond[first].sqrt())
        if network == "latent_ode":
            values[network] |= {
                "probe_accuracy": latent_space.probe_accuracy(model, data),
                "probe_accuracy_2d": latent_space.probe_accuracy(model, data, coordinates=2),
            }
    latent = facts["latent_ode"]
    return ctx.keep(
        "fig8",
        PROTOCOL,
        values,
        {network: found["run"] for network, found in facts.items()},
        budget=latent["budget"],
        unit=lambda metric: "",
        seed=latent["seed"],
    )


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per network."""
    from reproduce.records import to_frame

    return to_frame(records).pivot_table(index="row", columns="metric", values="value")


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return the figure as the paper has it, and the error over time beside it."""
    from reproduce import latent_space, plotting, spiral_panels, trained_series

    with plotting.style():
        figure, axes = plotting.subplots(2, 3, size=(4.0, 3.9))
        for network in NETWORKS:
            name = f"{network}_{POINTS}"
            model, facts = trained_series.of_table_2(name, [folder.parent], records[0].profile)
            data = trained_series.spirals(facts)
            means = trained_series.predicted(model, data)
            _, _, x, _, truth, clockwise = data.fixed("test")
            errors = (means - truth).square().mean(dim=2).nanmean(dim=0).sqrt()
            style: dict[str, Any] = {**plotting.method_style(network), "marker": ""}
            style["linestyle"] = LINES[network]
            axes[1][2].plot(data.times[1:], errors[1:], **style)
            if network not in SHOWN:
                continue
            column = SHOWN.index(network)
            axes[0][column].set_title(plotting.NAMES[network])
            for row, which in enumerate(DIRECTIONS.values()):
                i = int((clockwise == which).nonzero()[0])
                spiral_panels.path(axes[row][column], truth[i], x[i], means[i], data.grid)
        z0, clockwise = latent_space.encoded(model, data, "test")
        _latent(axes[0][2], z0, clockwise)
        axes[1][2].axvline(float(data.times[data.grid - 1]), color="#555555", linewidth=1)
        axes[1][2].set_xlabel("time (the span ends at the line)", fontsize=11)
        axes[1][2].set_ylabel("RMSE", fontsize=11)
        axes[1][2].set_ylim(bottom=0)
        axes[1][2].legend(fontsize=9)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=11)
        figure.suptitle(f"{POINTS} of 100 points; {records[0].budget}", fontsize=11)
    return {"": figure}


def _latent(axes: "Axes", z0: "Tensor", clockwise: "Tensor") -> None:
    from reproduce.plotting import OKABE_ITO

    looks = {True: ("blue", "o", "clockwise"), False: ("orange", "x", "counter-clockwise")}
    for which, (colour, mark, label) in looks.items():
        chosen = z0[clockwise == which]
        axes.plot(
            chosen[:, 0], chosen[:, 1], mark, color=OKABE_ITO[colour], markersize=4, label=label
        )
    axes.set_title("mean of q(z0)")
    axes.set_xlabel("first coordinate", fontsize=11)
    axes.set_ylabel("second", fontsize=11)
    axes.legend(fontsize=9)
