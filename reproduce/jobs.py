"""One training as a job: a child process, found again when finished, resumed when broken."""

import copy
import difflib
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from reproduce import failures, own_code, provenance, refusals, storage, tether
from reproduce.own_rows import OwnRow
from reproduce.records import Status

BAD_COMMAND_LINE = 2
# Where a run is kept or how fast it goes, not what it computes.
_NOT_IDENTITY = (("trainer", "default_root_dir"), ("data", "init_args", "root"))


class _TimeOut(Exception):
    """A training has had its time."""


class BadSettings(ValueError):
    """A job's settings were refused before its training started; finished jobs are kept."""


@dataclass(frozen=True)
class Job:
    """One training of one row with one seed.

    Args:
        experiment: Name of the table or figure.
        row: The row that the training is for.
        config: File name of a LightningCLI configuration in ``reproduce/configs``.
        overrides: Values by dotted key, such as ``model.solver.rtol``; later than the file.
        seed: Seeds the weights, the order of the data and its augmentation.
        protocol: The experiment's version; a higher one finds none of the earlier runs.
        own: The user's row, whose sections stand in the place of the file's; None for ours.
    """

    experiment: str
    row: str
    config: str
    overrides: dict[str, Any]
    seed: int
    protocol: int
    own: OwnRow | None = None

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The configuration with all overrides and the seed."""
        config = configuration(self.config)
        if self.own is not None:
            config |= copy.deepcopy(self.own.sections)
        for key, value in self.overrides.items():
            _set(config, _full_key(key), value)
        config["seed_everything"] = self.seed
        return config

    @cached_property
    def code(self) -> dict[str, str]:
        """The user's code that the model is made of, as it was when first asked for."""
        return own_code.digests(self.resolved["model"])

    @cached_property
    def run(self) -> str:
        """Twelve hexadecimal digits that name this run: configuration, code, seed, protocol."""
        config = json.loads(json.dumps(self.resolved))
        for path in _NOT_IDENTITY:
            _drop(config, path)
        identity = {"config": config, "protocol": self.protocol}
        if self.own is not None:  # it may be a copy of one of ours
            identity["row"] = self.row
        if self.code:
            identity["code"] = self.code
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def folder(self, runs: Path) -> Path:
        """Where the run keeps its log, metrics, checkpoint and summary."""
        return runs / self.experiment / f"{self.row}-seed{self.seed}-{self.run}"


