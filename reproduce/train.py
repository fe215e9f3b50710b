"""Trains one model: ``python -m reproduce.train fit|test|run --config FILE [--key value …]``.

A LightningCLI and nothing else. ``run`` fits and then tests the final weights in one process, on
one device, every test image once; it leaves ``config.yaml``, ``metrics.csv``, ``progress.json``,
``predictions.csv`` (of classifiers), ``summary.json`` and ``checkpoints/last.ckpt`` in
``--trainer.default_root_dir``, and goes on from a checkpoint there with ``--ckpt_path``. A
checkpoint is written every 30 seconds, or as REPRODUCE_CHECKPOINTS says: ``60 s``, ``20 updates``.
"""

import contextlib
import json
import math
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import datamodules
from lightning_modules.callbacks import Diverged, DivergenceGuard, Predictions, Progress, RunCost
from lightning_modules.checkpoints import EVERY, Checkpoints, newest
from lightning_modules.metrics_log import LogCutShort, MetricsLog
from lightning_modules.solvers import SolverFailed, SolverSettings, find_backend, import_backend
from reproduce import failures, provenance, refusals, storage, tether
from reproduce.allocator import keep_freed_memory
from reproduce.precision import allow_tf32

_EXPECTED = (
    SolverFailed,
    Diverged,
    LogCutShort,
    datamodules.DataUnavailable,
    FileNotFoundError,
)
# How torch begins, before it lists all the names.
_TOLD_OF_OTHER = "Error(s) in loading state_dict for"
OTHER_MODEL = (
    "The checkpoint holds another model than the configuration names. Name one of this model, or "
    "remove the folder checkpoints to begin anew."
)
FAILED = 3  # exit status of a training that failed as trainings do; 2 is a bad command line


class SuiteTrainer(pl.Trainer):
    """A Trainer that can fit and then test in one process."""

    def run(
        self,
        model: pl.LightningModule,
        datamodule: pl.LightningDataModule | None = None,
        ckpt_path: str | Path | None = None,
    ) -> None:
        """Fit, then test the final weights on one device.

        Args:
            model: The model.
            datamodule: Its data.
            ckpt_path: Checkpoint to resume from, or a folder of them: the newest that is whole,
                and anew if there is none. None starts anew.
        """
        root = Path(self.default_root_dir)
        root.mkdir(parents=True, exist_ok=True)
        (root / "summary.json").unlink(missing_ok=True)
        if ckpt_path is not None and Path(ckpt_path).is_dir():
            ckpt_path = newest(Path(ckpt_path))
        try:
            self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
            tester = _single_device_trainer(self)
            if tester is None:
                return
            tester.test(model, datamodule=datamodule, verbose=False)
            metrics = {name: float(value) for name, value in tester.callback_metrics.items()}
            _check_test(metrics)
        except Exception as error:
            if self.is_global_zero:
                with contextlib.suppress(OSError):  # on a full disk the exit status alone tells
                    _write_summary(root, status=_kind(error), hint=_hint(error, root))
            raise
        _write_summary(
            root,
            status="ok",
            metrics=metrics,
            cost=_cost(self).summary(),
            parameters=sum(p.numel() for p in model.parameters()),
        )


class SuiteParser(LightningArgumentParser):
    """A parser whose refusals are one line, without all flags and the whole configuration."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print why the command line was refused and exit with status 2."""
        if not self.exit_on_error or os.environ.get("JSONARGPARSE_DEBUG"):
            super().error(message, ex)
        self.exit(2, f"error: {refusals.reason(message)}\n")


class SuiteCLI(LightningCLI):
    """LightningCLI with ``run`` and with the suite's logger and callbacks."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Offer what the models have steps for."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "test": {"model", "dataloaders", "datamodule"},
            "run": {"model", "datamodule"},
        }

    def _parse_ckpt_path(self) -> None:
        """Let configuration and flags rule.

        Lightning would lay the checkpoint's hyper-parameters over them, and a flag such as
        ``--model.solver.rtol`` would change nothing.
        """

    def before_instantiate_classes(self) -> None:
        """Import the solver backend that the configuration names by where it is written."""
        given = self._get(self.config, "model").get("init_args") or {}
        backend = getattr(given.get("solver"), "backend", "")
        if ":" in backend:
            try:
                import_backend(backend)
            except ValueError as error:
                self.parser.error(str(error))

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; a value that a class refuses is a bad command line."""
        allow_tf32(False)
        try:
            super().instantiate_classes()
        except (ValueError, MisconfigurationException) as error:
            self.parser.error(str(error))

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Log to CSV and keep the last two checkpoints, all in ``default_root_dir``."""
        _check_solvers(self.model)
        given = self._get(self.config_init, "trainer")
        root = str(given["default_root_dir"] or Path.cwd() / "runs")
        kwargs.setdefault("default_root_dir", root)
        _make_folder(Path(root))
        if self.subcommand == "test":  # leaves the files of the training alone
            kwargs["logger"], self.save_config_callback = False, None
        elif given["logger"] is None:
            kwargs["logger"] = MetricsLog(root)
        own: list[pl.Callback] = [RunCost(), DivergenceGuard(), Progress(f"{root}/progress.json")]
        if self.subcommand == "run":
            own.append(Predictions(f"{root}/predictions.csv"))
        if given["enable_checkpointing"] is not False:
            every = os.environ.get("REPRODUCE_CHECKPOINTS") or EVERY
            own.append(Checkpoints(f"{root}/checkpoints", every))
        if not sys.stdout.isatty():
            kwargs["enable_progress_bar"] = False
        asked = given["callbacks"] or []
        kwargs["callbacks"] = [*(asked if isinstance(asked, list) else [asked]), *own]
        return super().instantiate_trainer(**kwargs)


def _check_solvers(model: pl.LightningModule) -> None:
    """Refuse solver settings that nothing offers now, not in the first batch."""
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, SolverSettings):
                find_backend(value)


def _make_folder(root: Path) -> None:
    """Make the folder of a run; a full disk is no bad command line."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if failures.disk_is_full(error):
            raise
        raise ValueError(
            f"--trainer.default_root_dir {root} cannot be made: {error.strerror}. Name another "
            "folder."
        ) from error
    if not os.access(root, os.W_OK):
        raise ValueError(
            f"--trainer.default_root_dir {root} cannot be written to. Name another folder."
        )


