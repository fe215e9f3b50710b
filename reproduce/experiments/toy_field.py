"""A random tanh field ends in a limit cycle in 3 to 4 of a hundred draws, else at rest (deck).

x' = tanh(tanh(x W₁) W₂) - 0.25 x from (1, -1), t in [0, 500], by Heun on 2,000 points, as the deck
solves its Keras model: two Dense(2, tanh) as Keras initialises them, weights uniform within
±√(6 / (2 + 2)) (Glorot), biases zero. A seed draws W₁ and then W₂ from torch's generator. The deck
shows a limit cycle, and its notebook says that the picture was picked; here the seeds 0 to 999 are
solved side by side and counted.

A path is told by its swing, the range of a coordinate: `rest` where both swing by less than 0.01
over t in [300, 500]; `cycle` where else both swing as far over [100, 300] as over [300, 500], to a
hundredth of the larger swing; `unsettled` where neither. A spiral that loses 1 % of its size in
200 units of time is thus no cycle.

Rows, all under every seed that was asked for, though `drawn` alone depends on it:

- `rest`, `cycle`, `unsettled`: how many of the seeds' fields, `count`; `share` with Wilson's 95 %
  interval; `count_later`, after following the unsettled ones to t = 4,500 and telling them by its
  last 500 in the same way.
- `drawn`: what the seed gives that was asked for, 0 by default. `is_rest` and `is_cycle`;
  `amplitude_1`, `amplitude_2`, half the swing over [300, 500]; `speed`, the field's size at the
  end; `period`, the mean time between upward crossings of the middle of x₁ in [100, 500], where it
  is a cycle; `heun_error`, largest distance of Heun from SciPy's DOP853 at 1e-13 over the points.
- `shown`: the same of the lowest `seed` whose field ends in a cycle with amplitudes of at least
  0.5 and a period of at least 50, so that it can be seen; `heun_period`, the period by Heun, where
  `period` is by DOP853.

Deviations:

1. The weights are torch's, since TensorFlow's own random numbers were not seeded in the deck.
2. The deck's cycle is therefore another one than `shown`: read off its figure, its amplitudes are
   about 1.5 and 3 and its period about 130. They are printed beside ours and not judged.
"""

from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.progress import track
from reproduce.random_fields import (
    END,
    KINDS,
    POINTS,
    SETTLED,
    field,
    grid,
    heun,
    period,
    reference,
    swing,
    told,
)
from reproduce.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

PROTOCOL = 1
TRAINS = False
SEEDED = True
CLEAR_AMPLITUDE, CLEAR_PERIOD = 0.5, 50.0
NAMES = {"rest": "at rest", "cycle": "limit cycle", "unsettled": "not settled yet"}
BATCH = 100  # fields that are solved at once
GALLERY = (4, 7)
HALF = 4.2  # of the square that is shown: no path leaves |x| ≤ 4
PROFILES = {
    "smoke": Profile({"nets": 60, "later": 1500.0}, seeds=1, minutes=0.2),
    "quick": Profile({"nets": 1000, "later": 4500.0}, seeds=1, minutes=0.2),
    "short": Profile({"nets": 1000, "later": 4500.0}, seeds=1, minutes=0.2),
    "paper": Profile({"nets": 1000, "later": 4500.0}, seeds=1, minutes=0.2),
}


