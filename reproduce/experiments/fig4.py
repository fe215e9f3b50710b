"""At equal size, do continuous flows match densities better than planar layers do (Figure 4)?

Planar normalizing flows of K layers and continuous flows of M units, K = M = 2 to 32, are trained
by KL(q || p) to Rezende and Mohamed's energies U1, U3 and U4, the rows of the paper's figure.

Rows are `<kind>_<energy>_<size>`:

- `cnf`: the paper's continuous flow, Adam, 10,000 iterations at tolerance 1e-5;
- `nf`: planar layers, RMSprop, 500,000 iterations, as the paper and Rezende and Mohamed have it;
- `nf_adam`: planar layers with optimiser, iterations and batch of `cnf`;
- `nf_deep`: planar layers, as many as give the parameters of `cnf` of that size, Adam at 1e-3 in
  every profile, since a rate that suits 32 layers throws 963 about. The paper compares 5 K
  parameters with 1,582 (M = 2) to 8,512 (M = 32). `short` and `quick` stop at M = 8, 594 layers.

What the last two tell apart is limited: `nf_adam` gives planar layers a fiftieth of the updates
that the paper gives them, so it cannot separate capacity from slow training.

Metrics: `kl`, the divergence of the two densities restricted to the box [-4, 4]² of the figure, in
nats, KL(q|box || p|box) = E[log q + U | box] - ln q(box) + ln Z_box, with `kl_se` over the test
points, and `outside`, the mass of q outside of the box: U3 and U4 are periodic, so E[log q + U]
alone has no minimum and rewards leaving it.

Deviations from the paper, which states neither rate, batch, horizon nor seeds:

1. Adam 1e-3, batch 512, horizon 1, base N(0, I). Planar flows: batch 100, RMSprop 1e-5, momentum
   0.9, the energy's factor rising from 0.01 to 1 over 10,000 updates (Rezende and Mohamed).
2. As in the first author's code, the units of the field are averaged and gated by coordinate.
3. `short` has a fifth of all iterations, `quick` a fiftieth of RMSprop's and a twentieth of
   Adam's, at as many times the rate, but at most five times Adam's.
4. Fits of a kind train side by side and share the solver's steps, which are those of the worst.
"""

from typing import TYPE_CHECKING, Any

from reproduce import ensembles
from reproduce.context import Context, Profile
from reproduce.ensembles import Fit
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

PROTOCOL = 1
TRAINS = True
TARGETS = ("u1", "u3", "u4")
SIZES = (2, 4, 8, 16, 32)
SHOWN = (2, 8, 32)
KINDS = ("cnf", "nf", "nf_adam", "nf_deep")
DIM, HIDDEN = 2, 32
DEEP_RATE = 1e-3
ADAM = {"model.optimizer.name": "adam", "data.batch_size": 512, "model.anneal": 0}


def _profile(
    adam: tuple[int, float],
    rmsprop: tuple[int, float],
    points: int,
    sizes: tuple[int, ...] = SIZES,
    deepest: int = 8,
    **given: Any,
) -> Profile:
    """Return a profile from iterations and rate of both optimisers and from what is trained."""
    overrides = {"adam": adam, "rmsprop": rmsprop, "points": points}
    return Profile({**overrides, "sizes": sizes, "deepest": deepest}, **given)


PROFILES = {
    "smoke": _profile((4, 1e-3), (8, 1e-3), 200, sizes=(2,), seeds=1, minutes=0.5),
    "quick": _profile((500, 5e-3), (10_000, 5e-4), 20_000, seeds=1, minutes=7),
    "short": _profile((2_000, 5e-3), (100_000, 5e-5), 50_000, seeds=5, minutes=12),
    "paper": _profile((10_000, 1e-3), (500_000, 1e-5), 50_000, deepest=32, seeds=5, minutes=None),
}


