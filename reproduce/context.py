"""What an experiment is given: its profile, seeds and device, and a way to train and to save."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reproduce import failures, jobs, plans, provenance, records
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
        once: Minutes, besides, of what is run for the first seed alone.
    """

    overrides: dict[str, Any]
    seeds: int
    minutes: float | None
    once: float = 0.0

    def duration(self, seeds: int | None = None) -> float | None:
        """Return measured minutes for so many seeds, by default its own; None if not measured."""
        count = self.seeds if seeds is None else seeds
        return None if self.minutes is None else self.minutes * count + self.once


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
        only: Labels of what alone is measured, all other rows staying; empty for everything.
        retry_failed: Whether runs are taken up again that failed by a fault of their own.
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
    only: tuple[str, ...] = ()
    retry_failed: bool = False

    @property
    def processes(self) -> int:
        """Processes that share the batches of one training."""
        return self.devices * self.nodes

    @property
    def overrides_text(self) -> str:
        """The user's changes as every row carries them; empty for the plain protocol."""
        return " ".join(f"{key}={value}" for key, value in self.changes.items())

    def due(
        self, work: Sequence[jobs.Job], asked: Mapping[str, str] | None = None
    ) -> tuple[list[records.Record], list[jobs.Job]]:
        """Return the rows that stand, and the trainings that are left; say why the others are not.

        A run stands when it has its rows, on whatever machine they were made. One that failed
        stands too, as it would fail again, unless the machine ended it or the user wants it tried.

        Args:
            work: All trainings of one experiment.
            asked: By run, the metric that alone says whether it failed; else all do.
        """
        there: list[records.Record] = []
        left, lasting = [], []
        written = self._written(work[0].experiment) if work else {}
        for job in work:
            rows = written.get(job.run, [])
            judged = [r for r in rows if (asked or {}).get(job.run) in (None, r.metric)]
            failed = [r for r in judged if r.status != "ok"]
            if not judged or (failed and self._tries_again(failed)):
                left.append(job)
                continue
            there += rows
            lasting += [f"{r.row}, seed {r.seed} ({r.status})" for r in failed]
        if there:
            csv = self.csv(work[0].experiment)
            print(f"{len(work) - len(left)} of {len(work)} trainings have their rows in {csv}.")
        if lasting:
            names = _some(list(dict.fromkeys(lasting)))
            print(f"Left as they failed: {names}. --retry-failed takes them up again.")
        return there, left

    def _tries_again(self, failed: Sequence[records.Record]) -> bool:
        return self.retry_failed or any(r.status in failures.TAKEN_UP for r in failed)

    def train(self, work: Iterable[jobs.Job]) -> Iterator[jobs.Result]:
        """Run the jobs and yield each result as soon as it is there, in the order they end.

        Raises:
            BadSettings: If a row cannot be trained with what the user changed; nothing is trained.
        """
        listed = list(work)
        if self.changes:
            jobs.check(listed)
        with self._planned(listed), Display(len(listed)) as display:
            yield from self.launcher.launch(listed, self.runs, self.command, display)

    @contextmanager
    def _planned(self, work: Sequence[jobs.Job]) -> Iterator[None]:
        """Keep what is to be trained, until it has been or was refused."""
        if not work:
            yield
            return
        folder = self.runs / work[0].experiment
        asked = (self.profile, self.overrides_text, self.seeds, self.command[1:2], self.own)
        name = hashlib.sha256(repr(asked).encode()).hexdigest()[:12]
        path = folder / plans.NAME.format(name)
        runs = tuple(plans.Run(job.row, job.seed, job.run) for job in work)
        text = self.launcher.text
        plans.write(path, plans.Plan(self.profile, self.overrides_text, text, runs))
        try:
            yield
        except jobs.BadSettings:
            path.unlink(missing_ok=True)
            raise
        path.unlink(missing_ok=True)

    def device_overrides(self) -> dict[str, Any]:
        """The settings that put a training on these devices."""
        accelerator = "gpu" if self.device == "cuda" else "cpu"
        overrides: dict[str, Any] = {"trainer.accelerator": accelerator}
        if self.processes > 1:
            overrides |= {"trainer.devices": self.devices, "trainer.strategy": "ddp"}
        if self.nodes > 1:
            overrides["trainer.num_nodes"] = self.nodes
        return overrides

    def csv(self, experiment: str) -> Path:
        """The file that this profile's rows of an experiment go to."""
        return self.out / experiment / f"{self.profile}.csv"

    def save(
        self, rows: list[records.Record], made: dict[str, Any], instead_of: tuple[str, ...] = ()
    ) -> None:
        """Write the rows of one finished unit with the provenance of their run, at once.

        Args:
            rows: The rows, of one run.
            made: What `provenance.collect` returned.
            instead_of: As `records.append` has it.
        """
        path = self.csv(rows[0].experiment)
        records.append(path, rows, instead_of)
        provenance.write(path, rows[0].run, made)

    def found(self, experiment: str, run: str) -> list[records.Record]:
        """Return the rows of a run that are there already; none if it failed or never was."""
        rows = self._written(experiment).get(run, [])
        return rows if all(row.status == "ok" for row in rows) else []

    def _written(self, experiment: str) -> dict[str, list[records.Record]]:
        """Return the rows that are there under the same changes, by run."""
        path, found = self.csv(experiment), dict[str, list[records.Record]]()
        for row in records.read(path) if path.exists() else []:
            if row.overrides == self.overrides_text:
                found.setdefault(row.run, []).append(row)
        return found

    def keep(
        self,
        experiment: str,
        protocol: int,
        values: Mapping[str, Mapping[str, float | records.Failed]],
        settings: Mapping[str, Any],
        *,
        budget: str,
        unit: Callable[[str], str],
        seed: int = 0,
        skipped: Mapping[str, str] = MappingProxyType({}),
        instead_of: tuple[str, ...] = (),
    ) -> list[records.Record]:
        """Make the rows of what was measured rather than trained, and write them at once.

        Args:
            experiment: Name of the experiment.
            protocol: Its protocol version.
            values: Metrics by row; one that could not be had is a `records.Failed`, and a row
                that failed as a whole has it as its metric ``all``.
            settings: What was measured and on what: their identity, kept in the provenance.
            budget: How much of it, in words.
            unit: Returns the unit of a metric.
            seed: Seed of the net that was measured, if it was one.
            skipped: Rows that could not be measured here, and why.
            instead_of: Beginnings of names; such rows go, whether or not they come again.
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
        lacking = {row: {"all": records.Failed("skipped", why)} for row, why in skipped.items()}
        made = []
        for row, metrics in [*values.items(), *lacking.items()]:
            for metric, value in metrics.items():
                number, status, hint = records.told(value)
                of = "" if metric == "all" else unit(metric)
                made.append(
                    record(row=row, metric=metric, value=number, unit=of, status=status, hint=hint)
                )
        self.save(made, provenance.collect(self.command, dict(settings)), instead_of)
        return made


def _some(names: Sequence[str], most: int = 3) -> str:
    """Join the first of the names, and say how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more


def identity(settings: Mapping[str, Any], protocol: int) -> str:
    """Return twelve hexadecimal digits that name a measurement: its settings and its protocol."""
    text = repr((sorted(settings.items()), protocol))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
