"""A small sweep in child processes, ways to break it, and what is to be the same afterwards."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
# Three trainings of 90 updates in three epochs, under a schedule that knows their length.
COMMAND = ["fig7", "--profile", "smoke", "--device", "cpu", "--epochs", "3"]
COMMAND += ["--set", "data.steps=30", "--set", "trainer.log_every_n_steps=1"]
OFTEN = "4 updates"
COSTS = {"train_seconds", "train/seconds", "train/peak_memory"}
PATIENCE = 900  # seconds that nothing here takes, however busy the machine


@dataclass
class Sweep:
    """One command that is given again and again, in a folder of its own.

    Args:
        root: Where rows and run folders go.
        runs: Where run folders go instead, such as on a disk that will be full.
        every: How often its trainings write checkpoints.
    """

    root: Path
    runs: Path | None = None
    every: str = OFTEN
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the run folders are."""
        return self.runs or self.root / "runs"

    def newest(self, name: str) -> Path:
        """Return what has changed last of that name in a run folder."""
        return max(self.folder.glob(f"fig7/*/{name}"), key=lambda path: path.stat().st_mtime)

    def start(self, *flags: str) -> subprocess.Popen[str]:
        """Give the command, as a terminal would: in a process group that Ctrl-C reaches whole."""
        process = subprocess.Popen(
            [sys.executable, "-m", "reproduce", *COMMAND, *flags, "--out", str(self.root / "out")],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell may have had this process, and so its children, ignore Ctrl-C.
            preexec_fn=_heed_ctrl_c,
        )
        self.started.append(process)
        return process

    def finish(self, *flags: str) -> str:
        """Give the command and let it end well; return what it printed."""
        process = self.start(*flags)
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, printed
        return printed

    def told(self, verb: str) -> str:
        """Return what another command prints about the folder."""
        command = [
            sys.executable,
            "-m",
            "reproduce",
            verb,
            "fig7",
            "--out",
            str(self.root / "out"),
        ]
        return subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=True
        ).stdout

    def ended_well(self) -> bool:
        """Tell whether the last command did."""
        return bool(self.started) and self.started[-1].returncode == 0

    def outcome(self) -> dict[str, Any]:
        """Return all that is to be the same: rows, metrics and weights, but for what they cost."""
        rows = _lines(self.root / "out" / "fig7" / "smoke.csv")
        found: dict[str, Any] = {
            f"{row['row']} {row['metric']} {row['seed']}": tuple(row.values())
            for row in rows
            if row["metric"] not in COSTS
        }
        for folder in sorted(self.folder.glob("fig7/*-seed*")):
            found[f"{folder.name} metrics"] = _lines(folder / "metrics.csv")
            content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
            for name, tensor in content["state_dict"].items():
                found[f"{folder.name} {name}"] = tensor.tolist()
        return found

    def training(self, process: subprocess.Popen[str]) -> int | None:
        """Return the process of the training that a command waits for, if there is one."""
        for path in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == process.pid and b"--config" in (path / "cmdline").read_bytes():
                    return int(path.name)
            except (OSError, IndexError):  # it has just ended
                continue
        return None

    def updates(self) -> int:
        """Return how many updates all trainings have logged."""
        paths = self.folder.glob("fig7/*/metrics.csv")
        return sum(path.read_bytes().count(b"\n") for path in paths)

    def told_of(self, text: str) -> int:
        """Return how often the trainings have printed a text."""
        return sum(path.read_text().count(text) for path in self.folder.glob("fig7/*/log.txt"))

    def _environment(self) -> dict[str, str]:
        told = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        told |= {"REPRODUCE_RUNS": str(self.folder), "REPRODUCE_CHECKPOINTS": self.every}
        return {**os.environ, **told}


def wait_for(what: Any, process: subprocess.Popen[str]) -> Any:
    """Return what is true before a command ends, or None if it ends first."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up and process.poll() is None:
        found = what()
        if found:
            return found
        time.sleep(0.01)
    return None


def lost(sweep: Sweep, undisturbed: dict[str, Any]) -> list[str]:
    """Return by name what is missing or not the same, to the last bit."""
    found = sweep.outcome()
    names = undisturbed.keys() | found.keys()
    return sorted(name for name in names if repr(undisturbed.get(name)) != repr(found.get(name)))


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a small disk in memory.

    Raises:
        PermissionError: If that is not allowed here; the message has the reason.
    """
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PermissionError(str(error)) from error
    if done.returncode:
        raise PermissionError(done.stderr.strip())
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk but for some bytes, and return the file to remove."""
    path, block = disk / "filler", 4096
    with path.open("wb") as file:
        while True:
            there = os.statvfs(disk)
            free = there.f_bavail * there.f_frsize
            if free <= leave:
                return path
            try:
                file.write(bytes(min(block, free - leave)))
                file.flush()
            except OSError:  # taken by another in between
                return path


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {name: cell for name, cell in line.items() if name not in COSTS}
            for line in csv.DictReader(file)
        ]