def run(ctx: Context) -> list[Record]:
    """Count how fields end, measure one clear cycle, and what each seed gives."""
    given = PROFILES[ctx.profile].overrides
    settings = {**given, "end": END, "points": POINTS}
    paths = _solved(given["nets"])
    kinds = told(grid(), paths)
    late = [seed for seed, kind in enumerate(kinds) if kind == "unsettled"]
    values = _counts(kinds, followed(late, paths[-1, late], given["later"]))
    shown = clear_cycle(kinds, paths)
    skipped = {}
    seeds = dict.fromkeys([*([] if shown is None else [shown]), *ctx.seeds])
    of_seed = {seed: measured(seed) for seed in track(list(seeds), "toy_field")}
    if shown is None:
        skipped["shown"] = f"none of {given['nets']} seeds has a clear cycle"
    else:
        values["shown"] = {"seed": shown, **of_seed[shown]}
    budget = f"{given['nets']:,} random fields, t in [0, {END:g}]"
    common: dict[str, Any] = {"budget": budget, "unit": lambda metric: ""}
    records: list[Record] = []
    for seed in ctx.seeds:
        # Every seed has the counts too, or else its rows alone would make no figure.
        whole, chosen = {**values, "drawn": of_seed[seed]}, {**settings, "seed": seed}
        records += ctx.keep(
            "toy_field", PROTOCOL, whole, chosen, seed=seed, skipped=skipped, **common
        )
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row and seed."""
    from reproduce.records import to_frame

    frame = to_frame([r for r in records if r.status == "ok"])
    wide = frame.pivot_table(index=["row", "seed"], columns="metric", values="value", sort=False)
    return wide.dropna(axis=1, how="all")


def figures(records: list[Record], folder: "Path") -> dict[str, "Figure"]:
    """Return the seed's field above a clear cycle, and how the first seeds end."""
    from reproduce import plotting

    values = {(r.row, r.metric): r.value for r in records if r.status == "ok"}
    seeds = [r.seed for r in records if (r.row, r.metric) == ("drawn", "speed")][:1]
    if ("shown", "seed") in values:
        seeds.append(int(values["shown", "seed"]))
    seeds = list(dict.fromkeys(seeds))
    with plotting.style():
        first, axes = plotting.slide(len(seeds), 2, squeeze=False, width_ratios=[2, 1])
        for (left, right), seed in zip(axes, seeds, strict=True):
            _draw_path(left, right, seed)
        axes[-1][0].set_xlabel("time")
        axes[-1][1].set_xlabel("x₁")
        second, panels = plotting.slide(*GALLERY)
        _draw_gallery(panels.flat)
        shares = (
            f"{NAMES[kind]} {100 * values[kind, 'share']:.1f} % "
            f"({100 * values[kind, 'share_low']:.1f} to {100 * values[kind, 'share_high']:.1f})"
            for kind in KINDS
        )
        second.suptitle(
            f"Of {records[0].budget}:\n{', '.join(shares)}\nThe first {panels.size} seeds:",
            fontsize=16,
        )
    return {"": first, "seeds": second}


def clear_cycle(kinds: list[str], paths: "Tensor") -> int | None:
    """Return the lowest seed with a cycle large and slow enough to be seen; None without any."""
    halves = swing(grid(), paths, *SETTLED[1:]) / 2
    for seed, kind in enumerate(kinds):
        large = kind == "cycle" and float(halves[seed].min()) >= CLEAR_AMPLITUDE
        if large and period(grid(), paths[:, seed, 0]) >= CLEAR_PERIOD:
            return seed
    return None


def measured(seed: int) -> dict[str, float]:
    """Return how the field of a seed ends, and how far Heun is from the truth there."""
    import torch

    times, path = grid(), heun([seed])
    kind = told(times, path)[0]
    fine = torch.linspace(0, END, 10 * (POINTS - 1) + 1, dtype=torch.float64)
    truth = reference(seed, fine)
    halves = swing(fine, truth.unsqueeze(1), *SETTLED[1:])[0] / 2
    error = (path[:, 0] - truth[::10]).norm(dim=1).max()
    found = {
        "is_rest": float(kind == "rest"),
        "is_cycle": float(kind == "cycle"),
        "amplitude_1": float(halves[0]),
        "amplitude_2": float(halves[1]),
        "speed": float(field([seed])(times[-1], truth[-1:]).norm()),
        "heun_error": float(error),
    }
    if kind == "cycle":
        by_heun = period(times, path[:, 0, 0])
        found |= {"period": period(fine, truth[:, 0]), "heun_period": by_heun}
    return found


def _solved(nets: int) -> "Tensor":
    """Return the paths of the first seeds, ``(time, nets, 2)``, some at once."""
    import torch

    work = [range(k, min(k + BATCH, nets)) for k in range(0, nets, BATCH)]
    return torch.cat([heun(seeds) for seeds in track(work, "toy_field, fields")], dim=1)