@dataclass(frozen=True)
class Result:
    """What became of a job; metrics and costs are empty unless the status is ``ok``.

    Args:
        job: The job.
        folder: Its run folder.
        status: ``ok`` or how it failed.
        hint: What to change, or what happened, after a failure.
        found: Whether an earlier call had finished it.
        metrics: What the model logged in its test.
        cost: What ``RunCost`` summed up.
        parameters: Trained numbers of the model.
        process: Threads, devices and precision as the training process saw them.
        made: Provenance of the training, also where an earlier call had finished it.
    """

    job: Job
    folder: Path
    status: Status
    hint: str = ""
    found: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    process: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device as a row states it; empty if the training ended before it said so."""
        names = self.process.get("devices") or [""]
        return f"cpu, {self.process['threads']} threads" if names == ["cpu"] else names[0]


def configuration(name: str) -> dict[str, Any]:
    """Return a configuration in ``reproduce/configs`` by its file name."""
    text = (resources.files("reproduce") / "configs" / name).read_text()
    config: dict[str, Any] = yaml.safe_load(text)
    return config


Watch = Callable[[dict[str, Any]], None]


def run(
    job: Job,
    runs: Path,
    watch: Watch,
    command: Sequence[str] = ("reproduce",),
    *,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    time_limit: float | None = None,
) -> Result:
    """Train in a child process, unless the same run is finished already.

    Args:
        job: What to train.
        runs: Root of all run folders.
        watch: Called about once a second with the latest content of the run's progress file, and
            with nothing while another process has the run; what it raises ends the training.
        command: The command line as in ``sys.argv``, for the provenance.
        prefix: What starts the child, such as ``srun`` and its flags.
        env: The child's whole environment; that of `environment` by default.
        time_limit: Seconds after which the training is ended; None for as long as it takes.

    Returns:
        The result; a training that failed is a result with its status, not an exception.

    Raises:
        BadSettings: If the configuration was refused.
    """
    folder = job.folder(runs)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, watch):
        there = finished(job, runs, command)
        if there is not None:
            return there
        try:
            for stale in ("summary.json", "progress.json"):
                (folder / stale).unlink(missing_ok=True)
            result = _ended(job, folder, watch, prefix, env, time_limit)
            made = _describe(job, vars(result), command)
            storage.write(folder / "provenance.json", json.dumps(made, default=str))
        except OSError as error:
            if not failures.disk_is_full(error):
                raise
            result = Result(job, folder, "disk_full", failures.full_disk(folder))
            made = _describe(job, {}, command)
        return replace(result, made=made)


def environment(*, tasks: bool = False) -> dict[str, str]:
    """Return a copy of this process's environment for a child that trains.

    Within a SLURM allocation Lightning takes every process for one of the tasks that ``srun``
    starts, and waits for the others, unless the SLURM job is called interactive.

    Args:
        tasks: Whether ``srun`` starts it.
    """
    return dict(os.environ) if tasks else {**os.environ, "SLURM_JOB_NAME": "interactive"}


def finished(job: Job, runs: Path, command: Sequence[str] = ("reproduce",)) -> Result | None:
    """Return the result that an earlier call left in the run folder, if it was trained to its end.

    Args:
        job: The job.
        runs: Root of all run folders.
        command: The command line, for the provenance of a run that has none.
    """
    folder = job.folder(runs)
    summary = _summary(folder)
    if summary.get("status") != "ok":
        return None
    made = _read_json(folder / "provenance.json") or _describe(job, summary, command)
    return Result(job, folder, found=True, made=made, **summary)


@contextmanager
def _locked(folder: Path, watch: Watch) -> Iterator[None]:
    """Keep a run to this process; whoever waits for another one can be called off by ``watch``.

    The training of a command that was killed may be about to end: what is read here is what it
    left, once it is gone.
    """
    with _waited(FileLock(folder / tether.COMMAND_LOCK), watch):
        with _waited(tether.training_lock(folder), watch):
            pass
        yield


@contextmanager
def _waited(lock: BaseFileLock, watch: Watch) -> Iterator[None]:
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            watch({})
    try:
        yield
    finally:
        lock.release()


def check(jobs: Sequence[Job]) -> None:
    """Refuse a setting that any of the jobs cannot be trained with, before the first is.

    Configurations state every setting of model and data, so an unknown one is told with the
    nearest known ones; the rest is left to one child process that builds what every row names.

    Raises:
        BadSettings: If a configuration was refused; the message names its row.
    """
    rows = {(job.experiment, job.row): job for job in jobs}
    for job in rows.values():
        _check_keys(job)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for (_, row), job in rows.items():
            paths[str(Path(folder) / f"{row}.yaml")] = job
        for path, job in paths.items():
            Path(path).write_text(yaml.safe_dump(job.resolved, sort_keys=False))
        command = [sys.executable, "-m", "reproduce.train", "check", *paths]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        if done.returncode:
            reached = [line for line in done.stdout.splitlines() if line.startswith("checking ")]
            job = paths[reached[-1].removeprefix("checking ")] if reached else jobs[0]
            lines = done.stderr.splitlines()
            last = lines[-1] if lines else f"the check ended with status {done.returncode}"
            reason = refusals.last(lines) if done.returncode == BAD_COMMAND_LINE else last
            raise BadSettings(f"{job.experiment}, row {job.row}: {reason}")


def _check_keys(job: Job) -> None:
    known = list(_dotted(replace(job, overrides={}).resolved))
    for key, value in job.overrides.items():
        head, stated = key.split(".")[0], short_key(key)
        where = f"{job.experiment}, row {job.row}"
        group = [k for k in known if k.startswith(f"{stated}.")]
        if group and not isinstance(value, dict):
            raise BadSettings(f"{where}: {key} is a group of settings. Set {', '.join(group)}.")
        # A key may also name a whole group, or a part of a value that is a mapping.
        if head not in ("model", "data") or group or any(_within(stated, k) for k in known):
            continue
        near = difflib.get_close_matches(stated, known, n=3, cutoff=0.5)
        near = near or [k for k in known if k.startswith(f"{head}.")]
        raise BadSettings(f"{where}: there is no setting {key}. Did you mean {', '.join(near)}?")


def _within(key: str, outer: str) -> bool:
    return f"{key}.".startswith(f"{outer}.")


def _dotted(config: dict[str, Any], before: str = "") -> Iterator[str]:
    """Yield the settings of a configuration as ``--set`` takes them."""
    for key, value in config.items():
        name = before if key == "init_args" else f"{before}.{key}".lstrip(".")
        if isinstance(value, dict):
            yield from _dotted(value, name)
        else:
            yield name


def short_key(key: str) -> str:
    """Return a dotted key as ``--set`` takes it, without ``init_args``."""
    return key.replace(".init_args.", ".", 1)


def _describe(job: Job, summary: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    made = provenance.collect(command, {**job.resolved, **summary.get("process", {})})
    if job.own is not None:
        made["own_row"] = job.own.origin
    if job.code:
        made["code_sha256"] = job.code
    return made


def _ended(
    job: Job,
    folder: Path,
    watch: Watch,
    prefix: Sequence[str],
    env: Mapping[str, str] | None,
    time_limit: float | None,
) -> Result:
    """Train until the child has ended, or has had its time, and return what became of it."""
    give_up = math.inf if time_limit is None else time.monotonic() + time_limit

    def watch_the_clock(state: dict[str, Any]) -> None:
        watch(state)
        if time.monotonic() > give_up:
            raise _TimeOut

    try:
        return _result(job, folder, _train(job, folder, watch_the_clock, prefix, env))
    except _TimeOut:
        assert time_limit is not None
        if _summary(folder).get("status") == "ok":  # it had just ended
            return _result(job, folder, 0)
        return Result(job, folder, "time_out", failures.time_out(time_limit))


def _train(
    job: Job, folder: Path, watch: Watch, prefix: Sequence[str], env: Mapping[str, str] | None
) -> int:
    config = json.loads(json.dumps(job.resolved))
    _set(config, "trainer.default_root_dir", str(folder))
    (folder / "job.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [
        *prefix,
        sys.executable,
        "-m",
        "reproduce.train",
        "run",
        "--config",
        str(folder / "job.yaml"),
    ]
    if any((folder / "checkpoints").glob("*.ckpt")):  # of which the training takes a whole one
        command += ["--ckpt_path", str(folder / "checkpoints")]
    own = environment() if env is None else env
    with (
        (folder / "log.txt").open("a") as log,
        tether.hold(folder, here=not prefix) as ties,
        _child(command, log, {**own, **ties}) as process,
    ):
        while process.poll() is None:
            time.sleep(0.2)
            watch(_read_json(folder / "progress.json"))
    return process.returncode


@contextmanager
def _child(
    command: list[str], log: Any, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that does not outlive this block, however the block is left."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=env,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _result(job: Job, folder: Path, code: int) -> Result:
    summary = _summary(folder)
    if summary and (code == 0 or summary["status"] != "ok"):
        return Result(job, folder, **summary)
    log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in log.splitlines() if line.strip()]
    last = lines[-1].strip() if lines else "no output"
    if code == BAD_COMMAND_LINE:
        raise BadSettings(f"{job.experiment}, row {job.row}: {refusals.last(lines)}")
    if code == failures.FULL_DISK:
        return Result(job, folder, "disk_full", failures.full_disk(folder))
    if failures.is_signal(code):  # on SIGTERM, Lightning ends without an exit status
        return Result(job, folder, "killed", failures.killed(code))
    return Result(job, folder, "error", last)


def _summary(folder: Path) -> dict[str, Any]:
    """Return the summary that the training left, or nothing if it is not whole."""
    summary = _read_json(folder / "summary.json")
    wanted = {"metrics", "cost", "parameters"} if summary.get("status") == "ok" else {"status"}
    return summary if wanted <= set(summary) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _full_key(key: str) -> str:
    """``model.solver.rtol`` stands for ``model.init_args.solver.rtol``, as on the command line."""
    head, _, rest = key.partition(".")
    if head in ("model", "data") and rest.split(".")[0] not in ("class_path", "init_args"):
        return f"{head}.init_args.{rest}"
    return key


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = config.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise BadSettings(f"{key} cannot be set: {parent} is {inner!r}, which has no parts.")
        config = inner
    config[last] = value


def _drop(config: dict[str, Any], path: tuple[str, ...]) -> None:
    for parent in path[:-1]:
        config = config.get(parent, {})
    config.pop(path[-1], None)
