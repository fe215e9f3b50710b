"""What an experiment is given: its profile, seeds and device, and a way to train and to save."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from reproduce import jobs, provenance, records
from reproduce.launchers import Launcher, Slots
from reproduce.own_rows import OwnRow
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
        devices: Devices that one training is distributed over, on each of its nodes.
        nodes: Nodes that one training is distributed over.
        launcher: Runs the trainings.
        own: Rows of the user's own, beside those of the experiment.
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
    nodes: int = 1
    launcher: Launcher = field(default_factory=Slots)
    own: tuple[OwnRow, ...] = ()

    @property
    def processes(self) -> int:
        """Processes that share the batches of one training."""
        return self.devices * self.nodes

    @property
    def overrides_text(self) -> str:
        """The user's changes as every row carries them; empty for the plain protocol."""
        return " ".join(f"{key}={value}" for key, value in self.changes.items())

    def train(self, work: Iterable[jobs.Job]) -> Iterator[jobs.Result]:
        """Run the jobs and yield each result as soon as it is there, in the order they end.

        Raises:
            BadSettings: If a row cannot be trained with what the user changed; nothing is trained.
        """
        listed = list(work)
        if self.changes:
            jobs.check(listed)
        with Display(len(listed)) as display:
            yield from self.launcher.launch(listed, self.runs, self.command, display)

    def device_overrides(self) -> dict[str, Any]:
        """The settings that put a training on these devices and its data in this folder."""
        accelerator = "gpu" if self.device == "cuda" else "cpu"
        overrides: dict[str, Any] = {"trainer.accelerator": accelerator}
        if self.processes > 1:
            overrides |= {"trainer.devices": self.devices, "trainer.strategy": "ddp"}
        if self.nodes > 1:
            overrides["trainer.num_nodes"] = self.nodes
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

    def found(self, experiment: str, run: str, metric: str | None = None) -> list[records.Record]:
        """Return the rows of a run that are there already; none if it failed or never was.

        Args:
            experiment: Name of the experiment.
            run: The run.
            metric: What alone says whether it failed; None asks all its rows.
        """
        path = self.csv(experiment)
        rows = [r for r in (records.read(path) if path.exists() else []) if r.run == run]
        asked = [r for r in rows if metric in (None, r.metric)]
        whole = bool(asked) and all(r.status == "ok" for r in asked)
        return [r for r in rows if r.overrides == self.overrides_text] if whole else []

    def keep(
        self,
        experiment: str,
        protocol: int,
        values: Mapping[str, Mapping[str, float]],
        settings: Mapping[str, Any],
        *,
        budget: str,
        unit: Callable[[str], str],
        seed: int = 0,
        skipped: Mapping[str, str] | None = None,
        failed: Mapping[str, str] | None = None,
    ) -> list[records.Record]:
        """Make the rows of what was measured rather than trained, and write them at once.

        Args:
            experiment: Name of the experiment.
            protocol: Its protocol version.
            values: Metrics by row.
            settings: What was measured and on what: their identity, kept in the provenance.
            budget: How much of it, in words.
            unit: Returns the unit of a metric.
            seed: Seed of the net that was measured, if it was one.
            skipped: Rows that could not be measured here, and why.
            failed: Rows whose measurement failed, and how.
        """
        record = partial(
            records.Record,
            experiment=experiment,
            seed=seed,
            profile=self.profile,
            protocol=protocol,
            budget=budget,
            overrides=self.overrides_text,
            device=self.device_text,
            run=identity(settings, protocol),
        )
        made = [
            record(row=row, metric=metric, value=value, unit=unit(metric))
            for row, metrics in values.items()
            for metric, value in metrics.items()
        ]
        lacking: tuple[tuple[records.Status, Mapping[str, str] | None], ...]
        lacking = (("skipped", skipped), ("error", failed))
        made += [
            record(row=row, metric="all", value=math.nan, unit="", status=status, hint=reason)
            for status, rows in lacking
            for row, reason in (rows or {}).items()
        ]
        self.save(made, provenance.collect(self.command, dict(settings)))
        return made


def identity(settings: Mapping[str, Any], protocol: int) -> str:
    """Return twelve hexadecimal digits that name a measurement: its settings and its protocol."""
    text = repr((sorted(settings.items()), protocol))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
