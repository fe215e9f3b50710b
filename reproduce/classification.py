"""What the tables of MNIST classifiers share: profiles, trainings, rows, table and figure."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reproduce import evidence, own_rows, trainings
from reproduce.context import Context, Profile
from reproduce.jobs import BadSettings, Job, Result, configuration
from reproduce.records import Failed, Record
from reproduce.trainings import Values
from reproduce.trials import Contract

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROTOCOL = 1  # of the trainings, whichever table they are for
TRAIN_IMAGES = 60_000
MEASURED = ("odenet",)  # rows whose nets other experiments measure: weights of every seed are kept
BASE = "odenet.yaml"  # of which a user's own row has trainer and data
FREE = ("augment", "deskew")  # of the data, as rows of ours differ in them too
CONTRACT = Contract(
    ("test/wrong", "test/images"),
    "A model of this table is a LightningModule that takes batches (images, labels), (n, 1, 28, "
    "28) in [0, 1] and (n,), and logs test/wrong and test/images, how many images it got wrong "
    "and how many there were (lightning_modules.Classifier does).",
)
METRICS = {
    "test_error": "%",
    "test_images": "images",
    "test_loss": "nats",
    "parameters": "parameters",
    "train_seconds": "s",
    "peak_memory": "MiB",
    "train_nfe_forward": "evaluations",
    "train_nfe_backward": "evaluations",
    "train_steps_rejected": "steps",
    "test_nfe_forward": "evaluations",
}
SPREAD = 0.6  # of a row's height that the marks of its seeds take
OF_SOLVES = {name for name, unit in METRICS.items() if unit in ("evaluations", "steps")}
_ONE_CYCLE = {"model.schedule.name": "one_cycle", "model.schedule.milestones": []}


def profiles(minutes: Mapping[str, float]) -> dict[str, Profile]:
    """Return the profiles that every table of classifiers has.

    Args:
        minutes: Measured minutes of one seed on two CPU cores, by profile.
    """
    changes: dict[str, dict[str, Any]] = {
        "smoke": {
            **_ONE_CYCLE,
            "trainer.max_epochs": 1,
            "trainer.limit_train_batches": 2,
            "trainer.limit_test_batches": 2,
            "data.batch_size": 8,
            "data.test_batch_size": 16,
        },
        "quick": {**_ONE_CYCLE, "trainer.max_epochs": 1},
        "short": {**_ONE_CYCLE, "trainer.max_epochs": 3},
        "paper": {},
    }
    seeds = {"smoke": 1, "quick": 1, "short": 5, "paper": 5}
    return {name: Profile(changes[name], seeds[name], minutes.get(name)) for name in changes}


def run(
    ctx: Context, experiment: str, profile: Profile, rows: Sequence[str], *, again: bool = False
) -> list[Record]:
    """Train every row with every seed; write a seed's rows as soon as its test has ended.

    A run whose rows are there is not repeated, on whatever machine they were made.

    Args:
        ctx: The context, whose own rows are trained beside these.
        experiment: Name of the experiment.
        profile: Its profile that is run.
        rows: Its rows; each has a configuration of its name.
        again: Whether to repeat those runs too, since their weights are missing.

    Raises:
        BadSettings: If a row cannot be trained with what the user asked for.
    """
    from datamodules import MNIST

    MNIST(root=ctx.data_root).prepare_data()
    work = [
        job for seed in ctx.seeds for job in _jobs(ctx, experiment, profile.overrides, rows, seed)
    ]

    def made(result: Result, _: Sequence[Record]) -> list[Record]:
        config = result.job.resolved
        text = budget(config) + solver_text(config)
        return trainings.rows_of(ctx, result, _values(result), text, METRICS.__getitem__)

    def keep(result: Result, records: Sequence[Record]) -> None:
        job = result.job
        measured = job.row in MEASURED or job.own is not None
        path, folder = ctx.csv(experiment), job.folder(ctx.runs)
        evidence.keep(path, folder, records[0], code=job.code, every_seed=measured)

    return trainings.run(ctx, work, made, keep, contract=CONTRACT, again=again)


def _jobs(
    ctx: Context, experiment: str, overrides: Mapping[str, Any], rows: Sequence[str], seed: int
) -> list[Job]:
    """Return the trainings of one seed: those of the table, then the user's own."""
    data = {} if ctx.data_root is None else {"data.root": ctx.data_root}
    last = {**ctx.device_overrides(), **data, **ctx.changes}
    ours = [
        Job(experiment, row, f"{row}.yaml", {**overrides, **last}, seed, PROTOCOL) for row in rows
    ]
    try:
        own = [own_rows.placed(row, configuration(BASE), FREE) for row in ctx.own]
    except ValueError as error:
        raise BadSettings(f"{experiment}, {error}") from error
    return [
        *ours,
        *(
            Job(experiment, r.name, BASE, {**r.applying(overrides), **last}, seed, PROTOCOL, r)
            for r in own
        ),
    ]