def run(ctx: Context) -> list[Record]:
    """Train all fits of a kind and a size side by side; write their rows as soon as they end."""
    given = PROFILES[ctx.profile].overrides
    fits = [
        _fit(ctx, kind, size)
        for size in given["sizes"]
        for kind in KINDS
        if kind != "nf_deep" or size <= given["deepest"]
    ]
    return ensembles.run(ctx, "fig4", PROTOCOL, fits, "kl")


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per energy and size: KL of each kind, mean over seeds and half its interval.

    In brackets the mean mass outside of the box; where a seed failed, how many did not.
    """
    import pandas as pd

    lines = {}
    for target in TARGETS:
        for size in SIZES:
            line = {}
            for kind in KINDS:
                row = f"{kind}_{target}_{size}"
                kl, outside = (_mean(records, row, metric) for metric in ("kl", "outside"))
                if kl is not None and outside is not None:
                    more = f"{outside[0]:.0%}{_survivors(records, row)}"
                    line[kind] = f"{kl[0]:.3f} ± {kl[1]:.3f} [{more}]"
            if line:
                lines[target, size] = line
    return pd.DataFrame.from_dict(lines, orient="index")


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return the figure as the paper lays it out, and the variants beside it."""
    return {"": _densities(records, folder), "variants": _variants(records)}


def planar_layers(size: int) -> int:
    """Return K of the planar flow with as many parameters as the continuous flow of ``size``."""
    hyper = 2 * HIDDEN + HIDDEN * (HIDDEN + 1) + (HIDDEN + 1) * (3 * DIM + 1) * size
    return round(hyper / (2 * DIM + 1))


