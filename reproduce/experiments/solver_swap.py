"""May a net trained at one accuracy be tested at another, and with another solver?

Yes, says the paper in Section 3, without a figure. The trained ODE-Net of Table 1 (tolerance 1e-3,
dopri5) is tested on MNIST's test images with every adaptive solver at tolerances 1 to 1e-5, and
with every solver of fixed steps, 1 to 32 of them: test error, evaluations of a mini-batch, and how
many answers change against those of dopri5 at 1e-5. A method that two backends have is run by the
native one; lsoda alone is left out, whose memory grows with the square of the state.

- `test_error_<tol>`, `nfe_<tol>`, `changed_<tol>`: adaptive methods, in %, evaluations and images.
- `test_error_steps_<n>`, …: fixed steps over t in [0, 1].
- `difference_<tol>`: error there less that at 1e-5, in points, with the 95 % interval of the
  difference over images (`_low`, `_high`), paired: the same net answers the same images.

Deviations: the paper names no solver but its own and no tolerance but 1e-3. Mini-batches of 1,000
are one differential equation each. `quick` tests the first 2,000 images.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile, identity
from reproduce.records import Failed, Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from lightning_modules.solvers import SolverSettings

PROTOCOL = 1
TRAINS = False
TOLERANCES = ("1", "1e-1", "1e-2", "1e-3", "1e-4", "1e-5")
REFERENCE = ("dopri5", "1e-5")
FAR = 5.0  # points; what changes the error by more is named at the edge of the figure
ADAPTIVE: dict[str, dict[str, Any]] = {
    "dopri5": {"backend": "native", "method": "dopri5"},
    "tsit5": {"backend": "native", "method": "tsit5"},
    "bosh3": {"backend": "native", "method": "bosh3"},
    "dopri8": {"backend": "native", "method": "dopri8"},
    "adaptive_heun": {"backend": "torchdiffeq", "method": "adaptive_heun"},
    "fehlberg2": {"backend": "torchdiffeq", "method": "fehlberg2"},
    "vode_adams": {
        "backend": "scipy",
        "method": "vode_adams",
        "gradient": "adjoint",
        "adjoint_norm": "rms",
    },
}
FIXED = {
    **dict.fromkeys(("euler", "midpoint", "heun", "rk4", "rk4_38"), "native"),
    **dict.fromkeys(("heun3", "explicit_adams", "implicit_adams"), "torchdiffeq"),
}
STEPS = (1, 2, 4, 8, 16, 32)
# A dash of its own for each method of a panel: some share their colour, and grey has none.
_DASHES: tuple[Any, ...] = (
    "-",
    "--",
    ":",
    "-.",
    (0, (8, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (1, 3)),
    (0, (8, 2, 2, 2)),
)
DASHES = dict(zip(ADAPTIVE, _DASHES, strict=False)) | dict(zip(FIXED, _DASHES, strict=True))
ROWS = (*ADAPTIVE, *FIXED)
UNITS = {"test_error": "%", "difference": "points", "nfe": "evaluations", "changed": "images"}
BATCH = 1000

PROFILES = {
    "smoke": Profile({"images": 20, "methods": ["dopri5", "rk4"]}, seeds=1, minutes=0.3),
    "quick": Profile({"images": 2000, "methods": list(ROWS)}, seeds=1, minutes=None),
    "short": Profile({"images": 10_000, "methods": list(ROWS)}, seeds=1, minutes=None),
    "paper": Profile({"images": 10_000, "methods": list(ROWS)}, seeds=1, minutes=None),
}


def run(ctx: Context) -> list[Record]:
    """Test with every solver that has no rows yet; they are written as soon as it is done."""
    import torch

    from reproduce import trained
    from reproduce.digits import test_images
    from reproduce.progress import Display

    given = PROFILES[ctx.profile].overrides
    net = trained.odenet(ctx, ctx.profile)
    stem, field, head = net.parts(ctx.device)
    images, labels = test_images(ctx.data_root, ctx.device, given["images"])
    with torch.no_grad():
        test = _Test(field, head, [stem(batch) for batch in images.split(BATCH)], labels)
    budget = f"{given['images']:,} test images; net: {net.text}"
    records: list[Record] = []
    with Display(len(given["methods"])) as display:
        for method in given["methods"]:
            line = display.start(method)
            settings = {"images": given["images"], "weights": net.text, "device": ctx.device,
                        "solvers": {n: repr(s) for n, s in _settings(method).items()}}  # fmt: skip
            there = ctx.found("solver_swap", identity(settings, PROTOCOL))
            if not there:
                kept = ctx.keep(
                    "solver_swap",
                    PROTOCOL,
                    {method: test.method(method)},
                    settings,
                    budget=budget,
                    unit=_unit,
                    seed=net.seed,
                )
            records += there or kept
            line.end("ok", "", bool(there))
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per method and setting: error, evaluations and changed answers."""
    import pandas as pd

    lines: dict[tuple[str, str], dict[str, float]] = {}
    for r in records:
        metric, setting = _split(r.metric)
        lines.setdefault((r.row, setting), {})[metric] = r.value
    return pd.DataFrame.from_dict(lines, orient="index")


