"""A training ends with the command that started it, and one folder has one training at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from reproduce import jobs, tether
from reproduce.jobs import Job

ROOT = Path(__file__).parents[2]
JOB = Job("table1", "mlp", "mlp.yaml", {}, seed=0, protocol=1)
PYTHON = sys.executable
# A training that says who it is, starts a rank as Lightning does, and goes on for ever.
TRAINING = """
import os, pathlib, subprocess, sys, time
from reproduce import tether
with tether.tied():
    folder = pathlib.Path(os.environ["REPRODUCE_RUN_FOLDER"])
    rank = os.environ.get("LOCAL_RANK", "0")
    if rank == "0":
        env = {**os.environ, "LOCAL_RANK": "1"}
        subprocess.Popen([sys.executable, *sys.argv], env=env)
    (folder / f"pid{rank}.part").write_text(str(os.getpid()))
    os.replace(folder / f"pid{rank}.part", folder / f"pid{rank}")
    time.sleep(120)
"""
# A command that trains in a thread that has ended before the training is there.
COMMAND = """
import pathlib, sys
from concurrent.futures import ThreadPoolExecutor
from reproduce import jobs
sys.executable = sys.argv[1]
job = jobs.Job("table1", "mlp", "mlp.yaml", {}, seed=0, protocol=1)
with ThreadPoolExecutor(1) as pool:
    pool.submit(jobs.run, job, pathlib.Path(sys.argv[2]), lambda state: None).result()
"""


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """What runs ``TRAINING`` when asked for ``python -m reproduce.train``."""
    (tmp_path / "training.py").write_text(TRAINING)
    path = tmp_path / "python"
    # A shell stays in between, as some set-ups have it.
    path.write_text(f'#!/bin/sh\nshift 2\n{PYTHON} {tmp_path / "training.py"} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def command(tmp_path: Path, launcher: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the middle of a training with two ranks."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [PYTHON, "-c", COMMAND, str(launcher), str(tmp_path / "runs")]
    process = subprocess.Popen(arguments, env=env)
    folder = JOB.folder(tmp_path / "runs")
    try:
        _until(lambda: (folder / "pid0").exists() and (folder / "pid1").exists())
        yield process
    finally:
        process.kill()
        process.wait()


def _until(met: Callable[[], bool], seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def _is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"  # nobody has asked yet how it ended


def test_a_training_and_its_ranks_are_gone_soon_after_the_command_was_killed(
    command: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    folder = JOB.folder(tmp_path / "runs")
    pids = [int((folder / name).read_text()) for name in ("pid0", "pid1")]
    assert not any(map(_is_gone, pids))
    os.kill(command.pid, signal.SIGKILL)  # and not waited for: a zombie ties nobody
    _until(lambda: all(map(_is_gone, pids)), seconds=10)
    assert not tether.is_held(folder / tether.TRAINING_LOCK)
    with tether.hold(folder) as told:
        assert [path.name for path in folder.glob(".tether-*")] == [Path(told[tether.FIFO]).name]


def test_the_first_rank_alone_has_the_lock_of_the_training(
    command: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    folder = JOB.folder(tmp_path / "runs")
    assert tether.is_held(folder / tether.COMMAND_LOCK)
    assert tether.is_held(folder / tether.TRAINING_LOCK)
    command.terminate()


@pytest.mark.parametrize(
    ("ranks", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True),
        ({"SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, False),
    ],
    ids=str,
)
def test_over_several_nodes_one_process_has_the_lock(
    ranks: dict[str, str], first: bool, tmp_path: Path
) -> None:
    with tether.tied({**ranks, tether.FOLDER: str(tmp_path)}):
        assert tether.is_held(tmp_path / tether.TRAINING_LOCK) is first
    assert not tether.is_held(tmp_path / tether.TRAINING_LOCK)


def test_a_second_start_waits_until_the_training_of_a_killed_command_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = JOB.folder(tmp_path)
    folder.mkdir(parents=True)
    orphan = tether.training_lock(folder)
    seen: list[bool] = []

    def watch(state: dict[str, Any]) -> None:
        seen.append((folder / "job.yaml").exists())
        # What it still writes counts.
        done = '{"status": "ok", "metrics": {}, "cost": {}, "parameters": 1}'
        (folder / "summary.json").write_text(done)
        orphan.release()

    monkeypatch.setattr(sys, "executable", "/bin/false")
    with orphan:
        result = jobs.run(JOB, tmp_path, watch)
    assert seen == [False]
    assert result.found


def test_where_ranks_are_on_other_machines_only_the_lock_is_told(tmp_path: Path) -> None:
    with tether.hold(tmp_path, here=False) as told:
        assert told == {tether.FOLDER: str(tmp_path)}
        assert not list(tmp_path.iterdir())


def test_a_disk_without_fifos_still_has_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mkfifo", refuse)
    with tether.hold(tmp_path) as told:
        assert told == {tether.FOLDER: str(tmp_path)}


def test_a_training_that_starts_after_its_command_has_ended_leaves_at_once(tmp_path: Path) -> None:
    with tether.hold(tmp_path) as told:
        pass
    code = "from reproduce import tether\nwith tether.tied(): print('trains')"
    env = {**os.environ, **told, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([PYTHON, "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (tether.ENDED_BY_SIGTERM, "")
    assert "is gone" in done.stderr


def test_to_ask_for_a_lock_neither_takes_nor_makes_it(tmp_path: Path) -> None:
    assert not tether.is_held(tmp_path / "none")
    assert not list(tmp_path.iterdir())
    with FileLock(tmp_path / "one"):
        assert tether.is_held(tmp_path / "one")
    (tmp_path / "one").touch()
    assert not tether.is_held(tmp_path / "one")
    os.mkfifo(tmp_path / "pipe")
    assert not tether.is_held(tmp_path / "pipe")


def test_a_real_training_is_tied_and_has_the_lock(tmp_path: Path) -> None:
    config = ROOT / "reproduce" / "configs" / "rnn.yaml"
    small = ["--data.train_size=20", "--data.test_size=20", "--trainer.accelerator=cpu"]
    small += ["--data.batch_size=10", f"--trainer.default_root_dir={tmp_path}"]
    with tether.hold(tmp_path) as told:
        process = subprocess.Popen(
            [PYTHON, "-m", "reproduce.train", "run", "--config", str(config), *small],
            env={**os.environ, **told, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            has_begun = (tmp_path / "progress.json").exists
            _until(lambda: has_begun() or process.poll() is not None, seconds=240)
            assert process.poll() is None
            assert tether.is_held(tmp_path / tether.TRAINING_LOCK)
        except BaseException:
            process.kill()
            raise
    assert process.wait(timeout=10) == tether.ENDED_BY_SIGTERM