def _fit(ctx: Context, kind: str, size: int) -> Fit:
    given = PROFILES[ctx.profile].overrides
    iterations, rate = given["rmsprop" if kind == "nf" else "adam"]
    epochs = 10 if iterations % 10 == 0 else 1
    overrides: dict[str, Any] = {
        "model.size": planar_layers(size) if kind == "nf_deep" else size,
        "model.targets": [target for target in TARGETS for _ in ctx.seeds],
        "model.optimizer.lr": DEEP_RATE if kind == "nf_deep" else rate,
        "trainer.max_epochs": epochs,
        "data.steps": iterations // epochs,
        "data.test_points": given["points"],
        "trainer.log_every_n_steps": max(iterations // 20, 1),
    }
    if kind == "nf":
        overrides["model.anneal"] = iterations // 50
    elif kind != "cnf":
        overrides |= ADAM
    return Fit(
        name=f"{kind}_{size}",
        config="fig4_cnf.yaml" if kind == "cnf" else "fig4_nf.yaml",
        overrides=overrides,
        rows=tuple(f"{kind}_{target}_{size}" for target in TARGETS for _ in ctx.seeds),
        seeds=ctx.seeds * len(TARGETS),
    )


def _mean(records: list[Record], row: str, metric: str) -> tuple[float, float] | None:
    """Return the mean over seeds and half its 95 % interval (0 for one seed)."""
    from reproduce import statistics

    values = [r.value for r in records if (r.row, r.metric, r.status) == (row, metric, "ok")]
    if not values:
        return None
    interval = statistics.mean_interval(values)
    half = interval.high - interval.value if len(values) > 1 else 0.0
    return interval.value, half


def _survivors(records: list[Record], row: str) -> str:
    """Say of how many seeds a mean is, where it is not of all."""
    seeds = {r.seed for r in records if r.row == row}
    ok = {r.seed for r in records if r.row == row and r.status == "ok"}
    return "" if ok == seeds else f", {len(ok)} of {len(seeds)}"


def _densities(records: list[Record], folder: "Path") -> "Figure":
    """Targets, densities of the lowest seed, and the divergences, an energy a row.

    As in the paper, the second axis points down.
    """
    from reproduce import plotting
    from reproduce.maps import show, target_on_box

    shown = [("nf", size) for size in SHOWN] + [("cnf", size) for size in SHOWN]
    with plotting.style():
        ratios = [1, 0.05, *[1] * 6, 0.35, 1.6]
        figure, axes = plotting.subplots(
            len(TARGETS), len(ratios), size=(1.75, 2.1), width_ratios=ratios
        )
        for row, target in enumerate(TARGETS):
            panels = [axes[row][k] for k in (0, *range(2, 8))]
            for blank in (axes[row][1], axes[row][8]):
                blank.set_axis_off()
            show(panels[0], target_on_box(target), up=False)
            for panel, (kind, size) in zip(panels[1:], shown, strict=True):
                show(panel, _map(records, folder, kind, target, size), up=False)
                if row == 0:
                    panel.set_title(f"{'K' if kind == 'nf' else 'M'} = {size}", fontsize=12)
            if row == 0:
                panels[0].set_title("target", fontsize=12)
            panels[0].set_ylabel(target.upper(), rotation=0, labelpad=14)
            _lines(axes[row][9], records, target, ("nf", "cnf"), "kl")
            axes[row][9].set_ylabel("KL on the box (nats)", fontsize=10)
        axes[-1][9].set_xlabel("layers K or width M", fontsize=11)
        axes[0][9].legend(fontsize=9)
        figure.suptitle(
            "Planar flows of K layers (left) and continuous flows of width M, the units of their "
            f"field (right)\n{_budgets(records)}",
            fontsize=12,
        )
    return figure


def _map(
    records: list[Record], folder: "Path", kind: str, target: str, size: int
) -> "Tensor | None":
    """Return the density of the lowest seed over the box; None without its weights."""
    from reproduce.maps import on_box

    found = ensembles.drawn_from(folder, records, f"{kind}_{size}")
    row = f"{kind}_{target}_{size}"
    if found is None or row not in found[1]:
        return None
    return on_box(found[0], found[1].index(row))


def _variants(records: list[Record]) -> "Figure":
    """The divergences of all kinds and the mass outside of the box, an energy a column."""
    from reproduce import plotting

    with plotting.style():
        figure, axes = plotting.subplots(2, len(TARGETS), size=(4.8, 3.8), sharex=True)
        for column, target in enumerate(TARGETS):
            for panel, metric in zip(axes[:, column], ("kl", "outside"), strict=True):
                _lines(panel, records, target, KINDS, metric)
            axes[0][column].set_title(target.upper())
            axes[1][column].set_xlabel("width M, or the K that it stands for")
        axes[0][0].set_ylabel("KL on the box (nats)")
        axes[1][0].set_ylabel("mass outside of it")
        axes[0][0].legend(fontsize=10)
        figure.suptitle(f"Means and 95 % intervals; {_budgets(records)}", fontsize=11)
    return figure


def _lines(
    axes: "Axes", records: list[Record], target: str, kinds: tuple[str, ...], metric: str
) -> None:
    from reproduce import plotting

    for kind in kinds:
        found = {size: _mean(records, f"{kind}_{target}_{size}", metric) for size in SIZES}
        points = {size: mean for size, mean in found.items() if mean is not None}
        if not points:
            continue
        means, halves = zip(*points.values(), strict=True)
        style: dict[str, Any] = {**plotting.method_style(kind), "markersize": 8}
        style["linestyle"] = "-" if kind == "cnf" else "--"
        axes.errorbar(list(points), means, halves, capsize=3, **style)
    axes.set_xscale("log", base=2)
    axes.set_xticks(SIZES, [str(size) for size in SIZES])
    axes.set_xlim(SIZES[0] / 1.3, SIZES[-1] * 1.3)  # no mark is cut at the border
    axes.set_ylim(bottom=0)
    axes.set_ylim(bottom=-0.05 * axes.get_ylim()[1])
    axes.tick_params(labelsize=10)


def _budgets(records: list[Record]) -> str:
    from reproduce import plotting

    seen = {r.row.partition("_u")[0]: r.budget for r in records}
    return "; ".join(
        f"{plotting.NAMES[kind]}: {seen[kind]}" for kind in ("nf", "cnf") if kind in seen
    )