def table(records: Sequence[Record], rows: Sequence[str]) -> "pd.DataFrame":
    """One line per row: error, parameters, evaluations, seconds and memory, means over seeds."""
    import pandas as pd

    frame = pd.DataFrame([vars(r) for r in records if r.status == "ok"])
    if frame.empty:
        return frame
    wide = frame.pivot_table(index="row", columns="metric", values="value", aggfunc="mean")
    shown = [row for row in _with_own(records, rows) if row in wide.index]
    return wide.reindex(index=shown, columns=list(METRICS))


def plot(records: Sequence[Record], rows: Sequence[str], title: str) -> "Figure":
    """Test error of every seed beside the paper's, and parameters, row by row."""
    from reproduce import plotting

    with plotting.style():
        figure, (left, right) = plotting.subplots(1, 2, width_ratios=[3, 2], sharey=True)
        _draw(left, right, records, _with_own(records, rows))
        budget = min((r.budget for r in records), key=len)  # of a row without a solver
        figure.suptitle(f"{title}: {budget}")
    return figure


def _with_own(records: Sequence[Record], rows: Sequence[str]) -> list[str]:
    """Return the rows of a table, then those that a user has added to its records."""
    return list(dict.fromkeys([*rows, *(r.row for r in records)]))


def _draw(left: "Axes", right: "Axes", records: Sequence[Record], rows: Sequence[str]) -> None:
    from reproduce import plotting

    for place, row in enumerate(rows):
        style = plotting.method_style(row)
        mine = [r for r in records if r.row == row and r.status == "ok"]
        errors = [r.value for r in sorted(mine, key=_seed) if r.metric == "test_error"]
        left.plot(errors, _beside(place, len(errors)), linestyle="none", **style)
        _draw_paper(left, records, row, "test_error", place, 1)
        sizes = [r.value / 1e6 for r in mine if r.metric == "parameters"]
        right.barh(place, sizes[0] if sizes else 0, height=0.5, color=style["color"])
        # White inside, since a hollow mark is not seen on a dark bar.
        _draw_paper(right, records, row, "parameters", place, 1e-6, markerfacecolor="white")
    plotting.legend(right)
    left.set_xlabel("test error (%), one mark a seed, the first on top")
    left.set_xlim(left=0)
    left.set_yticks(range(len(rows)), [plotting.method_style(row)["label"] for row in rows])
    left.invert_yaxis()
    right.set_xlabel("parameters (millions)")


def _seed(record: Record) -> int:
    return record.seed


def _beside(place: int, marks: int) -> list[float]:
    """Return heights around a row's place, or marks of seeds that err alike would hide others."""
    step = min(0.15, SPREAD / max(marks - 1, 1))
    return [place + step * (k - (marks - 1) / 2) for k in range(marks)]


def _draw_paper(
    axes: "Axes",
    records: Sequence[Record],
    row: str,
    metric: str,
    place: int,
    scale: float,
    **look: str,
) -> None:
    """Mark the published number, where there is one."""
    from reproduce import paper, plotting

    for number in paper.numbers(records[0].experiment):
        if number.metric == metric and row in number.rows and not isinstance(number.value, str):
            axes.plot(number.value * scale, place, **{**plotting.PAPER_STYLE, **look})


def _values(result: Result) -> Values:
    if result.status != "ok":
        return {"test_error": Failed(result.status, result.hint)}
    images = result.metrics["test/images"]
    solves = result.cost["test_nfe_forward"] > 0
    return {
        # From the counts, which are exact, and not from a rounded mean.
        "test_error": 100 * result.metrics["test/wrong"] / images,
        "test_images": images,
        **({"test_loss": result.metrics["test/loss"]} if "test/loss" in result.metrics else {}),
        "parameters": result.parameters,
        **{
            name: result.cost[name]
            for name in METRICS
            if name in result.cost and (solves or name not in OF_SOLVES)
        },
    }


def budget(config: dict[str, Any]) -> str:
    """Say in words how long a resolved configuration trains."""
    trainer, batch = config["trainer"], config["data"]["init_args"]["batch_size"]
    schedule = schedule_text(config)
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


def schedule_text(config: dict[str, Any]) -> str:
    """Name the schedule of a resolved configuration, or say that the model has its own."""
    schedule = config["model"].get("init_args", {}).get("schedule")
    named = schedule.get("name") if isinstance(schedule, dict) else None
    return str(named).replace("_", " ") if named else "its own schedule"


def solver_text(config: dict[str, Any]) -> str:
    """Name the solver of a resolved configuration; empty for a network without an equation."""
    solver = trainings.solver_of(config) or {}
    stated = [str(solver[name]) for name in ("backend", "method", "gradient") if name in solver]
    stated += [f"at {solver['rtol']:g}"] if "rtol" in solver else []
    return f", {' '.join(stated)}" if stated else ""
