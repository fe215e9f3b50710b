"""What all trainings share: which are due, their rows, and what rows say of several devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reproduce import trials
from reproduce.context import Context
from reproduce.jobs import Job, Result
from reproduce.records import Failed, Record, told
from reproduce.trials import Contract

# Values of a model's settings under which there is no equation to be solved.
_WITHOUT_EQUATION = {
    "body": ("mlp", "resnet", "none"),
    "flow": ("planar",),
    "kind": ("network",),
    "network": ("rnn", "rnn_hold", "rnn_zero", "rnn_gap", "rnn_paced", "rnn_blind"),
}

Values = Mapping[str, float | Failed]
Rows = Callable[[Result, Sequence[Record]], list[Record]]
Keep = Callable[[Result, Sequence[Record]], None]


def run(
    ctx: Context,
    work: Sequence[Job],
    rows: Rows,
    keep: Keep,
    *,
    contract: Contract | None = None,
    asked: Mapping[str, str] | None = None,
    again: bool = False,
) -> list[Record]:
    """Train what is due and write the rows of each training as soon as its test has ended.

    A run whose rows are there is not repeated, on whatever machine they were made.

    Args:
        ctx: The context.
        work: All trainings of one experiment.
        rows: Returns the rows of a training, given all rows so far.
        keep: Keeps what stands beside the rows of a training that has not failed.
        contract: What rows of the user's own must be; None where there are none.
        asked: As `Context.due` has it.
        again: Whether to repeat runs whose rows are there, since their weights are missing.

    Raises:
        BadSettings: If a row cannot be trained with what the user asked for.
    """
    records, left = ([], list(work)) if again else ctx.due(work, asked)
    if contract is not None:
        trials.check(left, contract)
    for trained in ctx.train(left):
        result = trained if contract is None else trials.checked(trained, contract)
        made = rows(result, records)
        # First what stands beside the rows: a run whose rows are there is never taken up again.
        if result.status == "ok":
            keep(result, made)
        ctx.save(made, result.made)
        records += made
    return records


def rows_of(
    ctx: Context,
    result: Result,
    values: Values,
    budget: str,
    unit: Callable[[str], str],
    *,
    row: str | None = None,
    seed: int | None = None,
) -> list[Record]:
    """Return the rows of one training, which say how many processes shared it and its steps.

    Args:
        ctx: The context.
        result: What became of it.
        values: Its metrics; one that could not be had is a `Failed`.
        budget: How long it trained and with what, in words.
        unit: Returns the unit of a metric.
        row: The row; by default that of the job.
        seed: The seed; by default that of the job.
    """
    job = result.job
    device = result.device or ctx.device_text
    cells = {metric: told(value) for metric, value in values.items()}
    return [
        Record(
            experiment=job.experiment,
            row=job.row if row is None else row,
            metric=metric,
            value=number,
            unit=unit(metric),
            seed=job.seed if seed is None else seed,
            profile=ctx.profile,
            protocol=job.protocol,
            budget=budget + steps_text(job.resolved),
            overrides=ctx.overrides_text,
            device=device if ctx.processes == 1 else f"{ctx.processes} processes: {device}",
            run=job.run,
            status=status,
            hint=hint,
        )
        for metric, (number, status, hint) in cells.items()
    ]


def solver_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the solver of a resolved configuration; None for a model without an equation.

    A model of the user's own that states no solver is taken for one without.
    """
    model = config["model"].get("init_args", {})
    solver = model.get("solver")
    without = any(model.get(name) in values for name, values in _WITHOUT_EQUATION.items())
    return solver if isinstance(solver, dict) and not without else None


def steps_text(config: Mapping[str, Any]) -> str:
    """Say whether the devices of a resolved configuration share their steps.

    Each solves the equation of its part of the batch. Empty for one device, and where the steps
    are the same on all, as without an equation or with steps that are fixed.
    """
    trainer, solver = config["trainer"], solver_of(config)
    devices = trainer.get("devices", 1) * trainer.get("num_nodes", 1)
    if devices == 1 or solver is None or not _chooses_steps(solver):
        return ""
    return f", steps {'shared by' if solver.get('sync_norm') else 'apart on'} {devices} devices"


def _chooses_steps(solver: Mapping[str, Any]) -> bool:
    """Return whether a method controls its steps; of one that is not known here, yes."""
    from lightning_modules.solvers import SolverSettings, backends

    backend = backends().get(solver.get("backend", SolverSettings.backend))
    methods = {} if backend is None else backend.methods()
    return methods.get(solver.get("method", SolverSettings.method)) != "fixed"
