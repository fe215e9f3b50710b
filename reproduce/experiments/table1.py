"""Table 1: on MNIST an ODE-Net is about as accurate as a ResNet with a third of its parameters.

Trains the paper's four networks, the perceptron twice, and tests the final weights on the 10,000
test images. `quick` takes minutes on two CPU cores and one seed; `paper` is 160 epochs.

Deviations from the paper, which gives neither optimizer, schedule, augmentation nor seeds:

1. Training follows the authors' later public example: SGD 0.1, momentum 0.9, drops after epochs
   60, 100 and 140 of 160, batch 128 (drop_last: 468 an epoch), random crop of 28 from 36 pixels.
2. Solver: dopri5 at tolerance 1e-3 in place of the Fortran Adams code behind SciPy, by our native
   backend, which takes the steps that torchdiffeq takes in less time (`step_time`).
   `--set model.solver.backend=torchdiffeq` trains with that library.
3. Stem: two strided residual blocks. Its ResNet has 601,482 parameters, the paper's 0.60 M; its
   ODE-Net has 232,970, where the paper prints 0.22 M. `--set model.stem=conv` takes the other one.
4. The paper quotes the perceptron from LeCun et al. (1998), where 1.6 % belongs to deskewed
   images. Both rows here are 784-300-10 without augmentation, on raw and on deskewed images.
5. All 60,000 images train and nothing is selected: the weights after the last update are tested,
   in mini-batches of 1,000, each of which is one differential equation.
6. `short` and `quick` replace the schedule by one cycle over 3 epochs or a stated part of one.
"""

import math
from typing import TYPE_CHECKING, Any

from reproduce.context import Context, Profile
from reproduce.jobs import Job, Result
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROTOCOL = 1
TRAINS = True
ROWS = ("mlp", "mlp_deskewed", "resnet", "rknet", "odenet")
TRAIN_IMAGES = 60_000

_ONE_CYCLE = {"model.schedule.name": "one_cycle", "model.schedule.milestones": []}
PROFILES = {
    "smoke": Profile(
        {
            **_ONE_CYCLE,
            "trainer.max_epochs": 1,
            "trainer.limit_train_batches": 2,
            "trainer.limit_test_batches": 1,
            "data.batch_size": 8,
            "data.test_batch_size": 16,
        },
        seeds=1,
        minutes=1,
    ),
    "quick": Profile(
        {**_ONE_CYCLE, "trainer.max_epochs": 1, "trainer.limit_train_batches": 430},
        seeds=1,
        minutes=9,
    ),
    "short": Profile({**_ONE_CYCLE, "trainer.max_epochs": 3}, seeds=5, minutes=None),
    "paper": Profile({}, seeds=5, minutes=None),
}
METRICS = {
    "test_error": "%",
    "test_images": "images",
    "test_loss": "nats",
    "parameters": "parameters",
    "train_seconds": "s",
    "peak_memory": "MiB",
    "train_nfe_forward": "evaluations",
    "train_nfe_backward": "evaluations",
    "test_nfe_forward": "evaluations",
}


def run(ctx: Context) -> list[Record]:
    """Train every row with every seed; write a seed's rows as soon as its test has ended."""
    from datamodules import MNIST

    MNIST(root=ctx.data_root).prepare_data()
    overrides = {**PROFILES[ctx.profile].overrides, **ctx.device_overrides(), **ctx.changes}
    work = [
        Job("table1", row, f"{row}.yaml", overrides, seed, PROTOCOL)
        for seed in ctx.seeds
        for row in ROWS
    ]
    records: list[Record] = []
    for result in ctx.train(work):
        rows = _records(ctx, result)
        ctx.save(rows, result.made)
        records += rows
    return records


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per row: error, parameters, evaluations, seconds and memory, means over seeds."""
    import pandas as pd

    frame = pd.DataFrame([vars(r) for r in records if r.status == "ok"])
    if frame.empty:
        return frame
    wide = frame.pivot_table(index="row", columns="metric", values="value", aggfunc="mean")
    return wide.reindex(index=[row for row in ROWS if row in wide.index], columns=list(METRICS))


def plot(records: list[Record]) -> "Figure":
    """Test error of every seed beside the paper's, and parameters, row by row."""
    from reproduce import plotting

    with plotting.style():
        figure, (left, right) = plotting.subplots(1, 2, width_ratios=[3, 2], sharey=True)
        _draw(left, right, records)
        budgets = {r.budget for r in records if r.row in ("mlp", "resnet")}
        figure.suptitle(f"Table 1 on MNIST: {'; '.join(sorted(budgets))}")
    return figure


