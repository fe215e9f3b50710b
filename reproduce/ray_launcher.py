"""Hands trainings to Ray, which places and retries them; the caller alone writes into its folders.

Nodes need the packages that this project depends on; its own code is sent to them.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from reproduce import jobs, provenance, ray_cluster, run_files, storage
from reproduce.progress import Display

RETRIES = 3  # of a training whose node or worker process died
PATIENCE_SECONDS = 60.0  # to wait for a node that a training fits on, once there is none


@dataclass(frozen=True)
class RayLauncher:
    """Trainings as Ray tasks.

    Args:
        device: ``cpu`` or ``cuda``.
        devices: Devices of one training, all on one node.
        threads: CPU threads of each of its processes, for each of which it asks for a CPU.
    """

    device: str
    devices: int
    threads: int
    text = "on a Ray cluster"

    def launch(
        self, work: Sequence[jobs.Job], runs: Path, command: Sequence[str], display: Display
    ) -> Iterator[jobs.Result]:
        """Train; see `reproduce.launchers.Launcher`.

        Raises:
            RuntimeError: If Ray is not installed, or no node has what a training takes.
        """
        left = []
        for job in work:
            there = jobs.finished(job, runs, command)
            if there is None:
                left.append(job)
                continue
            display.start(f"{job.row}, seed {job.seed}").end(there.status, there.hint, True)
            yield there
        if left:
            ray = ray_cluster.connected()
            self._refuse_without_room(ray)
            display.print(f"{len(left)} training(s) for Ray: {ray_cluster.offers(ray)}.")
            yield from self._launch(ray, left, runs, command, display)

    def _launch(
        self, ray: Any, work: list[jobs.Job], runs: Path, command: Sequence[str], display: Display
    ) -> Iterator[jobs.Result]:
        task = ray.remote(_train).options(
            num_cpus=self._need["CPU"], num_gpus=self._need["GPU"], max_retries=RETRIES
        )
        pending = {
            task.remote(job, self.threads, command, run_files.pack(job.folder(runs))): job
            for job in work
        }
        fitted = time.monotonic()
        try:
            while pending:
                ended, _ = ray.wait(list(pending), timeout=5)
                if ended or ray_cluster.fits(ray, self._need):
                    fitted = time.monotonic()
                elif time.monotonic() - fitted > PATIENCE_SECONDS:
                    self._refuse_without_room(ray)
                for ref in ended:
                    job = pending.pop(ref)
                    line = display.start(f"{job.row}, seed {job.seed}")
                    result, seconds = _collect(ray, ref, job, runs)
                    line.end(result.status, result.hint, result.found, seconds)
                    yield result
        finally:
            for ref in pending:
                ray.cancel(ref)  # raises KeyboardInterrupt there, which ends the child process
            if pending:
                ray.wait(list(pending), num_returns=len(pending), timeout=30)

    @property
    def _need(self) -> dict[str, int]:
        gpus = self.devices if self.device == "cuda" else 0
        return {"CPU": self.devices * self.threads, "GPU": gpus}

    def _refuse_without_room(self, ray: Any) -> None:
        if not ray_cluster.fits(ray, self._need):
            raise RuntimeError(
                f"A training takes {self._need['CPU']} CPU(s) and {self._need['GPU']} GPU(s) of "
                f"one Ray node, and there is none: {ray_cluster.offers(ray)}. Start such a node, "
                "or change --device, --devices-per-run or OMP_NUM_THREADS."
            )


def _train(
    job: jobs.Job, threads: int, command: Sequence[str], files: Mapping[str, bytes]
) -> tuple[jobs.Result, dict[str, bytes], float]:
    """Train on a node, in a folder that ends with the task; go on from what the caller sent."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reproduce-") as root:
        folder = job.folder(Path(root))
        run_files.unpack(files, folder)
        env = {**jobs.environment(), "OMP_NUM_THREADS": str(threads)}
        result = jobs.run(job, Path(root), lambda state: None, command, env=env)
        return result, run_files.pack(folder), time.monotonic() - started


def _collect(ray: Any, ref: Any, job: jobs.Job, runs: Path) -> tuple[jobs.Result, float]:
    """Write what came back into the caller's run folder; return the result and its seconds."""
    folder, errors = job.folder(runs), ray.exceptions
    try:
        result, files, seconds = ray.get(ref)
    except errors.RuntimeEnvSetupError as error:
        raise RuntimeError(f"Ray could not set up a node: {_first_line(error)}") from error
    except errors.RayTaskError as error:
        if isinstance(error.cause, jobs.BadSettings):
            raise error.cause from None
        return jobs.Result(job, folder, "error", f"on its node: {error.cause!r}"), 0.0
    except errors.OutOfMemoryError as error:
        return jobs.Result(job, folder, "out_of_memory", _first_line(error)), 0.0
    except errors.RayError as error:
        hint = f"{_first_line(error)}; the next call starts it anew"
        return jobs.Result(job, folder, "killed", hint), 0.0
    # The node has no checkout, and its code came from here.
    here = provenance.collect((), {})
    made = {**result.made, "commit": here["commit"], "dirty": here["dirty"]}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        run_files.unpack(files, folder)
        storage.write(folder / "provenance.json", json.dumps(made, default=str))
    return replace(result, folder=folder, made=made), seconds


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
