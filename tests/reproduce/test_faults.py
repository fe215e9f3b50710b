"""Whatever breaks a sweep, the same command again ends with the rows of an undisturbed one.

To the last bit: rows, metrics and weights, but for what they cost. Two sweeps are broken at once.
Where FAULT_TABLE names a file, what was done and what was lost is written there.
"""

import csv
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from fault_sweep import PATIENCE, Sweep, fill, lost, small_disk, wait_for

pytestmark = pytest.mark.stress
KILLS = 10  # of the command, and as many of trainings: twenty moments
MOST = 30  # after which too few of them have met a training for a reason


@dataclass
class Fault:
    """A line of the table."""

    fault: str
    tried: int
    went_on: int  # how often a training went on from a checkpoint afterwards
    rows_lost: int
    what_was_lost: str


@dataclass
class Moments:
    """When to kill: most often after some updates, else some time after the start.

    A sweep this small begins for much longer than it trains, and moments drawn from its whole
    time would hardly ever meet a training.

    Args:
        chance: Draws the moments.
        span: The longest time, in seconds.
    """

    chance: random.Random
    span: float

    def wait(self, sweep: Sweep, process: subprocess.Popen[str]) -> None:
        """Return at the next moment, or when the command has ended."""
        if self.chance.random() < 0.2:
            with suppress(subprocess.TimeoutExpired):
                process.wait(self.chance.uniform(0.0, self.span))
            return
        least = sweep.updates() + self.chance.randrange(1, 60)
        wait_for(lambda: sweep.updates() >= least, process)


class Broken:
    """What the scenarios share: a folder each, and the rows that are to come out.

    Args:
        root: Where all sweeps are.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        whole, began = self.sweep("undisturbed"), time.monotonic()
        whole.finish()
        self.undisturbed: dict[str, Any] = whole.outcome()
        # Within this time after its start a command is killed: this machine's, busy or not.
        self.span = (time.monotonic() - began) / 2

    def sweep(self, name: str, **given: Any) -> Sweep:
        """Return a sweep in a new folder."""
        return Sweep(self.root / name, **given)

    def judged(self, fault: str, tried: int, *sweeps: Sweep) -> Fault:
        """Compare what came out, and return the table's line."""
        names = [name for sweep in sweeps for name in lost(sweep, self.undisturbed)]
        return Fault(fault, tried, _went_on(sweeps), len(names), "; ".join(names) or "nothing")


def _kill_the_command(broken: Broken) -> Fault:
    return _killed_often(broken, "command", _killed_command)


def _kill_the_training(broken: Broken) -> Fault:
    return _killed_often(broken, "training", _killed_trainings)