def plot(records: list[Record]) -> "Figure":
    """Change of the test error, against tolerance and against the number of fixed steps."""
    from reproduce import plotting

    panels = (
        (tuple(ADAPTIVE), TOLERANCES),
        (tuple(FIXED), tuple(f"steps_{n}" for n in STEPS)),
    )
    with plotting.style():
        figure, axes = plotting.subplots(1, 2, size=(7.5, 6.0), sharey=True)
        axes[0].set_ylim(*_limits(records))
        for panel, (rows, settings) in zip(axes, panels, strict=True):
            panel.axhline(0, color="#999999", linewidth=1)
            plotting.slots(panel, [setting.removeprefix("steps_") for setting in settings])
            # Side by side, or marks of the same error would hide each other.
            for row, beside in zip(rows, plotting.side_by_side(len(rows)), strict=True):
                _draw(panel, records, row, {s: k + beside for k, s in enumerate(settings)})
            if panel.get_legend_handles_labels()[0]:
                panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handlelength=3.5)
        axes[0].set_xlabel("tolerance at test time (trained at 1e-3);\nmarks of one side by side")
        axes[1].set_xlabel("fixed steps over t in [0, 1];\nmarks of one number side by side")
        axes[0].set_ylabel("change of the test error (points)")
        figure.suptitle(f"One trained net under other solvers\n{records[0].budget}", fontsize=11)
    return figure


def findings(records: list[Record]) -> str:
    """Say how far the test error changes, and with which solvers it is quite another one."""
    points = {
        (row, setting): point
        for row in dict.fromkeys(r.row for r in records)
        for setting, point in _by_setting(records, row).items()
    }
    before = points[REFERENCE]["test_error"]
    near = {where: point for where, point in points.items() if not _far(point)}
    most = max(near, key=lambda where: abs(near[where]["difference"]))
    far = {where: point for where, point in points.items() if where not in near}
    failed = dict.fromkeys((r.row, _split(r.metric)[1]) for r in records if r.status != "ok")
    but = " and ".join(_words(*where, " at ") for where in (*far, *failed))
    said = [
        f"With every {f'other solver here but {but}' if but else 'solver here'}, the test error "
        f"of one trained net is within {abs(near[most]['difference']):.2f} points of that with "
        f"{_words(*REFERENCE, ' at ')}, {before:.2f} %; "
        f"{_words(*most, ' at ')} is the farthest from it."
    ]
    for where, point in far.items():
        low, high = point["difference_low"], point["difference_high"]
        said.append(
            f"With {_words(*where, ' at ')} it is {point['test_error']:.1f} %, "
            f"{point['difference']:.1f} points more ({low:.1f} to {high:.1f})."
        )
    return " ".join([*said, *(f"{_words(*where, ' at ')} fails." for where in failed)])


def _draw(axes: "Axes", records: list[Record], row: str, places: dict[str, float]) -> None:
    """Draw a method's differences with their intervals over images, far ones at the edge.

    Args:
        axes: Where.
        records: The rows.
        row: The method.
        places: Where on the horizontal axis its mark of each setting stands.
    """
    from reproduce import plotting

    points = _by_setting(records, row)
    near = {setting: point for setting, point in points.items() if not _far(point)}
    if not points:
        return
    xs = [places[setting] for setting in near]
    ys = [point["difference"] for point in near.values()]
    low = [point["difference"] - point["difference_low"] for point in near.values()]
    high = [point["difference_high"] - point["difference"] for point in near.values()]
    # Where both counts are small, the interval's centre is not the difference.
    bars = [[max(v, 0.0) for v in side] for side in (low, high)]
    look: dict[str, Any] = {**plotting.method_style(row), "markersize": 7}
    look["linestyle"] = DASHES[row]
    axes.errorbar(xs, ys, bars, fmt="none", ecolor=look["color"], capsize=2, elinewidth=1)
    axes.plot(xs, ys, linewidth=1.2, **look)
    for setting in points:
        if setting not in near:
            said = f"{_words(row, setting)}: test error {points[setting]['test_error']:.1f} %"
            _name_at_edge(axes, places[setting], said, look["color"])


def _name_at_edge(axes: "Axes", place: float, said: str, colour: str) -> None:
    """Point out of the axes to where a mark would be, with its value in words."""
    edge = axes.get_xaxis_transform()
    axes.plot(place, 0.98, "^", color=colour, markersize=9, transform=edge)
    low, high = axes.get_xlim()
    side = -1 if place > (low + high) / 2 else 1
    lines = len(axes.texts)  # names already there
    axes.annotate(
        said,
        (place, 0.98),
        (10 * side, -16 * lines),
        xycoords=edge,
        textcoords="offset points",
        ha="right" if side < 0 else "left",
        va="center",
        fontsize=12,
    )


