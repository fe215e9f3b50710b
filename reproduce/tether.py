"""Ties a training to the process that started it, and trainings in one folder to one at a time.

A training must not outlive the command that waits for it, however that one ends: nobody would
write its rows, and the next command would train beside it in the same folder. The starter holds a
FIFO open for writing, which no other process has; every process of the training reads it, and the
kernel tells it of the end. (``PR_SET_PDEATHSIG`` would not do: it counts the death of the *thread*
that started the training, and no rank that Lightning starts in its turn would have it.)

A moment may pass before the training is gone, so it holds a lock of its own on its folder.
``.lock`` belongs to the command, ``.training`` to the training: a command has the first, waits for
the second and lets it go again, then starts the training that takes it. A training never waits for
``.lock``, so nobody waits in a circle.
"""

import fcntl
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import BaseFileLock, FileLock

COMMAND_LOCK, TRAINING_LOCK = ".lock", ".training"
FIFO, FOLDER = "REPRODUCE_TETHER", "REPRODUCE_RUN_FOLDER"  # what a training is told
ENDED_BY_SIGTERM = 143
# Of torchrun, SLURM and Lightning; whoever has another rank than 0 in any is not the first.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")


@contextmanager
def hold(folder: Path, *, here: bool = True) -> Iterator[dict[str, str]]:
    """Yield the variables that tie a training to this block, which has the folder's lock.

    Args:
        folder: The run folder.
        here: Whether all its processes are on this machine; elsewhere no FIFO reaches them, and
            what started them, such as ``srun``, ends them.
    """
    for left in folder.glob(".tether-*"):  # of a command that was killed
        left.unlink(missing_ok=True)
    told = {FOLDER: str(folder)}
    path = folder / f".tether-{uuid4().hex[:12]}"
    try:
        os.mkfifo(path)
    except OSError:  # not every network disk has them; the lock still keeps the folder to one
        here = False
    if not here:
        path.unlink(missing_ok=True)
        yield told
        return
    end = os.open(path, os.O_RDWR)  # for writing alone, it would wait for a reader
    try:
        yield {**told, FIFO: str(path)}
    finally:
        os.close(end)
        path.unlink(missing_ok=True)


@contextmanager
def tied(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Run a training's block; if its starter ends first, this process does, at once.

    The first of its ranks has the folder's lock within the block. Started by hand, a training is
    told of neither and is free.
    """
    if FIFO in environment:
        _follow(environment[FIFO])
    if FOLDER not in environment or not _is_first(environment):
        yield
        return
    with training_lock(Path(environment[FOLDER])):
        yield


def training_lock(folder: Path) -> BaseFileLock:
    """Return the lock that a training has on its run folder."""
    return FileLock(folder / TRAINING_LOCK)


def is_held(lock: Path) -> bool:
    """Tell whether some process has a lock; nothing is written, and no lock is created."""
    try:
        end = os.open(lock, os.O_RDONLY | os.O_NONBLOCK)  # a stranger's may be a pipe
    except OSError:
        return False
    try:
        fcntl.flock(end, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(end)
    return False


def _follow(path: str) -> None:
    """End this process as soon as no process has the FIFO open for writing."""
    try:
        end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        os.read(end, 1)
    except BlockingIOError:  # nothing to read, but somebody who might write
        os.set_blocking(end, True)
        threading.Thread(target=_wait, args=(end,), name="tether", daemon=True).start()
    except FileNotFoundError:
        _leave()
    else:
        _leave()


def _wait(end: int) -> None:
    os.read(end, 1)
    _leave()


def _leave() -> None:
    """End without a word to anybody: what waited for this process is gone."""
    try:
        os.write(sys.stderr.fileno(), b"The command that started this training is gone.\n")
    finally:
        os._exit(ENDED_BY_SIGTERM)


def _is_first(environment: Mapping[str, str]) -> bool:
    return all(environment.get(name, "0") in ("", "0") for name in _RANKS)