def _check_test(metrics: dict[str, float]) -> None:
    """Refuse a test without a result: the weights may have burst in the very last update."""
    tested = {name: value for name, value in metrics.items() if name.startswith("test/")}
    if not tested:
        raise RuntimeError("The test saw no batch. Set --trainer.limit_test_batches above 0.")
    for name, value in tested.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} after training. Lower --model.optimizer.lr.")


def _single_device_trainer(trainer: pl.Trainer) -> pl.Trainer | None:
    """Return the trainer that tests, or None on every rank but the first.

    A distributed sampler repeats images to fill the last batch, so the group of processes is
    dissolved and its first rank tests alone.
    """
    if trainer.world_size == 1:
        return trainer
    device = trainer.strategy.root_device
    callbacks = [c for c in _callbacks(trainer) if isinstance(c, RunCost | Progress | Predictions)]
    first, logger = trainer.is_global_zero, trainer.logger or False
    limit, precision = trainer.limit_test_batches, trainer.precision
    root = trainer.default_root_dir
    trainer.strategy.barrier()
    torch.distributed.destroy_process_group()
    if not first:
        return None
    for variable in ("WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "RANK"):
        os.environ.pop(variable, None)
    return pl.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index] if device.type == "cuda" else 1,
        precision=precision,
        logger=logger,
        callbacks=list(callbacks),
        limit_test_batches=limit,
        default_root_dir=root,
        enable_progress_bar=False,
        enable_checkpointing=False,
        plugins=[LightningEnvironment()],  # torchrun's or SLURM's would speak of all the ranks
    )


def _cost(trainer: pl.Trainer) -> RunCost:
    return next(c for c in _callbacks(trainer) if isinstance(c, RunCost))


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]


def _kind(error: Exception) -> str:
    if failures.disk_is_full(error):
        return "disk_full"
    if isinstance(error, SolverFailed):
        return error.kind
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, torch.OutOfMemoryError) or failures.memory_is_short(error):
        return "out_of_memory"
    return "error"


def _hint(error: Exception, root: Path) -> str:
    if failures.disk_is_full(error):
        return failures.full_disk(root)
    if _is_of_another_model(error):
        return OTHER_MODEL
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _is_of_another_model(error: Exception) -> bool:
    return str(error).startswith(_TOLD_OF_OTHER)


def _write_summary(root: Path, **content: Any) -> None:
    content["process"] = provenance.process()
    storage.write(root / "summary.json", json.dumps(content, indent=1))


class _Checker(SuiteCLI):
    """Builds what a configuration names and starts nothing, not even a folder."""

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build a bare Trainer, which refuses what every Trainer refuses."""
        _check_solvers(self.model)
        config = self._get(self.config_init, "trainer")
        bare = {"logger": False, "enable_checkpointing": False, "callbacks": None}
        return self._instantiate_trainer({**config, **bare}, [])


def _check(paths: list[str]) -> int:
    """Build model, data and trainer of each configuration; the first that is refused ends it."""
    for path in paths:
        print(f"checking {path}", flush=True)
        _Checker(
            trainer_class=SuiteTrainer,
            parser_class=SuiteParser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            args=["--config", path],
            run=False,
        )
    return 0


def main() -> int:
    """Run the command line and return its exit status."""
    # A checkpoint may come from a stranger: torch must never unpickle code, whoever calls it.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    keep_freed_memory()
    try:
        if sys.argv[1:2] == ["check"]:
            return _check(sys.argv[2:])
        with tether.tied():
            SuiteCLI(
                trainer_class=SuiteTrainer,
                parser_class=SuiteParser,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                save_config_kwargs={"overwrite": True},
            )
    except _EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, SolverFailed):
            print("The settings named are flags: --model.solver.rtol and so on.", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if _is_of_another_model(error):
            print(f"error: {OTHER_MODEL}", file=sys.stderr)
            return FAILED
        with contextlib.suppress(OSError):  # the log may lie on a disk that is full
            traceback.print_exc()
        return failures.FULL_DISK if failures.disk_is_full(error) else 1
    return 0


if __name__ == "__main__":
    status = main()
    if status == failures.FULL_DISK:
        os._exit(status)  # to flush what is printed would fail, and change the status
    sys.exit(status)
