"""What made a row: commit, command, versions, machine and precision, kept beside each CSV.

Nothing is imported to find out: versions come from the installed packages' metadata, and torch is
asked only if the process has loaded it already.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from reproduce import storage

PACKAGES = (
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchdiffeq",
    "torchmetrics",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
)
CHECKOUT = Path(__file__).resolve().parents[1]


def collect(command: str | Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the code, the command and the machine of a run.

    Args:
        command: The command line, as one text or as `sys.argv`, whose first entry is then told as
            ``python -m reproduce``.
        settings: What the run was told. ``threads``, ``devices`` and ``precision`` stand in for
            what is otherwise read from torch; everything else is kept under ``settings``.

    Returns:
        Plain values that JSON can hold, without absolute paths of this machine. What cannot be
        found out is ``None``.
    """
    asked = dict(settings)
    if not isinstance(command, str):
        command = " ".join(["python -m reproduce", *command[1:]])
    status = _git("status", "--porcelain", "--", ".", ":(exclude)results")
    found = {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
        "command": command,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        **{name: asked.pop(name, None) or value for name, value in process().items()},
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asked,
    }
    described: dict[str, Any] = _without_paths(found)
    return described


def path_for(csv: Path) -> Path:
    """Return where the provenance of a CSV lies: ``quick.provenance.json`` for ``quick.csv``."""
    return Path(csv).with_suffix(".provenance.json")


def write(csv: Path, run: str, entry: Mapping[str, Any]) -> Path:
    """Keep the provenance of one run beside its CSV, with that of the runs before it.

    Args:
        csv: The CSV that holds the run's records.
        run: Identity of the run; an earlier entry of the same run is replaced.
        entry: What `collect` returned; values that JSON cannot hold are kept as text.

    Returns:
        The JSON file, ``{"runs": {run: entry}}``.

    Raises:
        ValueError: If the file that is there is malformed; it is left as it is.
        OSError: If the folder cannot be written to; the message says how to choose another.
    """
    path = path_for(csv)
    with storage.exclusive(path):
        runs = read(csv) if path.exists() else {}
        content = {"runs": {**runs, run: dict(entry)}}
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, default=str)
        storage.write(path, text + "\n")
    return path


def read(csv: Path) -> dict[str, dict[str, Any]]:
    """Return the provenance entries beside a CSV, by run.

    Raises:
        ValueError: If the file is malformed.
        FileNotFoundError: If there is none.
    """
    path = path_for(csv)
    text = storage.read(path)
    try:
        runs = json.loads(text)["runs"]
        whole = isinstance(runs, dict) and all(isinstance(e, dict) for e in runs.values())
        if not whole:
            raise TypeError("its runs are not named or not described")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} is not a provenance file: {reason}. Mend the file, or remove it."
        ) from error
    return runs


def _git(*arguments: str) -> str | None:
    """Ask git about this package's own checkout; ``None`` where it is installed without one."""
    # A virtual environment may lie inside somebody's repository, whose commit says nothing here.
    if not (CHECKOUT / ".git").exists():
        return None
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    command = ["git", "--no-optional-locks", *arguments]
    try:
        answer = subprocess.run(
            command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _version(package: str) -> str | None:
    """Return the installed version of a package without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    """Return the processor's name as the system gives it."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    named = re.search(r"^model name\s*:\s*(.+)$", described, flags=re.MULTILINE)
    return named.group(1) if named else platform.processor() or None


def _usable_cores() -> int | None:
    """Return how many cores this process may use, which a container can limit."""
    can_tell = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if can_tell else os.cpu_count()


def process() -> dict[str, Any]:
    """Describe this process as torch sees it: what a training child tells of itself."""
    return {"threads": _threads(), "devices": _devices(), "precision": _precision()}


def _threads() -> int | None:
    """Return the threads of torch, or those it is told to take when it is loaded."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() else None


def _devices() -> list[str] | None:
    """Return the names of the GPUs, or the CPU; ``None`` while torch is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if not torch.cuda.is_available():
        return ["cpu"]
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _precision() -> dict[str, Any] | None:
    """Return torch's precision settings; ``None`` while it is not loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    readers = {
        "tf32_matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": lambda: torch.backends.cudnn.allow_tf32,
        "float32_matmul": torch.get_float32_matmul_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled,
        "cudnn_deterministic": lambda: torch.backends.cudnn.deterministic,
        "cudnn_benchmark": lambda: torch.backends.cudnn.benchmark,
    }
    found: dict[str, Any] = {}
    for name, reader in readers.items():
        try:
            found[name] = reader()
        except RuntimeError as error:  # torch refuses the old flags once the new ones are mixed in
            found[name] = f"unreadable: {str(error).splitlines()[0]}"
    return found


def _without_paths(value: Any) -> Any:
    """Strip the paths of this machine from every text inside plain values."""
    if isinstance(value, Mapping):
        return {str(key): _without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item) for item in value]
    return _strip(str(value)) if isinstance(value, str | Path) else value


def _strip(text: str) -> str:
    """Tell paths from here or from home; of any other absolute path, keep the last part."""
    for folder, short in ((str(Path.cwd()), "."), (str(Path.home()), "~")):
        if folder != os.sep:
            text = re.sub(rf"{re.escape(folder)}(?=[/\\\s'\",;:]|$)", short, text)
    text = re.sub(r"(?<![\w.])\./", "", text)
    return re.sub(r"(?<![\w.~:/…])/(?:[^/\s'\",;:]+/)+(?=[^/\s])", "…/", text)
