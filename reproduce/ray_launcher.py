"""Hands trainings to Ray, which places and retries them; the caller alone writes into its folders.

Nodes need the packages that this project depends on; its own code is sent to them.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce import away, jobs, ray_cluster, run_files
from reproduce.progress import Display
from reproduce.ray_cluster import Check

RETRIES = 3  # of a training whose node or worker process died
PATIENCE_SECONDS = 60.0  # to wait for a node that a training fits on, once there is none


@dataclass(frozen=True)
class RayLauncher:
    """Trainings as Ray tasks.

    Args:
        device: ``cpu`` or ``cuda``.
        devices: Devices of one training, all on one node.
        threads: CPU threads of each of its processes, for each of which it asks for a CPU.
        time_limit: Seconds that a training may take; None for as long as it takes.
    """

    device: str
    devices: int
    threads: int
    time_limit: float | None = None
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
            ray_cluster.refuse_without_room(ray, self._need)
            display.print(f"{len(left)} training(s) for Ray: {ray_cluster.offers(ray)}.")
            with (
                ray_cluster.stoppable() as stop_if_told,
                closing(self._ended(ray, left, runs, command, stop_if_told)) as ended,
            ):
                for job, ref in ended:
                    line = display.start(f"{job.row}, seed {job.seed}")
                    result, seconds = _collect(ray, ref, job, runs)
                    line.end(result.status, result.hint, result.found, seconds)
                    yield result

    def _ended(
        self, ray: Any, work: list[jobs.Job], runs: Path, command: Sequence[str], check: Check
    ) -> Generator[tuple[jobs.Job, Any]]:
        """Yield each job, with Ray's reference to its result, as it ends."""
        task = ray.remote(away.train).options(
            num_cpus=self._need["CPU"], num_gpus=self._need["GPU"], max_retries=RETRIES
        )
        told = (self.threads, self.time_limit, tuple(command))
        pending = {task.remote(job, *told, run_files.pack(job.folder(runs))): job for job in work}
        fitted = time.monotonic()
        try:
            while pending:
                ended, _ = ray.wait(list(pending), timeout=1)
                check()
                if ended or ray_cluster.fits(ray, self._need):
                    fitted = time.monotonic()
                elif time.monotonic() - fitted > PATIENCE_SECONDS:
                    ray_cluster.refuse_without_room(ray, self._need)
                for ref in ended:
                    yield pending.pop(ref), ref
        finally:
            for ref in pending:
                ray.cancel(ref)  # raises KeyboardInterrupt there, which ends the child process
            if pending:
                ray.wait(list(pending), num_returns=len(pending), timeout=30)

    @property
    def _need(self) -> dict[str, int]:
        gpus = self.devices if self.device == "cuda" else 0
        return {"CPU": self.devices * self.threads, "GPU": gpus}


def _collect(ray: Any, ref: Any, job: jobs.Job, runs: Path) -> tuple[jobs.Result, float]:
    """Return the result and its seconds, once what came back lies in the caller's run folder."""
    folder, errors = job.folder(runs), ray.exceptions
    try:
        return away.bring_home(ray.get(ref), job, runs)
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
