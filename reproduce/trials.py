"""Two batches of a user's own row, before anything is trained that would take hours."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reproduce import jobs
from reproduce.jobs import BadSettings, Job, Result

BATCHES = 2
_SHORT = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": BATCHES,
    "trainer.limit_test_batches": BATCHES,
}


@dataclass(frozen=True)
class Contract:
    """What a model of the user's own must be.

    Args:
        needed: Metrics that it logs in its test.
        text: What it must take and log, in a sentence.
    """

    needed: tuple[str, ...]
    text: str


def check(work: Sequence[Job], contract: Contract) -> None:
    """Train and test every own row among the jobs on two batches.

    Jobs that are no longer than that are their own trial; their models are built before.

    Args:
        work: Jobs that are about to be trained.
        contract: What their models must be.

    Raises:
        BadSettings: If a model cannot be imported or trained, or does not log what is needed.
    """
    for job in {job.own.name: job for job in work if job.own is not None}.values():
        assert job.own is not None
        try:
            tried = _tried(job)
        except BadSettings as error:
            raise BadSettings(
                f"{str(error).rstrip('.')}. {job.own.class_path} must be importable (installed, "
                f"or its folder on PYTHONPATH) and take the init_args. {contract.text}"
            ) from error
        result = None if tried is None else checked(tried, contract)
        if result is not None and result.status == "error":
            raise BadSettings(f"{job.experiment}, row {job.row}: {result.hint}")


def _tried(job: Job) -> Result | None:
    """Return what became of a trial; None, once its model can be built, if the job is its own."""
    limit = job.resolved["trainer"]["limit_train_batches"]
    if isinstance(limit, int) and limit <= BATCHES:
        jobs.check([job])
        return None
    print(f"{job.row}: a trial of {BATCHES} batches.", flush=True)
    trial = replace(job, overrides={**job.overrides, **_SHORT})
    with tempfile.TemporaryDirectory() as folder:
        return jobs.run(trial, Path(folder), _ignore)


def checked(result: Result, contract: Contract) -> Result:
    """Return the result of an own row as an error if it cannot be a row of the table."""
    own = result.job.own
    if own is None or result.status not in ("ok", "error"):
        return result
    if result.status == "error":
        return replace(result, hint=f"{result.hint.rstrip('.')}. {contract.text}")
    missing = [name for name in contract.needed if name not in result.metrics]
    if not missing:
        return result
    hint = f"{own.class_path} logged no {' and no '.join(missing)} in its test. {contract.text}"
    return replace(result, status="error", hint=hint)


def _ignore(state: dict[str, Any]) -> None: ...