def _killed_often(broken: Broken, whom: str, kill: Callable[[Sweep, Moments, int], int]) -> Fault:
    """Give the same command until it ends well or there were enough kills; then a new sweep's.

    Enough are KILLS, and so many that more than half as many trainings went on from a checkpoint:
    a busy machine spreads the moments over what is no training.
    """
    moments = Moments(random.Random(whom), broken.span)
    sweeps: list[Sweep] = []
    kills = 0

    def enough() -> bool:
        return kills >= MOST or (kills >= KILLS and _went_on(sweeps) > KILLS // 2)

    while not enough():
        sweep = broken.sweep(f"{whom}-{len(sweeps)}")
        sweeps.append(sweep)
        while not sweep.ended_well() and not enough():
            kills += kill(sweep, moments, max(KILLS - kills, 1))
        if not sweep.ended_well():
            sweep.finish()
    fault = broken.judged(f"kill -9 of the {whom}, at random moments", kills, *sweeps)
    assert fault.went_on > KILLS // 2, "hardly any kill met a training that had a checkpoint"
    return fault


def _went_on(sweeps: Sequence[Sweep]) -> int:
    return sum(sweep.told_of("Restored all states") for sweep in sweeps)


def _killed_command(sweep: Sweep, moments: Moments, most: int) -> int:
    """Kill the command once; return whether it was still there.

    The training that it had begun ends with it.
    """
    process = sweep.start()
    moments.wait(sweep, process)
    training = sweep.training(process)
    process.kill()
    printed, _ = process.communicate()
    assert "Traceback" not in printed
    give_up = time.monotonic() + 20
    while training and Path(f"/proc/{training}").exists():
        assert time.monotonic() < give_up, "the training goes on without its command"
        time.sleep(0.05)
    return int(process.returncode == -signal.SIGKILL)


def _killed_trainings(sweep: Sweep, moments: Moments, most: int) -> int:
    """Kill the trainings of a command, which goes on with the next; return how many were hit."""
    process, kills = sweep.start(), 0
    while kills < most and process.poll() is None:
        moments.wait(sweep, process)
        training = sweep.training(process)
        if training is not None:
            os.kill(training, signal.SIGKILL)
            kills += 1
    printed, _ = process.communicate()
    assert "Traceback" not in printed
    return kills


def _signals(broken: Broken) -> Fault:
    """End the command in its first training by SIGTERM, and in its second one by Ctrl-C."""
    sweep, tried = broken.sweep("signals"), 0
    for updates, number, whom in ((20, signal.SIGTERM, os.kill), (130, signal.SIGINT, os.killpg)):
        process = sweep.start()
        if wait_for(lambda least=updates: sweep.updates() > least, process):
            whom(process.pid, number)
            tried += 1
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode not in (0, 1), printed
        assert "Traceback" not in printed
    assert tried == 2
    sweep.finish()
    return broken.judged("SIGTERM to the command, and Ctrl-C", tried, sweep)


def _full_disk(broken: Broken, what: str, every: str, leave: int) -> Fault:
    """Fill the disk of the run folders in the middle of a training, then make room again."""
    name = what.replace(" ", "-")
    with small_disk(broken.root / f"{name}-disk", "6m") as disk:
        sweep = broken.sweep(name, runs=disk / "runs", every=every)
        process = sweep.start()
        assert wait_for(lambda: sweep.updates() > 20, process)
        filler = fill(disk, leave)
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1, printed
        assert "disk" in printed
        assert "Traceback" not in printed
        filler.unlink()
        sweep.finish()
        return broken.judged(f"disk full while {what} is written", 1, sweep)


def _full_disk_checkpoint(broken: Broken) -> Fault:
    return _full_disk(broken, "a checkpoint", "4 updates", leave=16384)


def _full_disk_csv(broken: Broken) -> Fault:
    return _full_disk(broken, "a CSV", "1000 updates", leave=0)


def _half_checkpoint(broken: Broken) -> Fault:
    """Lose power in a training, twice, after which the last checkpoint is half, and then both."""
    sweep = broken.sweep("half")
    for names in (("last.ckpt",), ("last.ckpt", "previous.ckpt")):
        there: list[Path] = []
        while not there or not all(path.exists() for path in there):  # the next had only begun
            process, least = sweep.start(), sweep.updates() + 20
            assert wait_for(lambda least=least: sweep.updates() > least, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            assert "interrupted" in sweep.told("status")
            there = [sweep.newest("checkpoints") / name for name in names]
        for path in there:
            content = path.read_bytes()
            path.write_bytes(content[: len(content) // 2])
    sweep.finish()
    assert sweep.told_of("is not whole") == 3
    return broken.judged("a checkpoint cut in half", 2, sweep)


def _two_copies(broken: Broken) -> Fault:
    sweep = broken.sweep("two")
    copies = [sweep.start(), sweep.start()]
    for process in copies:
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, printed
    return broken.judged("two copies started at once", 1, sweep)


def _time_out(broken: Broken) -> Fault:
    """Give each training less time than it needs to begin; it stays failed until asked for."""
    sweep = broken.sweep("time")
    for flags in (("--time-limit", "0.02"), ()):
        process = sweep.start(*flags)
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert "time_out" in printed
        assert "Traceback" not in printed
    assert "failed" in sweep.told("status")
    sweep.finish("--retry-failed")
    return broken.judged("--time-limit, then --retry-failed", 1, sweep)


FAULTS: dict[str, Callable[[Broken], Fault]] = {
    "half_checkpoint": _half_checkpoint,
    "full_disk_checkpoint": _full_disk_checkpoint,
    "full_disk_csv": _full_disk_csv,
    "signals": _signals,
    "time_out": _time_out,
    "two_copies": _two_copies,
    "kill_the_command": _kill_the_command,
    "kill_the_training": _kill_the_training,
}


@pytest.fixture(scope="module")
def tried(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Fault]]]:
    """The faults that were asked for, two at a time; the table is written at the end."""
    broken = Broken(tmp_path_factory.mktemp("faults"))
    assert len(broken.undisturbed) > 40
    asked = [n for n in FAULTS if any(f"[{n}]" in item.name for item in request.session.items)]
    with ThreadPoolExecutor(2) as pool:
        futures = {name: pool.submit(FAULTS[name], broken) for name in asked}
        yield futures
        pool.shutdown(cancel_futures=True)
    table = os.environ.get("FAULT_TABLE")
    done = [f for f in futures.values() if f.done() and not f.cancelled() and not f.exception()]
    if table:
        with open(table, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(column.name for column in fields(Fault))
            writer.writerows(astuple(future.result()) for future in done)


@pytest.mark.parametrize("name", FAULTS)
def test_the_same_command_again_ends_with_the_rows_of_an_undisturbed_one(
    name: str, tried: dict[str, Future[Fault]]
) -> None:
    try:
        fault = tried[name].result()
    except PermissionError as reason:
        pytest.skip(f"no disk can be mounted here: {reason}")
    assert fault.what_was_lost == "nothing"
    assert fault.tried > 0
