"""The classifier under a real Trainer: what is logged, what is tested, what a checkpoint holds."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping

from lightning_modules import ImageClassifier, callbacks, classifier
from lightning_modules.callbacks import Diverged, DivergenceGuard, Progress, RunCost
from lightning_modules.metrics_log import MetricsLog
from lightning_modules.optimization import OptimizerSettings, ScheduleSettings
from lightning_modules.solvers import SolverSettings

TINY: dict[str, Any] = {"body": "ode", "stem": "conv", "width": 8, "groups": 4}


class Batches:
    """A few fixed batches; a plain iterable, as the suite's loaders are."""

    def __init__(self, count: int, size: int = 4) -> None:
        generator = torch.Generator().manual_seed(0)
        self.batches = [
            (
                torch.rand(size, 1, 28, 28, generator=generator),
                torch.randint(10, (size,), generator=generator),
            )
            for _ in range(count)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


def _trainer(folder: Path, *callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=settings.pop("logger", False),
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, "enable_checkpointing": False, "log_every_n_steps": 1, **settings},
    )


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_evaluations_are_counted_forward_and_backward_training_and_testing_apart(
    tmp_path: Path, gradient: str
) -> None:
    cost = RunCost()
    solver = SolverSettings(method="rk4_38", step_size=0.5, gradient=gradient)  # type: ignore[arg-type]
    model = ImageClassifier(**TINY, solver=solver)
    trainer = _trainer(tmp_path, cost)
    trainer.fit(model, Batches(3))
    assert trainer.callback_metrics["train/nfe_forward"] == 8
    backward = trainer.callback_metrics["train/nfe_backward"]
    assert backward == (8 if gradient == "adjoint" else 0)
    trainer.test(model, Batches(2), verbose=False)
    summary = cost.summary()
    assert summary["train_batches"] == 3
    assert summary["train_nfe_forward"] == 8
    assert summary["train_nfe_backward"] == backward
    assert summary["test_nfe_forward"] == 8
    assert summary["train_seconds"] > 0
    assert summary["peak_memory"] > 50


def test_the_test_error_counts_every_image_once(tmp_path: Path) -> None:
    model = ImageClassifier(body="mlp", hidden=5)
    data = Batches(3, size=7)
    metrics = _trainer(tmp_path).test(model, data, verbose=False)[0]
    with torch.no_grad():
        wrong = sum(int((model(x).argmax(1) != y).sum()) for x, y in data)
    assert metrics["test/images"] == 21
    assert metrics["test/wrong"] == wrong
    assert metrics["test/error"] == pytest.approx(100 * wrong / 21)


