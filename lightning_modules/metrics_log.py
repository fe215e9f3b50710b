"""The metrics of a training as CSV: a resumed training's are those of an undisturbed one."""

import csv
import io
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from lightning_modules.whole_files import naming, reach_disk, replacing

OURS = ("lightning_modules", "pytorch_lightning", "reproduce")


def is_read(module: pl.LightningModule) -> bool:
    """Return whether anybody may read what a batch of a module's training logs.

    A log is written every ``log_every_n_steps`` updates. Lightning takes 0.2 to 0.5 ms (a core
    of an EPYC) for a value, read or not, so that others are left out, but for the last batch of an
    epoch and of the training. Where a callback or a schedule monitors a metric, ends the training
    by the clock, or is somebody's own, none is.
    """
    trainer = module._trainer
    if trainer is None or trainer._logger_connector.should_update_logs or trainer.is_last_batch:
        return True
    if 0 <= trainer.max_steps <= trainer.global_step + 1:
        return True
    monitored = any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs)
    return monitored or any(map(_may_read, trainer.callbacks))  # type: ignore[attr-defined]


def _may_read(callback: pl.Callback) -> bool:
    package = type(callback).__module__.partition(".")[0]
    if package not in OURS or isinstance(callback, Timer):
        return True
    return getattr(callback, "monitor", None) is not None


class LogCutShort(RuntimeError):
    """A log has fewer lines than the checkpoint that a training resumes from counts."""


class MetricsLog(Logger):
    """Writes ``metrics.csv``: one line for each time that metrics are logged, one column a metric.

    Lines reach the file as they are logged, and the disk whenever a checkpoint is written, which
    holds `state`: what was logged behind it is dropped on resuming, since it will be logged again.
    A training that begins anew replaces the file of an earlier one.

    Args:
        folder: Where the file is.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = []
        self._lines = 0

    @property
    def name(self) -> str:
        """No name: there is one log in the folder."""
        return ""

    @property
    def version(self) -> str:
        """No version either."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder."""
        return str(self.path.parent)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: the configuration lies beside the log."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a line.

        Args:
            metrics: Values by name.
            step: The update they belong to.

        Raises:
            OSError: If it cannot be written, such as where no space is left.
        """
        line = {**metrics, "step": step}
        if not set(line) <= set(self._columns):
            self._begin(sorted({*self._columns, *line}))
        try:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(_text(self._columns, [line]))
        except OSError as error:
            raise naming(self.path, error) from error
        self._lines += 1

    @rank_zero_only
    def reach_disk(self) -> None:
        """Wait until all lines would survive a loss of power."""
        if self._lines:
            with self.path.open("ab") as file:
                reach_disk(file)

    def state(self) -> dict[str, Any]:
        """Return how far the log is, in plain values."""
        return {"columns": list(self._columns), "lines": self._lines}

    @rank_zero_only
    def go_on(self, state: Mapping[str, Any]) -> None:
        """Drop what was logged behind a state; a log in another folder begins there.

        Raises:
            LogCutShort: If there are fewer lines than the state counts.
        """
        if state["lines"] and self.path.exists():
            self._lines = state["lines"]
            self._begin(list(state["columns"]))

    def _begin(self, columns: list[str]) -> None:
        """Write the lines so far anew under these columns, and no line more."""
        earlier = self._read()
        with replacing(self.path) as file:
            header = dict(zip(columns, columns, strict=True))
            file.write(_text(columns, [header, *earlier]).encode())
        self._columns = columns

    def _read(self) -> list[dict[str, str]]:
        if not self._lines:
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            # Behind these, there may be half a line.
            found = list(islice(csv.DictReader(file), self._lines))
        if len(found) < self._lines:
            raise LogCutShort(
                f"{self.path} has {len(found)} lines where the checkpoint counts {self._lines}. "
                "Bring the file back, or remove the folder of checkpoints to begin anew."
            )
        return found


def _text(columns: list[str], lines: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    # Lines that are dropped may have brought columns of their own.
    csv.DictWriter(text, columns, extrasaction="ignore").writerows(lines)
    return text.getvalue()
