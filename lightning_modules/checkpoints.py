"""Checkpoints between any two updates, from which a training goes on as if never interrupted."""

import errno
import io
import os
import re
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules.metrics_log import MetricsLog
from lightning_modules.whole_files import reach_disk, replacing

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
EVERY = "30 s"
PATIENCE = 100  # a checkpoint that took t seconds is followed by none for 100 t


class Checkpoints(Checkpoint):
    """Keeps the state of a training in two files, ``last.ckpt`` and ``previous.ckpt``.

    It is written every so often, after an epoch, at the end and on SIGTERM. Each file is written
    beside the others, has reached the disk when it takes its name, and is read with
    ``weights_only``.
    It holds what a training goes on with: the weights, optimizer and schedule, the position in
    the data, the state of the callbacks and how far the `MetricsLog` is. On the CPU at a fixed
    number of threads, a resumed training ends with the bits of an undisturbed one.

    Lightning's own hook comes before an update's metrics are logged and before a validation, so
    a checkpoint from there would lose them. This one is written when the loop has ended its turn.

    Args:
        folder: Where the files are.
        every: ``"30 s"`` or another time, or ``"20 updates"``. Where a time is given, writing
            takes about a hundredth of the training at most: short epochs go by without.

    Raises:
        ValueError: If ``every`` is neither.
    """

    def __init__(self, folder: str | Path, every: str = EVERY) -> None:
        self.folder = Path(folder)
        self._seconds, self._updates = _interval(every)
        self._due = self._rested = 0.0
        self._saved = -1
        self._resumed = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Have the loops tell when they have ended a turn."""
        # Lightning reads the weights before it converts the module, which would round doubles.
        trainer.precision_plugin.convert_module(pl_module)
        if stage != "fit":
            return
        self._rested, self._saved, self._resumed = 0.0, -1, False
        trainer.strategy.checkpoint_io = WholeCheckpoints()
        _follow(trainer.fit_loop.epoch_loop, lambda: self._after_batch(trainer))
        _follow(trainer.fit_loop, lambda: self._after_epoch(trainer))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the loops as they were."""
        if stage == "fit":
            for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop):
                vars(loop).pop("on_advance_end", None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, and take up the position in the data.

        Lightning passes it on when it sets up the loader. A schedule that asks for the length of
        the training has that done before the checkpoint is read, and the position is left over.
        """
        self._due = time.monotonic() + self._seconds
        loop = trainer.fit_loop
        if loop.restarting and loop._combined_loader_states_to_load:
            loop._load_combined_loader_states()
            assert loop._data_fetcher is not None
            iter(loop._data_fetcher)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the end."""
        if trainer.global_step != self._saved:
            self._save(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write a checkpoint on SIGTERM, which the loops raise between two updates."""
        told = isinstance(exception, SIGTERMException) and trainer.training and _alone(trainer)
        if told and not trainer.fit_loop.epoch_loop._should_accumulate():
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add how far the log is."""
        for log in _logs(trainer):
            checkpoint["metrics_log"] = log.state()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Drop what was logged behind the checkpoint."""
        self._resumed = True
        for log in _logs(trainer):
            log.go_on(checkpoint.get("metrics_log") or {"columns": [], "lines": 0})

    def _after_batch(self, trainer: pl.Trainer) -> None:
        loop = trainer.fit_loop.epoch_loop
        # Gradients gathered over batches are in no checkpoint; an epoch's end has its own.
        if loop._should_accumulate() or loop._is_training_done or trainer.should_stop:
            return
        if self._updates:
            due = trainer.global_step % self._updates == 0
        else:
            # To ask the time of the first rank, all others wait for it.
            asks = _alone(trainer) or trainer.global_step % 10 == 0
            due = asks and self._is_past(self._due, trainer)
        if due:
            self._save(trainer)

    def _after_epoch(self, trainer: pl.Trainer) -> None:
        if self._updates or self._is_past(self._rested, trainer):
            self._save(trainer)

    def _is_past(self, moment: float, trainer: pl.Trainer) -> bool:
        """Tell whether a moment has gone by on the first rank's clock."""
        return bool(trainer.strategy.broadcast(time.monotonic() >= moment))

    def _save(self, trainer: pl.Trainer) -> None:
        began = time.monotonic()
        for log in _logs(trainer):
            log.reach_disk()
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        if not self._resumed and trainer.is_global_zero:
            # What an earlier training left here is none of this one.
            (self.folder / PREVIOUS).unlink(missing_ok=True)
        self._resumed, self._saved = True, trainer.global_step
        now = time.monotonic()
        self._rested = now + PATIENCE * (now - began)
        self._due = max(now + self._seconds, self._rested)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint as a whole, keeps the one before and reads plain values alone."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Replace the file; what was ``last.ckpt`` becomes ``previous.ckpt``.

        Raises:
            OSError: If it cannot be written; both files are as they were.
        """
        path, content = Path(path), io.BytesIO()
        torch.save(checkpoint, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(content.getbuffer())
            reach_disk(file)
            if path.name == LAST and path.exists():
                os.replace(path, path.with_name(PREVIOUS))

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Read tensors and plain values; refuse anything that would run code."""
        content: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        return content


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint in a folder that is whole, or None; remove those that are not.

    One that was cut short, or whose bytes have changed, is told of on stderr. One that would run
    code is whole; loading it says so.

    Raises:
        OSError: If one that is there cannot be read.
    """
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        if _is_whole(path):
            return path
        print(f"{path} is not whole and is removed; the one before is taken.", file=sys.stderr)
        path.unlink(missing_ok=True)  # of two ranks the other may have
    return None


def _is_whole(path: Path) -> bool:
    try:
        return _sums_agree(path) and _can_be_loaded(path)
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, struct.error):
        return False
    except OSError as error:
        # Another rank has removed it, or it tells of places before its beginning.
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return False
        raise


def _sums_agree(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        return stored and archive.testzip() is None


def _can_be_loaded(path: Path) -> bool:
    """Read what the archive says of itself, which has no check sum, and none of the tensors."""
    with suppress(UnpicklingError):
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return True


def _interval(every: str) -> tuple[float, int]:
    """Return seconds and updates, of which one is 0."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(s|updates?)\s*", every)
    number = float(found[1]) if found else 0.0
    if not found or not number or (found[2] != "s" and not number.is_integer()):
        raise ValueError(
            f"Checkpoints every {every!r}: give a time such as '30 s', or '20 updates'."
        )
    return (number, 0) if found[2] == "s" else (0.0, int(number))


def _follow(loop: Any, then: Callable[[], None]) -> None:
    """Have a loop call ``then`` after each of its turns."""
    advance_end = loop.on_advance_end

    def followed(*arguments: Any) -> None:
        advance_end(*arguments)
        then()

    loop.on_advance_end = followed


def _alone(trainer: pl.Trainer) -> bool:
    return bool(trainer.world_size == 1)


def _logs(trainer: pl.Trainer) -> list[MetricsLog]:
    return [log for log in trainer.loggers if isinstance(log, MetricsLog)]
