"""A net trained at one accuracy may be tested at another, and with another solver.

The paper says so in Section 3 and shows no figure. The trained ODE-Net of Table 1 (tolerance 1e-3,
dopri5) is tested on MNIST's test images with every adaptive solver at tolerances 1 to 1e-5, and
with fixed steps, 1 to 32 of them: test error, evaluations of a mini-batch, and how many answers
change against those of dopri5 at 1e-5.

- `test_error_<tol>`, `nfe_<tol>`, `changed_<tol>`: adaptive methods, in %, evaluations and images.
- `test_error_steps_<n>`, …: fixed steps over t in [0, 1].
- `difference_<tol>`: error there less that at 1e-5, in points, with the 95 % interval of the
  difference over images (`_low`, `_high`), paired: the same net answers the same images.

Deviations: the paper names no solver but its own and no tolerance but 1e-3. Mini-batches of 1,000
are one differential equation each. `quick` tests the first 2,000 images.
"""

import hashlib
from typing import TYPE_CHECKING, Any

from reproduce import provenance
from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from lightning_modules.solvers import SolverSettings

PROTOCOL = 1
TRAINS = False
TOLERANCES = ("1", "1e-1", "1e-2", "1e-3", "1e-4", "1e-5")
REFERENCE = ("dopri5", "1e-5")
ADAPTIVE: dict[str, dict[str, Any]] = {
    "dopri5": {"backend": "native", "method": "dopri5"},
    "tsit5": {"backend": "native", "method": "tsit5"},
    "bosh3": {"backend": "native", "method": "bosh3"},
    "dopri8": {"backend": "native", "method": "dopri8"},
    "adaptive_heun": {"backend": "torchdiffeq", "method": "adaptive_heun"},
    "vode_adams": {
        "backend": "scipy",
        "method": "vode_adams",
        "gradient": "adjoint",
        "adjoint_norm": "rms",
    },
}
FIXED = ("euler", "midpoint", "rk4")
STEPS = (1, 2, 4, 8, 16, 32)
ROWS = (*ADAPTIVE, *FIXED)
UNITS = {"test_error": "%", "difference": "points", "nfe": "evaluations", "changed": "images"}
BATCH = 1000

PROFILES = {
    "smoke": Profile({"images": 20, "methods": ["dopri5", "rk4"]}, seeds=1, minutes=0.3),
    "quick": Profile({"images": 2000, "methods": list(ROWS)}, seeds=1, minutes=5),
    "short": Profile({"images": 10_000, "methods": list(ROWS)}, seeds=1, minutes=None),
    "paper": Profile({"images": 10_000, "methods": list(ROWS)}, seeds=1, minutes=None),
}


def run(ctx: Context) -> list[Record]:
    """Test with every solver; all rows are written together, since they only count so."""
    from reproduce.progress import Display

    settings = PROFILES[ctx.profile].overrides
    net, trained = _net(ctx)
    images, labels = _images(ctx, settings["images"])
    answers: dict[tuple[str, str], tuple[Tensor, float]] = {}
    choices = [(m, name, s) for m in settings["methods"] for name, s in _settings(m).items()]
    with Display(len(choices)) as display:
        for method, name, given in choices:
            display.start(f"{method} {name}")
            answers[method, name] = net(images, given)
            display.end("ok", "", False)
    records = []
    for (method, name), (answer, evaluations) in answers.items():
        values = _compared(answer, answers[REFERENCE][0], labels)
        values["nfe"] = evaluations
        records += _records(ctx, settings, trained, method, name, values)
    ctx.save(records, provenance.collect(ctx.command, {**settings, "weights": trained}))
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
    """Test error over evaluations, a line for each method."""
    from reproduce import plotting

    with plotting.style():
        figure, axes = plotting.subplots(size=(9.0, 5.5))
        for row in ROWS:
            points = sorted(_points(records, row))
            if points:
                axes.plot(*zip(*points, strict=True), **plotting.method_style(row))
        axes.set_xscale("log")
        axes.set_xlabel("evaluations of the field in one forward solve")
        axes.set_ylabel("test error (%)")
        axes.legend(ncols=2)
        figure.suptitle(f"One trained net under other solvers\n{records[0].budget}", fontsize=11)
    return figure


