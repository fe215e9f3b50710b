"""A training is in its first step within eight seconds of its start, and help is there at once.

Seconds of wall-clock from the start of a child process, each once a round after one that is not
timed, which fills the disk's cache and compiles bytecode:

- `help`: until `python -m reproduce --help` has ended; it imports neither torch nor Lightning.
- `torch`: until a process that only does `import torch` has ended.
- `import`: the same of `import reproduce.train`: torch, Lightning and our modules. Both count the
  end of the process; `first_step`, whose process is stopped then, does not.
- `first_step`: until the first update of a training on the spiral is done, whose data are made in
  a moment, as `progress.json` says, for which is looked every 0.02 s.

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

PROTOCOL = 1
TRAINS = False
CONFIG = "spiral_path.yaml"
PATIENCE = 300.0  # seconds after which a child that does not begin is given up
PROFILES = {
    "smoke": Profile({"rounds": 2}, seeds=1, minutes=1),
    "quick": Profile({"rounds": 5}, seeds=1, minutes=None),
    "short": Profile({"rounds": 10}, seeds=1, minutes=None),
    "paper": Profile({"rounds": 10}, seeds=1, minutes=None),
}


def run(ctx: Context) -> list[Record]:
    """Time all starts; rows are written at the end, since they only count together."""
    from reproduce.statistics import mean_interval
    from reproduce.timing import interleave

    given = PROFILES[ctx.profile].overrides
    work: dict[str, Callable[[], object]] = {
        "help": lambda: _ended("-m", "reproduce", "--help"),
        "torch": lambda: _ended("-c", "import torch"),
        "import": lambda: _ended("-c", "import reproduce.train"),
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


def _ended(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


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
                        raise RuntimeError(_why(child))
                    time.sleep(0.02)
            finally:
                child.kill()
                child.wait()


def _why(child: "subprocess.Popen[str]") -> str:
    child.kill()
    assert child.stderr is not None
    said = child.stderr.read().strip().splitlines() or ["it said nothing"]
    return f"The training did not begin: {said[-1]}"