def _far(point: dict[str, float]) -> bool:
    return point["difference"] >= FAR


def _limits(records: list[Record]) -> tuple[float, float]:
    """Scale to what is worth a comparison: one solver may err in a fifth of the images."""
    rows = dict.fromkeys(r.row for r in records)
    points = [point for row in rows for point in _by_setting(records, row).values()]
    near = [point for point in points if not _far(point)]
    least = min([point["difference_low"] for point in near] + [-0.05])
    return 1.1 * least, 1.15 * max([point["difference_high"] for point in near] + [0.05])


def _words(row: str, setting: str, link: str = ", ") -> str:
    """Return a method and its setting in words."""
    from reproduce import plotting

    steps = setting.removeprefix("steps_")
    said = setting if steps == setting else f"{steps} step{'' if steps == '1' else 's'}"
    return f"{plotting.NAMES[row]}{link}{said}"


def _by_setting(records: list[Record], row: str) -> dict[str, dict[str, float]]:
    """Return the metrics of every setting of a method, in order."""
    found: dict[str, dict[str, float]] = {}
    for r in records:
        if r.row == row and r.status == "ok":
            name, setting = _split(r.metric)
            found.setdefault(setting, {})[name] = r.value
    return dict(sorted(found.items(), key=lambda pair: float(pair[0].removeprefix("steps_"))))


def _joined(metric: str, setting: str) -> str:
    """Return ``difference_1e-1_low`` for ``difference_low`` at ``1e-1``."""
    end = next((end for end in ("_low", "_high") if metric.endswith(end)), "")
    return f"{metric.removesuffix(end)}_{setting}{end}"


def _split(joined: str) -> tuple[str, str]:
    """Return the name of a metric and its setting."""
    end = next((end for end in ("_low", "_high") if joined.endswith(end)), "")
    name = next(name for name in UNITS if joined.startswith(f"{name}_"))
    return name + end, joined.removesuffix(end).removeprefix(f"{name}_")


def _settings(method: str) -> dict[str, "SolverSettings"]:
    from lightning_modules.solvers import SolverSettings

    if method in FIXED:
        return {
            f"steps_{n}": SolverSettings(FIXED[method], method, step_size=1 / n) for n in STEPS
        }
    given = ADAPTIVE[method]
    return {t: SolverSettings(rtol=float(t), atol=float(t), **given) for t in TOLERANCES}


@dataclass(frozen=True)
class _Test:
    """A trained net and what it is tested with.

    Args:
        field: Its field.
        head: What answers from the state at the end.
        features: The states at the start, a mini-batch each.
        labels: The right answers to all of them.
    """

    field: "nn.Module"
    head: "nn.Module"
    features: list["Tensor"]
    labels: "Tensor"

    def method(self, method: str) -> dict[str, float | Failed]:
        """Return the metrics at every setting of a method."""
        from lightning_modules.solvers import SolverFailed

        values: dict[str, float | Failed] = {}
        for name, settings in _settings(method).items():
            try:
                answer, evaluations = self._answers(settings)
            except SolverFailed as error:
                values[_joined("test_error", name)] = Failed(error.kind, str(error))
                continue
            found = _compared(answer, self._reference, self.labels) | {"nfe": evaluations}
            values |= {_joined(metric, name): value for metric, value in found.items()}
        return values

    @cached_property
    def _reference(self) -> "Tensor":
        method, name = REFERENCE
        return self._answers(_settings(method)[name])[0]

    def _answers(self, settings: "SolverSettings") -> tuple["Tensor", float]:
        """Return the classes that the net answers, and the mean evaluations of a mini-batch."""
        import torch

        from lightning_modules.solvers import odeint

        times = self.features[0].new_tensor([0.0, 1.0])
        found, evaluations = [], []
        with torch.no_grad():
            for batch in self.features:
                solution = odeint(self.field, batch, times, settings)
                found.append(self.head(solution.ys[-1]).argmax(dim=1))
                evaluations.append(solution.stats.nfe_forward)
        return torch.cat(found), sum(evaluations) / len(evaluations)


def _compared(answer: "Tensor", reference: "Tensor", labels: "Tensor") -> dict[str, float]:
    from reproduce import statistics

    wrong, before = answer != labels, reference != labels
    worse, better = int((wrong & ~before).sum()), int((before & ~wrong).sum())
    difference = statistics.paired_proportions(worse, better, len(labels))
    return {
        "test_error": 100 * float(wrong.float().mean()),
        "changed": int((answer != reference).sum()),
        "difference": 100 * difference.value,
        "difference_low": 100 * difference.low,
        "difference_high": 100 * difference.high,
    }


def _unit(metric: str) -> str:
    name, _ = _split(metric)
    return UNITS[name.removesuffix("_low").removesuffix("_high")]