def _draw(left: "Axes", right: "Axes", records: list[Record]) -> None:
    from reproduce import paper, plotting

    for place, row in enumerate(ROWS):
        style = plotting.method_style(row)
        mine = [r for r in records if r.row == row and r.status == "ok"]
        errors = [r.value for r in mine if r.metric == "test_error"]
        left.plot(errors, [place] * len(errors), linestyle="none", **style)
        published = paper.number("table1", row, "test_error")
        left.plot(float(published.value), place, **plotting.PAPER_STYLE)
        sizes = [r.value / 1e6 for r in mine if r.metric == "parameters"]
        right.barh(place, sizes[0] if sizes else 0, height=0.5, color=style["color"])
        published = paper.number("table1", row, "parameters")
        right.plot(float(published.value) / 1e6, place, **plotting.PAPER_STYLE)
    plotting.legend(right)
    left.set_xlabel("test error (%), one mark a seed")
    left.set_xlim(left=0)
    left.set_yticks(range(len(ROWS)), [plotting.NAMES[row] for row in ROWS])
    left.invert_yaxis()
    right.set_xlabel("parameters (millions)")


def _records(ctx: Context, result: Result) -> list[Record]:
    job = result.job
    values = _values(result) if result.status == "ok" else {"test_error": math.nan}
    return [
        Record(
            experiment=job.experiment,
            row=job.row,
            metric=metric,
            value=value,
            unit=METRICS[metric],
            seed=job.seed,
            profile=ctx.profile,
            protocol=PROTOCOL,
            budget=budget(job.resolved) + solver_text(job.resolved),
            overrides=ctx.overrides_text,
            device=result.device or ctx.device_text,
            run=job.run,
            status=result.status,
            hint=result.hint,
        )
        for metric, value in values.items()
    ]


def _values(result: Result) -> dict[str, float]:
    images = result.metrics["test/images"]
    solves = result.cost["test_nfe_forward"] > 0
    return {
        # From the counts, which are exact, and not from a rounded mean.
        "test_error": 100 * result.metrics["test/wrong"] / images,
        "test_images": images,
        "test_loss": result.metrics["test/loss"],
        "parameters": result.parameters,
        **{
            name: result.cost[name]
            for name in METRICS
            if name in result.cost and (solves or "nfe" not in name)
        },
    }


def budget(config: dict[str, Any]) -> str:
    """Say in words how long a resolved configuration trains."""
    trainer, batch = config["trainer"], config["data"]["init_args"]["batch_size"]
    schedule = config["model"]["init_args"]["schedule"]["name"].replace("_", " ")
    limit, whole = trainer["limit_train_batches"], TRAIN_IMAGES // batch
    batches = limit if isinstance(limit, int) else int(limit * whole)
    epochs = trainer["max_epochs"]
    if batches >= whole:
        length = f"{epochs} epoch{'s' if epochs > 1 else ''}"
    else:
        part = batches * batch / TRAIN_IMAGES
        length = f"{part:.2g} of an epoch ({batches} batches)"
        length = length if epochs == 1 else f"{epochs} times {length}"
    return f"{length}, batch {batch}, {schedule}"


def solver_text(config: dict[str, Any]) -> str:
    """Name the solver of a resolved configuration; empty for a network without an equation."""
    model = config["model"]["init_args"]
    if model["body"] != "ode":
        return ""
    solver = model["solver"]
    return f", {solver['backend']} {solver['method']} {solver['gradient']} at {solver['rtol']:g}"