def followed(seeds: list[int], states: "Tensor", later: float) -> list[str]:
    """Return how the paths of fields end that are followed on.

    Args:
        seeds: Of the fields.
        states: At t = 500, ``(seeds, 2)``.
        later: When they are told, by their last 500; a multiple of 500, at least 1,500.
    """
    import torch

    if not seeds:
        return []
    spans: list[tuple[Tensor, Tensor]] = []
    for k in track(range(1, round(later / END)), "toy_field, unsettled ones"):
        times = torch.linspace(k * END, (k + 1) * END, POINTS, dtype=torch.float64)
        paths = heun(seeds, states, times)
        states = paths[-1]
        spans = [*spans[-1:], (times, paths)]  # the last two are what is told by
    times, paths = (torch.cat(parts) for parts in zip(*spans, strict=True))
    return told(times, paths, (later - 2 * END, later - END, later))


def _counts(kinds: list[str], later: list[str]) -> dict[str, dict[str, float]]:
    """Return how many paths end how, with their share, and what becomes of the unsettled.

    Args:
        kinds: How every path ends.
        later: How those end that are unsettled there, when they are followed.
    """
    from reproduce.statistics import binomial_interval

    finally_told = [kind for kind in kinds if kind != "unsettled"] + later
    values: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        count = kinds.count(kind)
        low, high = binomial_interval(count, len(kinds))
        values[kind] = {
            "count": count,
            "share": count / len(kinds),
            "share_low": low,
            "share_high": high,
            "count_later": finally_told.count(kind),
        }
    return values


_LINES = {"rest": ("blue", "-"), "cycle": ("vermillion", "-"), "unsettled": ("black", "--")}


def _draw_path(left: "Axes", right: "Axes", seed: int) -> None:
    """Show both coordinates over time, and the path over the plane with its field."""
    from reproduce import phase_portraits, plotting

    times, path = grid(), heun([seed])
    kind = told(times, path)[0]
    colour = plotting.OKABE_ITO[_LINES[kind][0]]
    title = f"seed {seed}: {NAMES[kind]}"
    if kind == "rest":  # the rest of the axis would be flat
        end = min(END, 2 * _settled_at(times, path[:, 0]))
        left.set_xlim(-0.02 * end, end)
        title += f" by half of this time axis, flat on to t = {END:g}" if end < END else ""
    # Colours that the path has not, which is of both and is drawn by how it ends.
    left.plot(times, path[:, 0, 0], color=plotting.OKABE_ITO["black"], linewidth=1.5, label="x₁")
    left.plot(
        times, path[:, 0, 1], "--", color=plotting.OKABE_ITO["green"], linewidth=1.5, label="x₂"
    )
    left.set_title(title, fontsize=16)
    left.set_ylabel("x₁ and x₂")
    left.legend(loc="center left", bbox_to_anchor=(1, 0.5))  # a cycle leaves no room within
    phase_portraits.arrows(right, lambda x: field([seed] * len(x))(times[0], x), HALF)
    phase_portraits.line(right, path[:, 0], color=colour, linewidth=1.5)
    right.plot(1, -1, "o", color="#000000", markersize=7)
    right.set_ylabel("x₂")


def _settled_at(times: "Tensor", path: "Tensor") -> float:
    """Return from when on a path stays where it ends, to a hundredth of the way there."""
    away = (path - path[-1]).norm(dim=1)
    moving = (away > 0.01 * away[0]).nonzero()
    return float(times[int(moving[-1]) + 1]) if len(moving) else END


def _draw_gallery(panels: Any) -> None:
    """Show the paths of the first seeds over the plane, by how they end."""
    from reproduce import phase_portraits, plotting

    axes = list(panels)
    paths = heun(range(len(axes)))
    for seed, (panel, kind) in enumerate(zip(axes, told(grid(), paths), strict=True)):
        colour, dash = _LINES[kind]
        look = {"color": plotting.OKABE_ITO[colour], "linestyle": dash, "linewidth": 1.5}
        phase_portraits.line(panel, paths[:, seed], **look)
        if kind == "rest":
            panel.plot(*paths[-1, seed], "s", color=look["color"], markersize=6)
        panel.plot(1, -1, "o", color="#000000", markersize=4)
        phase_portraits.square(panel, HALF)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.set_title(f"{seed}: {NAMES[kind]}", fontsize=14)