def test_a_checkpoint_made_from_python_loads_with_weights_only(tmp_path: Path) -> None:
    given = {
        **TINY,
        "solver": SolverSettings(rtol=0.25, gradient="adjoint"),
        "optimizer": OptimizerSettings("adam", lr=0.5),
        "schedule": ScheduleSettings("steps", [1, 2]),
    }
    model = ImageClassifier(**given)
    trainer = _trainer(tmp_path, max_steps=1)
    trainer.fit(model, Batches(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert content["hyper_parameters"]["solver"]["rtol"] == 0.25
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert loaded.hparams == model.hparams
    assert loaded.net[1].solver == given["solver"]
    assert loaded.optimizer_settings == given["optimizer"]
    assert loaded.schedule_settings == given["schedule"]
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(loaded(images), model(images))


def test_steps_schedule_multiplies_the_rate_at_its_epochs(tmp_path: Path) -> None:
    rates: list[float] = []

    class Watch(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    schedule = ScheduleSettings("steps", milestones=[1, 3], gamma=0.1)
    model = ImageClassifier(body="mlp", hidden=2, schedule=schedule)
    _trainer(tmp_path, Watch(), max_epochs=4).fit(model, Batches(1))
    assert rates == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_one_cycle_peaks_at_the_rate_and_ends_near_nothing_after_the_last_update(
    tmp_path: Path,
) -> None:
    rates: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    model = ImageClassifier(body="mlp", hidden=2, schedule=ScheduleSettings("one_cycle"))
    _trainer(tmp_path, Watch(), max_epochs=2).fit(model, Batches(10))
    assert len(rates) == 20
    assert max(rates) == pytest.approx(0.1, rel=0.05)
    assert rates[0] == pytest.approx(0.1 / 25)
    assert rates[-1] < 1e-5


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    model = ImageClassifier(body="mlp", hidden=2)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match=r"optimizer\.lr"):
        _trainer(tmp_path, DivergenceGuard()).fit(model, Batches(1))


def test_progress_tells_updates_evaluations_and_time_left(tmp_path: Path) -> None:
    model = ImageClassifier(**TINY, solver=SolverSettings(method="euler", gradient="adjoint"))
    _trainer(tmp_path, RunCost(), Progress(str(tmp_path / "p.json"))).fit(model, Batches(2))
    state = json.loads((tmp_path / "p.json").read_text())
    assert (state["done"], state["total"], state["phase"]) == (2, 2, "train")
    assert state["nfe_forward"] == 1
    assert state["nfe_backward"] == 1
    assert state["seconds_left"] == 0


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_log_is_the_same_whether_all_batches_are_logged_or_those_that_are_read(
    tmp_path: Path, accumulated: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for folder in (tmp_path / "read", tmp_path / "all"):
        folder.mkdir()
        torch.manual_seed(0)
        model = ImageClassifier(**TINY, solver=SolverSettings(method="euler"))
        trainer = _trainer(
            folder,
            RunCost(),
            logger=MetricsLog(folder),
            max_epochs=2,
            log_every_n_steps=3,
            accumulate_grad_batches=accumulated,
        )
        trainer.fit(model, Batches(8))
        lines = (folder / "metrics.csv").read_text().splitlines()
        untimed = [line.split(",") for line in lines]
        timed = {untimed[0].index(f"train/{name}") for name in ("seconds", "peak_memory")}
        found.append([[x for i, x in enumerate(line) if i not in timed] for line in untimed])
        found.append(trainer.callback_metrics["train/error"])
        for module in (callbacks, classifier):
            monkeypatch.setattr(module, "is_read", lambda _: True)
    assert found[:2] == found[2:]
    assert sum("" not in line for line in found[0][1:]) == 16 // accumulated // 3


class Reader(pl.Callback):
    """Somebody's own: it compares what is logged of each batch with the batch's own loss."""

    def __init__(self) -> None:
        self.same: list[bool] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        loss = outputs["loss"]
        self.same.append(bool(trainer.callback_metrics["train/loss"] == loss))


def test_a_callback_of_ones_own_finds_the_loss_of_every_batch(tmp_path: Path) -> None:
    reader, model = Reader(), ImageClassifier(body="mlp", hidden=5)
    _trainer(tmp_path, reader, log_every_n_steps=50).fit(model, Batches(5))
    assert reader.same == [True] * 5


def test_who_monitors_a_loss_finds_it_within_the_first_epoch(tmp_path: Path) -> None:
    class Validated(ImageClassifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    early = EarlyStopping("train/loss", patience=9)
    trainer = _trainer(tmp_path, early, log_every_n_steps=50, val_check_interval=2)
    trainer.fit(Validated(body="mlp", hidden=5), Batches(5), Batches(1))
    assert early.best_score < math.inf


def test_the_last_batch_of_a_training_that_ends_within_an_epoch_is_logged(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, max_steps=2, max_epochs=-1, log_every_n_steps=50)
    trainer.fit(ImageClassifier(body="mlp", hidden=5), Batches(5))
    assert "train/loss" in trainer.callback_metrics


TWO, NINE = torch.tensor(2.0), torch.tensor(9.0)


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({}, {}),
        (TWO, {"loss": 8.0}),
        ({"loss": TWO}, {"loss": 8.0}),
        ({"loss": NINE, "mean_loss": TWO}, {"loss": 2.0}),
    ],
)
def test_progress_tells_the_undivided_loss_or_the_mean_where_there_is_one(
    outputs: Any, told: dict[str, float], tmp_path: Path
) -> None:
    trainer = _trainer(tmp_path, accumulate_grad_batches=4)
    assert callbacks._told(trainer, outputs) == told


def test_a_resumed_training_counts_its_cost_from_the_beginning(tmp_path: Path) -> None:
    model = ImageClassifier(**TINY, solver=SolverSettings(method="euler"))
    first = _trainer(tmp_path, RunCost(), max_epochs=1)
    first.fit(model, Batches(2))
    first.save_checkpoint(tmp_path / "a.ckpt")
    cost = RunCost()
    second = _trainer(tmp_path, cost, max_epochs=3)
    second.fit(model, Batches(2), ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    assert cost.summary()["train_batches"] == 6


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"lr": -1.0}, {"momentum": 1.0}])
def test_an_optimizer_refuses_constants_it_cannot_use(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give a number"):
        OptimizerSettings(**settings)  # type: ignore[arg-type]


def test_unknown_optimizers_and_schedules_are_refused_in_python_too() -> None:
    with pytest.raises(ValueError, match=r"Unknown optimizer 'adamw'\. Choose one of sgd, adam"):
        OptimizerSettings("adamw")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Unknown schedule 'cosine'\. Choose one of constant"):
        ScheduleSettings("cosine")  # type: ignore[arg-type]
