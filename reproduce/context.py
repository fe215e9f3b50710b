"""What an experiment is given: its profile, seeds and device, and a way to train and to save."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reproduce import jobs, provenance, records
from reproduce.progress import Display


@dataclass(frozen=True)
class Profile:
    """How much of an experiment's protocol is run.

    Args:
        overrides: Changes to the configurations, which state the paper's protocol.
        seeds: How many seeds by default.
        minutes: Measured minutes for one seed on two CPU cores; None where nobody measured it.
    """

    overrides: dict[str, Any]
    seeds: int
    minutes: float | None


@dataclass(frozen=True)
class Context:
    """Everything an experiment needs from the outside.

    Args:
        profile: Name of the profile.
        device: ``cpu`` or ``cuda``.
        device_text: The device as a row states it.
        seeds: Seeds to run, in this order.
        changes: What the user changed with ``--epochs`` and ``--set``, by dotted key.
        out: Folder of the results.
        runs: Folder of the run folders.
        data_root: Folder of the data sets; None for the default.
        command: The command line as in ``sys.argv``, for the provenance.
        devices: Devices that one training is distributed over.
    """

    profile: str
    device: str
    device_text: str
    seeds: tuple[int, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    out: Path = Path("results/local")
    runs: Path = Path("results/local/runs")
    data_root: str | None = None
    command: tuple[str, ...] = ("reproduce",)
    devices: int = 1

    @property
    def overrides_text(self) -> str:
        """The user's changes as every row carries them; empty for the plain protocol."""
        return " ".join(f"{key}={value}" for key, value in self.changes.items())

    def train(self, work: Iterable[jobs.Job]) -> Iterator[jobs.Result]:
        """Run the jobs one after another and yield each result as soon as it is there.

        Raises:
            BadSettings: If a row cannot be trained with what the user changed; nothing is trained.
        """
        listed = list(work)
        if self.changes:
            jobs.check(listed)
        with Display(len(listed)) as display:
            for job in listed:
                watch = display.start(f"{job.row}, seed {job.seed}")
                result = jobs.run(job, self.runs, watch, self.command)
                display.end(result.status, result.hint, result.found)
                yield result

    def device_overrides(self) -> dict[str, Any]:
        """The settings that put a training on these devices and its data in this folder."""
        accelerator = "gpu" if self.device == "cuda" else "cpu"
        overrides: dict[str, Any] = {"trainer.accelerator": accelerator}
        if self.devices > 1:
            overrides |= {"trainer.devices": self.devices, "trainer.strategy": "ddp"}
        if self.data_root is not None:
            overrides["data.root"] = self.data_root
        return overrides

    def csv(self, experiment: str) -> Path:
        """The file that this profile's rows of an experiment go to."""
        return self.out / experiment / f"{self.profile}.csv"

    def save(self, rows: list[records.Record], made: dict[str, Any]) -> None:
        """Write the rows of one finished unit with the provenance of their run, at once."""
        path = self.csv(rows[0].experiment)
        records.append(path, rows)
        provenance.write(path, rows[0].run, made)
