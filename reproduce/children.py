"""One measurement in a process of its own, to which no other one leaves memory or threads."""

import json
import subprocess
import sys
from typing import Any


def measured(module: str = "reproduce.point", **point: Any) -> dict[str, float]:
    """Measure one point with ``python -m`` and the name of a module, in a child process.

    Args:
        module: What measures: `reproduce.point`, or `reproduce.long_solve`.
        point: What to measure, as that module describes.

    Returns:
        What it printed.

    Raises:
        RuntimeError: If the child failed; the message has the point and its last line.
    """
    command = [sys.executable, "-m", module, json.dumps(point)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(f"Measuring {point} failed: {lines[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
