"""A training away from its run folder: in a folder that ends with it, and home again as bytes."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from reproduce import jobs, provenance, run_files, storage, tether

# The result, the files of the run folder, and the seconds that it took.
Errand = tuple[jobs.Result, dict[str, bytes], float]


def train(
    job: jobs.Job,
    threads: int,
    time_limit: float | None,
    command: Sequence[str],
    files: Mapping[str, bytes],
) -> Errand:
    """Train on this machine, going on from the files that the caller's run folder had.

    Args:
        job: What to train.
        threads: CPU threads of each of its processes.
        time_limit: Seconds that it may take; None for as long as it takes.
        command: The command line as in ``sys.argv``, for the provenance.
        files: As `reproduce.run_files.pack` returned them.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reproduce-") as root:
        folder = job.folder(Path(root))
        run_files.unpack(files, folder)
        env = {**jobs.environment(), "OMP_NUM_THREADS": str(threads)}
        result = jobs.run(job, Path(root), _ignore, command, env=env, time_limit=time_limit)
        return result, run_files.pack(folder), time.monotonic() - started


def bring_home(errand: Errand, job: jobs.Job, runs: Path) -> tuple[jobs.Result, float]:
    """Write what came back into the caller's run folder; return the result and its seconds.

    Where another command has finished the run meanwhile, that stays.
    """
    (result, files, seconds), folder = errand, job.folder(runs)
    # Where it was trained there was no checkout, and its code came from here.
    here = provenance.collect((), {})
    made = {**result.made, "commit": here["commit"], "dirty": here["dirty"]}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / tether.COMMAND_LOCK):
        there = jobs.finished(job, runs)
        if there is not None:
            return there, seconds
        run_files.unpack(files, folder)
        storage.write(folder / "provenance.json", json.dumps(made, default=str))
    return replace(result, folder=folder, made=made), seconds


def _ignore(state: object) -> None: ...
