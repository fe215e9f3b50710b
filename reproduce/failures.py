"""How a training fails: its kind, what to do about it, and which kinds a new call takes up."""

import errno
import re
import signal
from pathlib import Path

from reproduce.records import Status

# No fault of the run: the machine ended it, and another call may well bring it to its end.
TAKEN_UP: tuple[Status, ...] = ("killed", "disk_full")
# Exit status of a training; on a full disk it can write nothing that would say so (EX_IOERR).
FULL_DISK = 74
_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch and safetensors write without Python's files, and their errors carry no number.
_SAID_FULL = re.compile("No space left on device|PytorchStreamWriter failed writing")
_SAID_NO_MEMORY = re.compile("DefaultCPUAllocator: can't allocate memory|not enough memory")


def disk_is_full(error: BaseException) -> bool:
    """Tell whether an error, or one that it arose from, is that of a full disk or a used quota."""
    return any(
        (isinstance(e, OSError) and e.errno in _FULL) or bool(_SAID_FULL.search(str(e)))
        for e in _chain(error)
    )


def memory_is_short(error: BaseException) -> bool:
    """Tell whether an error is that of memory which could not be had on the CPU."""
    return isinstance(error, MemoryError) or bool(_SAID_NO_MEMORY.search(str(error)))


def full_disk(folder: Path) -> str:
    """Return the hint of a run whose disk is full."""
    return (
        f"the disk of {folder.parent} is full. Free some of it, or keep run folders elsewhere "
        "with REPRODUCE_RUNS; the next call goes on"
    )


def killed(code: int) -> str:
    """Return the hint of a run that a signal ended; see `ended`."""
    return f"{ended(code)}; the next call resumes it"


def ended(code: int) -> str:
    """Return how a process ended that was not at its end.

    Args:
        code: Exit status as `subprocess` gives it, or as a shell does; 0 if it ended early without
            one.
    """
    number = -code if code < 0 else code - 128
    why = f"ended by signal {number}" if code else "ended early"
    if number == signal.SIGKILL:
        why += ": if nobody sent it, the machine may have run out of memory"
    return why


def is_signal(code: int) -> bool:
    """Tell whether an exit status is that of a process which a signal ended, or nothing's."""
    return code <= 0 or 128 < code <= 128 + signal.NSIG


def time_out(seconds: float) -> str:
    """Return the hint of a run that took longer than it was given."""
    return (
        f"longer than --time-limit {seconds / 60:g} (minutes). With --retry-failed it goes on "
        "from its last checkpoint, for as long again"
    )


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and those that it arose from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