def _joined(metric: str, setting: str) -> str:
    """Return ``difference_1e-1_low`` for ``difference_low`` at ``1e-1``."""
    end = next((end for end in ("_low", "_high") if metric.endswith(end)), "")
    return f"{metric.removesuffix(end)}_{setting}{end}"


def _split(joined: str) -> tuple[str, str]:
    """Return the name of a metric and its setting."""
    end = next((end for end in ("_low", "_high") if joined.endswith(end)), "")
    name = next(name for name in UNITS if joined.startswith(f"{name}_"))
    return name + end, joined.removesuffix(end).removeprefix(f"{name}_")


def _points(records: list[Record], row: str) -> list[tuple[float, float]]:
    """Return evaluations and error of every setting of a method."""
    found: dict[str, dict[str, float]] = {}
    for r in records:
        if r.row == row and r.status == "ok":
            name, setting = _split(r.metric)
            found.setdefault(setting, {})[name] = r.value
    return [(v["nfe"], v["test_error"]) for v in found.values()]


def _settings(method: str) -> dict[str, "SolverSettings"]:
    from lightning_modules.solvers import SolverSettings

    if method in FIXED:
        return {
            f"steps_{n}": SolverSettings(backend="native", method=method, step_size=1 / n)
            for n in STEPS
        }
    given = ADAPTIVE[method]
    return {t: SolverSettings(rtol=float(t), atol=float(t), **given) for t in TOLERANCES}


def _images(ctx: Context, count: int) -> tuple["Tensor", "Tensor"]:
    """Return the first test images and their labels."""
    import torch

    from datamodules import MNIST

    data = MNIST(root=ctx.data_root)
    data.prepare_data()
    data.setup("test")
    batches = list(data.test_dataloader())
    images, labels = (torch.cat(part)[:count] for part in zip(*batches, strict=True))
    return images.to(ctx.device), labels.to(ctx.device)


def _net(ctx: Context) -> tuple[Any, str]:
    """Return a function from images and settings to answers and evaluations, and its origin."""
    import torch

    from lightning_modules.solvers import odeint
    from reproduce import trained

    path = trained.find("table1", "odenet", [ctx.out], ctx.profile)
    stem, field, head, facts = trained.parts(path)
    for part in (stem, field, head):
        part.to(ctx.device)
    times = torch.tensor([0.0, 1.0], device=ctx.device)

    @torch.no_grad()
    def answer(images: "Tensor", settings: "SolverSettings") -> tuple["Tensor", float]:
        found, evaluations = [], []
        for batch in images.split(BATCH):
            solution = odeint(field, stem(batch), times, settings)
            found.append(head(solution.ys[-1]).argmax(dim=1))
            evaluations.append(solution.stats.nfe_forward)
        return torch.cat(found), sum(evaluations) / len(evaluations)

    return answer, f"{path.stem}: {facts['budget']}, seed {facts['seed']}"


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


def _records(
    ctx: Context,
    settings: dict[str, Any],
    trained: str,
    method: str,
    name: str,
    values: dict[str, float],
) -> list[Record]:
    identity = repr((sorted(settings.items()), trained, PROTOCOL))
    return [
        Record(
            experiment="solver_swap",
            row=method,
            metric=_joined(metric, name),
            value=value,
            unit=UNITS[metric.removesuffix("_low").removesuffix("_high")],
            seed=0,
            profile=ctx.profile,
            protocol=PROTOCOL,
            budget=f"{settings['images']:,} test images, {trained}",
            overrides="",
            device=ctx.device_text,
            run=hashlib.sha256(identity.encode()).hexdigest()[:12],
        )
        for metric, value in values.items()
    ]
