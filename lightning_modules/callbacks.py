"""Callbacks of every training: what it cost, how far it is, and when to stop it."""

import json
import os
import resource
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.metrics_log import is_read
from lightning_modules.solvers import SolveStats, StatsCollector
from lightning_modules.whole_files import replacing

MIB = 2**20


class Diverged(RuntimeError):
    """The training loss is no longer a finite number."""


@dataclass
class _Totals:
    """Sums over the batches of one phase."""

    batches: int = 0
    nfe_forward: int = 0
    nfe_backward: int = 0
    steps_rejected: int = 0

    def add(self, solves: list[SolveStats]) -> None:
        self.batches += 1
        self.nfe_forward += sum(solve.nfe_forward for solve in solves)
        self.nfe_backward += sum(solve.nfe_backward for solve in solves)
        self.steps_rejected += sum(solve.steps_rejected for solve in solves)

    def mean(self, name: str) -> float:
        return getattr(self, name) / self.batches if self.batches else 0.0


class RunCost(pl.Callback):
    """Measures seconds, peak memory and field evaluations, training and testing apart.

    Logs ``train/nfe_forward`` and ``train/nfe_backward`` of batches, ``train/seconds`` and
    ``train/peak_memory`` (MiB) of every epoch; ``last`` has the evaluations of the last batch that
    was solved, forward and backward, ``summary`` means.
    Evaluations are those of this process: with several devices each rank solves its own batch.
    Seconds are wall-clock time between the first and the last training batch. Memory is the peak
    allocated on the GPU, or else the largest resident set of the process, libraries included.
    """

    def __init__(self) -> None:
        self._train, self._test = _Totals(), _Totals()
        self._collector = StatsCollector()
        self.last: tuple[int, int] | None = None
        self._seconds_before, self._started = 0.0, 0.0
        self._peak_memory = 0.0
        self._device = torch.device("cpu")

    @property
    def train_seconds(self) -> float:
        """Seconds of training so far, earlier parts of a resumed run included."""
        return self._seconds_before + (time.perf_counter() - self._started if self._started else 0)

    def summary(self) -> dict[str, float]:
        """Return the means over batches, seconds and MiB, by the name of the metric."""
        return {
            "train_seconds": self.train_seconds,
            "train_batches": self._train.batches,
            "train_nfe_forward": self._train.mean("nfe_forward"),
            "train_nfe_backward": self._train.mean("nfe_backward"),
            "train_steps_rejected": self._train.mean("steps_rejected"),
            "test_nfe_forward": self._test.mean("nfe_forward"),
            "peak_memory": self._peak_memory,
        }

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._device, self.last = pl_module.device, None
        self._started = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin to gather the solves of this batch, forward and backward."""
        self._collector.start()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count what this batch took, its backward pass included."""
        solves = self._collector.stop()
        self._train.add(solves)
        if solves:
            forward = sum(solve.nfe_forward for solve in solves)
            backward = sum(solve.nfe_backward for solve in solves)
            self.last = forward, backward
            if is_read(pl_module):
                # As tensors on the host: Lightning would wait for a GPU to bring a number there.
                pl_module.log("train/nfe_forward", torch.tensor(float(forward)))
                pl_module.log("train/nfe_backward", torch.tensor(float(backward)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log seconds and peak memory so far, before the epoch's checkpoint is written."""
        self._peak_memory = max(self._peak_memory, _peak_memory(pl_module.device))
        pl_module.log("train/seconds", self.train_seconds)
        pl_module.log("train/peak_memory", self._peak_memory)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock, after the GPU has finished."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._seconds_before, self._started = self.train_seconds, 0.0
        self._peak_memory = max(self._peak_memory, _peak_memory(pl_module.device))

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test."""
        self._test = _Totals()

    def on_test_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Begin to gather the solves of this batch."""
        self._collector.start()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count what this batch took."""
        self._test.add(self._collector.stop())

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the mean evaluations of a test batch."""
        if self._test.nfe_forward:
            pl_module.log("test/nfe_forward", self._test.mean("nfe_forward"))

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Stop gathering: a later run in this process counts for itself."""
        self._collector.stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, so that a resumed run reports the whole training."""
        return {
            "train": asdict(self._train),
            "seconds": self.train_seconds,
            "peak_memory": max(self._peak_memory, _peak_memory(self._device)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint was written."""
        self._train = _Totals(**state_dict["train"])
        self._seconds_before = state_dict["seconds"]
        self._peak_memory = state_dict["peak_memory"]


def require_finite_gradient(module: pl.LightningModule) -> None:
    """Raise Diverged where a gradient is not finite, before it spoils the weights."""
    total = sum(p.grad.sum() for p in module.parameters() if p.grad is not None)
    if not bool(torch.isfinite(torch.as_tensor(total))):
        raise Diverged(
            f"The gradient is not finite after {module.global_step} updates. Lower "
            "--model.optimizer.lr or set --trainer.gradient_clip_val."
        )


class DivergenceGuard(pl.Callback):
    """Ends a training whose loss is NaN or infinite.

    Args:
        every_n_batches: How often the loss is looked at; each look waits for the GPU.
    """

    def __init__(self, every_n_batches: int = 20) -> None:
        self.every_n_batches = every_n_batches

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Raise Diverged if this batch's loss is not finite."""
        last = batch_idx + 1 == trainer.num_training_batches
        if batch_idx % self.every_n_batches and not last:
            return
        loss = _loss(outputs)
        if loss is not None and not torch.isfinite(loss).all():
            raise Diverged(
                f"The loss is {float(loss)} after {trainer.global_step} updates. "
                "Lower --model.optimizer.lr."
            )


class Course(pl.Callback):
    """Keeps the weights that a module has had: as drawn, and after every epoch.

    They are part of every checkpoint, so a resumed training has them all, and
    ``reproduce.evidence`` puts them beside the rows. As many copies as there are epochs are held
    in memory: this is for small networks.
    """

    def __init__(self) -> None:
        self._updates: list[int] = []
        self._states: list[dict[str, Tensor]] = []

    @property
    def state_key(self) -> str:
        """The name of the weights in a checkpoint."""
        return "Course"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights as drawn; a resumed training has them."""
        if not self._updates:
            self._keep(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights of this moment, before the epoch's checkpoint is written."""
        self._keep(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the updates, and for each name its tensors, ``(stages, …)``."""
        names = self._states[0] if self._states else {}
        stacked = {name: torch.stack([state[name] for state in self._states]) for name in names}
        return {"updates": list(self._updates), "weights": stacked}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind what the checkpoint has."""
        self._updates = list(state_dict["updates"])
        self._states = [
            {name: stages[k] for name, stages in state_dict["weights"].items()}
            for k in range(len(self._updates))
        ]

    def _keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._updates.append(trainer.global_step)
        state = pl_module.state_dict()
        self._states.append({name: t.detach().cpu().clone() for name, t in state.items()})


class Progress(pl.Callback):
    """Writes how far a training is to a small JSON file, for whoever started it.

    Args:
        path: The file; replaced as a whole, at most once a second.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._written = 0.0
        self._started = time.monotonic()
        self._done_before = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember how much an earlier, interrupted run had done."""
        self._started, self._done_before = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write the training's state: update, loss, evaluations, seconds left."""
        done, total = trainer.global_step, int(trainer.estimated_stepping_batches)
        if not trainer.is_global_zero or (time.monotonic() - self._written < 1 and done < total):
            return
        elapsed = time.monotonic() - self._started
        self._write(
            phase="train",
            done=done,
            total=total,
            seconds_left=elapsed / max(done - self._done_before, 1) * (total - done),
            **_told(trainer, outputs),
        )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write that the training is being tested."""
        if trainer.is_global_zero:
            self._write(phase="test")

    def _write(self, **state: Any) -> None:
        self._written = time.monotonic()
        partial = self.path.with_suffix(".partial")
        with suppress(OSError):  # such as of a full disk: what only informs ends no training
            partial.write_text(json.dumps(state))
            os.replace(partial, self.path)


class Predictions(pl.Callback):
    """Writes what a classifier answers to every test image, for tests that pair two models.

    Works with modules whose ``test_step`` returns ``{"label": …, "prediction": …}``, classes of
    shape ``(batch,)``; of others nothing is written.

    Args:
        path: A CSV with the columns image, label and prediction; replaced as a whole.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._answers: list[tuple[Tensor, Tensor]] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier test."""
        self._answers = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the answers of this batch."""
        if isinstance(outputs, dict) and {"label", "prediction"} <= set(outputs):
            self._answers.append((outputs["label"].cpu(), outputs["prediction"].cpu()))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file, one line an image in the order of the test set."""
        if not self._answers or not trainer.is_global_zero:
            return
        labels, answers = (torch.cat(part).tolist() for part in zip(*self._answers, strict=True))
        lines = (
            f"{i},{pair[0]},{pair[1]}" for i, pair in enumerate(zip(labels, answers, strict=True))
        )
        with replacing(self.path) as file:
            file.write("\n".join(["image,label,prediction", *lines, ""]).encode())


def _loss(outputs: Any) -> Tensor | None:
    """Return the loss of what a training step returned, itself or a dict."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return loss if isinstance(loss, Tensor) else None


def _told(trainer: pl.Trainer, outputs: Any) -> dict[str, float]:
    """Return the loss and the evaluations of the last batch, as far as they are known.

    Of models that are trained side by side the loss is their sum, what is told their mean.
    """
    told = {}
    loss = _loss(outputs)
    if isinstance(outputs, dict) and "mean_loss" in outputs:
        told["loss"] = float(outputs["mean_loss"])
    elif loss is not None:  # which Lightning has divided
        told["loss"] = float(loss) * trainer.accumulate_grad_batches
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, RunCost) and callback.last:
            told |= dict(zip(("nfe_forward", "nfe_backward"), callback.last, strict=True))
    return told


def _peak_memory(device: torch.device) -> float:
    """Return MiB: allocated on the GPU, or resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB
