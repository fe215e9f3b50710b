"""Trainings of which an experiment measures what it likes: jobs, their rows and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reproduce import evidence, trainings
from reproduce.context import Context
from reproduce.jobs import BadSettings, Job, Result, short_key
from reproduce.own_rows import OwnRow
from reproduce.records import Failed, Record
from reproduce.trainings import Values
from reproduce.trials import Contract

OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop", "sgd": "SGD"}  # as they are written


@dataclass(frozen=True)
class Fit:
    """One training.

    Args:
        row: Row that it is for, which has no other of the same seed.
        metric: What it is trained for; a failed training is a row of this metric.
        config: File name of its configuration.
        seed: Its seed.
        overrides: What it changes in the configuration.
        own: The user's row that it is for; None for ours.
    """

    row: str
    metric: str
    config: str
    seed: int
    overrides: dict[str, Any] = field(default_factory=dict)
    own: OwnRow | None = None


Measure = Callable[[Fit, Result, Sequence[Record]], Values]


def run(
    ctx: Context,
    experiment: str,
    protocol: int,
    fits: Sequence[Fit],
    measure: Measure,
    unit: Callable[[str], str],
    fixed: Sequence[str] = (),
    *,
    keep: bool = True,
    contract: Contract | None = None,
) -> list[Record]:
    """Train all fits and write the rows of each as soon as its test has ended.

    A run whose row is there is not repeated, on whatever machine it was made, even if some of its
    further metrics could not be had.

    Args:
        ctx: The context.
        experiment: Name of the experiment.
        protocol: Its protocol version.
        fits: What to train.
        measure: Returns the metrics of a finished training, given all rows so far; where one is
            `Failed`, its row says so. A solver that fails in it fails the training's row.
        unit: Returns the unit of a metric.
        fixed: Settings that say which fit a row is, so that the user cannot change them.
        keep: Whether to keep curves and weights beside the rows.
        contract: What rows of the user's own must be; None where there are none.

    Raises:
        BadSettings: If the user changed one of those, or if a row of theirs cannot be trained.
    """
    refuse(ctx, experiment, fits[0].config, fixed)
    from lightning_modules.solvers import SolverFailed

    device = ctx.device_overrides()
    jobs = [
        Job(
            experiment,
            fit.row,
            fit.config,
            {**fit.overrides, **device, **ctx.changes},
            fit.seed,
            protocol,
            fit.own,
        )
        for fit in fits
    ]
    # Not by run, which two rows have in common whose settings are the same under a profile.
    by_row = {(fit.row, fit.seed): fit for fit in fits}

    def rows(result: Result, records: Sequence[Record]) -> list[Record]:
        fit = by_row[result.job.row, result.job.seed]
        values: Values = {fit.metric: Failed(result.status, result.hint)}
        if result.status == "ok":
            try:
                values = measure(fit, result, records)
            except SolverFailed as error:
                values = {fit.metric: Failed(error.kind, str(error))}
        return trainings.rows_of(ctx, result, values, budget(result.job.resolved), unit)

    def beside(result: Result, rows: Sequence[Record]) -> None:
        if keep:
            folder, code = result.job.folder(ctx.runs), result.job.code
            evidence.keep(ctx.csv(experiment), folder, rows[0], code=code)

    asked = {job.run: fit.metric for job, fit in zip(jobs, fits, strict=True)}
    return trainings.run(ctx, jobs, rows, beside, contract=contract, asked=asked)


def refuse(ctx: Context, experiment: str, config: str, fixed: Sequence[str]) -> None:
    """Refuse a change of what says which training a row is.

    Args:
        ctx: The context, for what the user changed.
        experiment: Name of the experiment.
        config: File name of a configuration that such a model can be trained with by hand.
        fixed: The settings that must not change.

    Raises:
        BadSettings: If the user changed one of them.
    """
    refused = sorted(set(map(short_key, ctx.changes)) & set(fixed))
    if refused:
        raise BadSettings(
            f"{experiment}: {refused[0]} says which training a row is, so --set cannot change it. "
            "Train such a model by hand: python -m reproduce.train run --config "
            f"reproduce/configs/{config} --{refused[0]} …"
        )


def budget(config: dict[str, Any]) -> str:
    """Say in words how long a resolved configuration with an epoch of steps trains."""
    trainer, data = config["trainer"], config["data"]["init_args"]
    steps = data["steps"]
    if isinstance(trainer["limit_train_batches"], int):
        steps = min(steps, trainer["limit_train_batches"])
    updates = f"{trainer['max_epochs'] * steps:,} updates"
    return f"{updates} of {_optimizer(config)}, batch {data['batch_size']}"


def _optimizer(config: dict[str, Any]) -> str:
    """Name optimizer and schedule, or say that the model has its own."""
    given = config["model"].get("init_args", {})
    optimizer, schedule = given.get("optimizer"), given.get("schedule")
    if not (isinstance(optimizer, dict) and isinstance(schedule, dict)):
        return "its own optimizer"
    told = schedule["name"].replace("_", " ")
    return f"{OPTIMIZERS[optimizer['name']]} {optimizer['lr']:g} ({told})"
