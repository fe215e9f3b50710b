"""A training is in its first step within eight seconds of its start, and help is there at once.

Seconds of wall-clock from the start of a child process, each once a round after one that is not
timed, which fills the disk's cache and compiles bytecode:

- `help`: until `python -m reproduce --help` has ended; it imports neither torch nor Lightning.
- `torch`: until a process has done `import torch`.
- `import`: the same of `import reproduce.train`: torch, Lightning and our modules.
- `first_step`: until the first update of a training on the spiral is done, whose data are made in
  a moment, as `progress.json` says, for which is looked every 0.02 s.

A process is stopped as soon as it has got there; `help` alone is timed to its end.

Metrics: `seconds`, the median over rounds, `seconds_spread`, half the distance of the quartiles,
and `seconds_mean` with the 95 % interval of the mean, by which the mark is judged.

Deviations: none, the paper says nothing of it.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.context import Context, Profile
from reproduce.records import Record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PROTOCOL = 2  # 1 counted the end of the processes that only import, which takes a second
TRAINS = False
CONFIG = "spiral_path.yaml"
PATIENCE = 300.0  # seconds after which a child that does not begin is given up
PROFILES = {
    "smoke": Profile({"rounds": 2}, seeds=1, minutes=1),
    "quick": Profile({"rounds": 5}, seeds=1, minutes=1),
    "short": Profile({"rounds": 10}, seeds=1, minutes=2),
    "paper": Profile({"rounds": 10}, seeds=1, minutes=2),
}


def run(ctx: Context) -> list[Record]:
    """Time all starts; rows are written at the end, since they only count together."""
    from reproduce.statistics import mean_interval
    from reproduce.timing import interleave

    given = PROFILES[ctx.profile].overrides
    work: dict[str, Callable[[], object]] = {
        "help": _helped,
        "torch": lambda: _imported("torch"),
        "import": lambda: _imported("reproduce.train"),
        "first_step": _first_step,
    }
    timings = interleave(work, given["rounds"], warm_up=1)
    values = {}
    for name, timing in timings.items():
        mean = mean_interval(timing.seconds)
        values[name] = {
            "seconds": timing.median,
            "seconds_spread": timing.spread,
            "seconds_mean": mean.value,
            "seconds_mean_low": mean.low,
            "seconds_mean_high": mean.high,
        }
    budget = f"{given['rounds']} rounds"
    settings = {**given, "device": "cpu"}
    return ctx.keep("startup", PROTOCOL, values, settings, budget=budget, unit=lambda _: "s")


def table(records: list[Record]) -> "pd.DataFrame":
    """One line per start."""
    from reproduce.records import to_frame

    wide = to_frame(records).pivot_table(index="row", columns="metric", values="value")
    order = [row for row in ("help", "torch", "import", "first_step") if row in wide.index]
    return wide.loc[order, ["seconds", "seconds_spread"]]


def plot(records: list[Record]) -> "Figure":
    """Seconds until each of them, medians with quartiles."""
    from reproduce import plotting

    shown = table(records)
    with plotting.style():
        figure, axes = plotting.subplots(size=(7.0, 3.2))
        bars = axes.barh(
            range(len(shown)),
            shown["seconds"],
            xerr=shown["seconds_spread"],
            height=0.6,
            color=plotting.OKABE_ITO["blue"],
        )
        axes.bar_label(bars, fmt="%.2f", padding=12)
        axes.set_yticks(range(len(shown)), [row.replace("_", " ") for row in shown.index])
        axes.invert_yaxis()
        axes.margins(x=0.16)
        axes.set_xlabel("seconds from the start of the process")
    return figure


def _helped() -> None:
    command = [sys.executable, "-m", "reproduce", "--help"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _imported(module: str) -> None:
    """Start a process that imports a module, and return as soon as it has."""
    code = f"import {module}; print('there', flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        if "there" not in child.stdout.readline():
            raise RuntimeError(f"{module} was not imported: {_last_words(child)}")
        child.kill()


def _first_step() -> None:
    """Start a training and return as soon as its first update is done."""
    from importlib import resources

    config = resources.files("reproduce").joinpath("configs", CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "reproduce.train", "fit", "--config", str(config)]
        command += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", folder]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as child:
            begun = time.monotonic()
            try:
                while not (Path(folder) / "progress.json").exists():
                    if child.poll() is not None or time.monotonic() - begun > PATIENCE:
                        raise RuntimeError(f"The training did not begin: {_last_words(child)}")
                    time.sleep(0.02)
            finally:
                child.kill()
                child.wait()


def _last_words(child: "subprocess.Popen[str]") -> str:
    child.kill()
    assert child.stderr is not None
    said = child.stderr.read().strip().splitlines() or ["it said nothing"]
    return said[-1]
