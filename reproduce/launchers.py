"""Where trainings run: one after another, or side by side in the slots of this machine."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from reproduce import jobs
from reproduce.progress import Display


class Launcher(Protocol):
    """Runs jobs somewhere; whoever calls it writes the rows."""

    @property
    def threads(self) -> int | None:
        """CPU threads of each process of a training; None where torch chooses."""

    @property
    def text(self) -> str:
        """How the trainings run, in words; empty for one after another."""

    def launch(
        self, work: Sequence[jobs.Job], runs: Path, command: Sequence[str], display: Display
    ) -> Iterator[jobs.Result]:
        """Yield each result as soon as it is there; left early, it ends what still runs.

        Args:
            work: What to train, begun in this order.
            runs: Root of all run folders.
            command: The command line as in ``sys.argv``, for the provenance.
            display: Where the progress is shown.

        Raises:
            BadSettings: If a configuration was refused; nothing more is begun then.
        """


@dataclass(frozen=True)
class Slot:
    """Where one training at a time runs.

    Args:
        threads: CPU threads of each of its processes; None leaves them to torch.
        gpus: The GPUs that it sees, as ``CUDA_VISIBLE_DEVICES`` names them; None for all.
        prefix: What starts its processes, such as ``srun`` and its flags.
    """

    threads: int | None = None
    gpus: tuple[str, ...] | None = None
    prefix: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return the whole environment of a training here."""
        own = jobs.environment(tasks=bool(self.prefix))
        if self.threads is not None:
            own["OMP_NUM_THREADS"] = str(self.threads)
        if self.gpus is not None:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return own


class _Stopped(Exception):
    """The caller wants no more results."""


@dataclass(frozen=True)
class Slots:
    """Trainings on this machine, one at a time in each slot.

    Every slot has a thread of this process, which waits for a child process; results go to the
    caller's thread.

    Args:
        slots: At least one.
        time_limit: Seconds that a training may take; None for as long as it takes.
    """

    slots: tuple[Slot, ...] = (Slot(),)
    time_limit: float | None = None

    @property
    def threads(self) -> int | None:
        """CPU threads of each process of a training; None where torch chooses."""
        return self.slots[0].threads

    @property
    def text(self) -> str:
        """How many trainings run at a time; empty for one."""
        return f"{len(self.slots)} at a time" if len(self.slots) > 1 else ""

    def launch(
        self, work: Sequence[jobs.Job], runs: Path, command: Sequence[str], display: Display
    ) -> Iterator[jobs.Result]:
        """Train; see `Launcher`."""
        free: SimpleQueue[Slot] = SimpleQueue()
        for slot in self.slots:
            free.put(slot)
        stop = threading.Event()

        def train(job: jobs.Job) -> jobs.Result:
            slot = free.get()  # at once: there are as many threads as slots
            try:
                return self._train(job, slot, runs, command, display, stop)
            except BaseException:
                stop.set()  # here, since this thread begins its next job before the caller knows
                raise
            finally:
                free.put(slot)

        with ThreadPoolExecutor(len(self.slots)) as pool:
            try:
                for future in as_completed([pool.submit(train, job) for job in work]):
                    yield future.result()
            finally:
                stop.set()
                pool.shutdown(cancel_futures=True)

    def _train(
        self,
        job: jobs.Job,
        slot: Slot,
        runs: Path,
        command: Sequence[str],
        display: Display,
        stop: threading.Event,
    ) -> jobs.Result:
        """Run a job in a thread; once ``stop`` is set, its child process is ended."""

        def watch(state: dict[str, Any]) -> None:
            if stop.is_set():
                raise _Stopped
            line.update(state)

        if stop.is_set():
            raise _Stopped
        line = display.start(f"{job.row}, seed {job.seed}")
        env, limit = slot.environment(), self.time_limit
        result = jobs.run(job, runs, watch, command, prefix=slot.prefix, env=env, time_limit=limit)
        line.end(result.status, result.hint, result.found)
        return result
