"""Density models that train side by side: one job, and rows for every member of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce import restored, trainings, weights
from reproduce.context import Context
from reproduce.fits import OPTIMIZERS, refuse
from reproduce.jobs import Job, Result
from reproduce.records import Failed, Record

if TYPE_CHECKING:
    from lightning_modules import DensityModel

LEFT_OUT = (
    "left out: its gradient was no longer finite, or its equation could not be solved; "
    "lower model.optimizer.lr"
)
NOT_FINITE = "its test was not finite: no mass in the box, or a density of zero or infinity"
# What says which fit a row is.
FIXED = ("model.targets", "model.member_seeds", "data.member_seeds", "model.flow",
         "model.objective", "model.size", "data.name")  # fmt: skip
UNITS = {
    "kl": "nats",
    "kl_se": "nats",
    "nll": "nats",
    "nll_se": "nats",
    "nll_gap": "nats",
    "outside": "",
    "reconstruction_rms": "",
    "parameters": "parameters",
    "train_seconds": "s",
    "train_nfe_forward": "evaluations",
}


Derive = Callable[[Result, "Fit", int, dict[str, float]], dict[str, float]]


@dataclass(frozen=True)
class Fit:
    """Fits of one kind that one job trains.

    Args:
        name: Name of the job and of its weights.
        config: File name of its configuration.
        overrides: What it changes there.
        rows: Row of each member.
        seeds: Seed of each member.
    """

    name: str
    config: str
    overrides: dict[str, Any]
    rows: tuple[str, ...]
    seeds: tuple[int, ...]

    def job(self, ctx: Context, experiment: str, protocol: int) -> Job:
        """Return the job that trains it; its own seed is that of the first member."""
        members = {
            "model.member_seeds": list(self.seeds),
            "data.member_seeds": list(self.seeds),
        }
        overrides = {**self.overrides, **members, **ctx.device_overrides(), **ctx.changes}
        return Job(experiment, self.name, self.config, overrides, self.seeds[0], protocol)


def run(
    ctx: Context,
    experiment: str,
    protocol: int,
    fits: Sequence[Fit],
    measure: str,
    derive: Derive | None = None,
    *,
    all_weights: bool = False,
) -> list[Record]:
    """Train all fits and write the rows of each as soon as it has ended.

    Args:
        ctx: The context.
        experiment: Name of the experiment.
        protocol: Its protocol version.
        fits: What to train.
        measure: What the test measures of each member, ``kl`` or ``nll``.
        derive: Returns further metrics of a member from those of its test.
        all_weights: Whether to keep the weights of every seed and not of the lowest alone.
    """
    refuse(ctx, experiment, fits[0].config, FIXED)
    jobs = [fit.job(ctx, experiment, protocol) for fit in fits]
    by_run = {job.run: fit for job, fit in zip(jobs, fits, strict=True)}

    def rows(result: Result, _: Sequence[Record]) -> list[Record]:
        return _records(ctx, by_run[result.job.run], result, measure, derive)

    def keep(result: Result, rows: Sequence[Record]) -> None:
        if not ctx.changes:
            _keep_weights(ctx, by_run[result.job.run], result, rows[0].budget, all_weights)

    return trainings.run(ctx, jobs, rows, keep)


def load(path: Path) -> tuple[DensityModel, dict[str, Any]]:
    """Return the model of a weights file, in evaluation, and the facts written with it.

    Raises:
        ValueError: If the file holds none.
    """
    from lightning_modules import DensityModel

    return restored.of_file(path, DensityModel)


def drawn_from(
    folder: Path, records: Sequence[Record], name: str
) -> tuple[DensityModel, list[str]] | None:
    """Return the model whose weights lie beside these rows, and the rows of its members.

    See `restored.beside`.
    """
    from lightning_modules import DensityModel

    return restored.beside(
        folder, records, name, DensityModel, lambda model, facts: (model, facts["rows"])
    )


def _records(
    ctx: Context, fit: Fit, result: Result, measure: str, derive: Derive | None
) -> list[Record]:
    text = budget(result.job.resolved)
    made = []
    for i, (row, seed) in enumerate(zip(fit.rows, fit.seeds, strict=True)):
        found = _values(result, fit, i, measure)
        if isinstance(found, Failed):
            values: trainings.Values = {measure: found}
        else:
            values = found if derive is None else found | derive(result, fit, i, found)
        unit = UNITS.__getitem__
        made += trainings.rows_of(ctx, result, values, text, unit, row=row, seed=seed)
    return made


def _values(result: Result, fit: Fit, i: int, measure: str) -> dict[str, float] | Failed:
    """Return the metrics of a member, or why there are none."""
    if result.status != "ok":
        return Failed(result.status, result.hint)
    found = {
        name: result.metrics[f"test/{name}/{i}"]
        for name in UNITS
        if f"test/{name}/{i}" in result.metrics
    }
    if measure not in found:
        return Failed("diverged", LEFT_OUT)
    if not all(map(math.isfinite, found.values())):
        return Failed("diverged", NOT_FINITE)
    members = len(fit.rows)
    found["parameters"] = result.parameters // members
    found["train_seconds"] = result.cost["train_seconds"] / members  # its share of the job
    if result.cost["train_nfe_forward"]:
        found["train_nfe_forward"] = result.cost["train_nfe_forward"]
    return found


def budget(config: Mapping[str, Any]) -> str:
    """Say in words how long a resolved configuration trains."""
    trainer, data = config["trainer"], config["data"]["init_args"]
    optimizer = config["model"]["init_args"]["optimizer"]
    steps = data["steps"]
    if isinstance(trainer["limit_train_batches"], int):
        steps = min(steps, trainer["limit_train_batches"])
    return (
        f"{trainer['max_epochs'] * steps:,} iterations of {OPTIMIZERS[optimizer['name']]} "
        f"{optimizer['lr']:g}, batch {data['batch_size']}"
    )


def _keep_weights(ctx: Context, fit: Fit, result: Result, text: str, all_weights: bool) -> None:
    """Write the weights of living members, those with the lowest seed or all."""
    path = result.folder / "checkpoints" / "last.ckpt"
    content = weights.checkpoint(path)
    chosen = [
        i
        for i, alive in enumerate(content["state_dict"]["alive"].tolist())
        if alive and (all_weights or fit.seeds[i] == min(fit.seeds))
    ]
    if not chosen:
        return
    state = {
        name.removeprefix("net."): tensor[chosen]
        for name, tensor in content["state_dict"].items()
        if name.startswith("net.")
    }
    given = content["hyper_parameters"]
    of_members = {name: [given[name][i] for i in chosen] for name in ("member_seeds",)}
    if given["targets"]:
        of_members["targets"] = [given["targets"][i] for i in chosen]
    facts = {
        "rows": [fit.rows[i] for i in chosen],
        "seeds": [fit.seeds[i] for i in chosen],
        "run": result.job.run,
        "budget": text,
        "hyper_parameters": {**given, **of_members},
    }
    path = ctx.csv(result.job.experiment).parent / "weights"
    weights.save(path / f"{ctx.profile}-{fit.name}.safetensors", state, facts)
