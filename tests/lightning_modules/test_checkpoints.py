"""Checkpoints are whole or not there, two generations deep, and the log goes with them."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from datamodules._drawing import StepLoader
from lightning_modules.checkpoints import LAST, PREVIOUS, Checkpoints, newest
from lightning_modules.metrics_log import LogCutShort, MetricsLog
from lightning_modules.optimization import OptimizerSettings, ScheduleSettings
from lightning_modules.solvers import SolverSettings


class Line(pl.LightningModule):
    """Learns one number; may be told to do something at an update."""

    def __init__(self, at: int = -1, act: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.at, self.act = at, act

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        if self.global_step == self.at:
            self.act()
        loss = (self.weight - batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def _trainer(folder: Path, every: str = "2 updates", **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=MetricsLog(folder),
        callbacks=[Checkpoints(folder, every)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"max_epochs": 2, **options},
    )


def _loader() -> StepLoader:
    return StepLoader(5, lambda step: (torch.tensor([float(step)]),))


def _step(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["global_step"])


def _steps(folder: Path) -> list[str]:
    lines = (folder / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("step")
    return [line.split(",")[column] for line in lines[1:]]


def _stop() -> None:
    raise RuntimeError("stopped here")


def test_the_last_checkpoint_and_the_one_before_are_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped here"):
        _trainer(tmp_path).fit(Line(8, _stop), _loader())
    # After updates 2 and 4, after the epoch's 5, after 6 and 8.
    assert (_step(tmp_path / LAST), _step(tmp_path / PREVIOUS)) == (8, 6)
    assert sorted(p.name for p in tmp_path.iterdir()) == [LAST, "metrics.csv", PREVIOUS]


@pytest.mark.parametrize("kind", ["cut", "changed", "empty", "missing"])
def test_of_a_broken_checkpoint_the_one_before_is_taken(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _trainer(tmp_path).fit(Line(), _loader())
    path, content = tmp_path / LAST, (tmp_path / LAST).read_bytes()
    assert newest(tmp_path) == path
    at = content.index(b"global_step")
    changed = content[:at] + b"GLOBAL" + content[at + 6 :]
    broken = {"cut": content[: len(content) // 2], "changed": changed, "empty": b""}
    path.unlink() if kind == "missing" else path.write_bytes(broken[kind])
    assert newest(tmp_path) == tmp_path / PREVIOUS
    assert not path.exists()
    assert (str(path) in capsys.readouterr().err) == (kind != "missing")
    (tmp_path / PREVIOUS).write_bytes(b"PK")
    assert newest(tmp_path) is None
    assert newest(tmp_path / "nowhere") is None


def test_whatever_byte_of_a_checkpoint_has_changed_it_is_not_taken_for_another(
    tmp_path: Path,
) -> None:
    """In every tenth place: of padding, nobody has to know."""
    path, state = tmp_path / LAST, {"weight": torch.arange(4.0), "epoch": 3}
    torch.save(state, path)
    content = path.read_bytes()
    for at in range(0, len(content), 10):
        for mask in (1, 8, 128, 255):
            path.write_bytes(content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
            if newest(tmp_path) is not None:
                found = torch.load(path, weights_only=True)
                assert torch.equal(found["weight"], state["weight"])
                assert found["epoch"] == 3


def test_a_checkpoint_that_another_rank_removes_meanwhile_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({}, tmp_path / PREVIOUS)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: self.name == LAST or exists(self))
    assert newest(tmp_path) == tmp_path / PREVIOUS


def test_a_checkpoint_that_cannot_be_read_or_would_run_code_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"code": Line}, tmp_path / LAST)
    assert newest(tmp_path) == tmp_path / LAST

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("lightning_modules.checkpoints.zipfile.ZipFile", refuse)
    with pytest.raises(OSError, match="Input/output"):
        newest(tmp_path)
    assert (tmp_path / LAST).exists()


@pytest.mark.parametrize("written", [LAST, "metrics.csv"])
def test_a_full_disk_ends_the_training_by_name_and_leaves_what_was_good(
    written: str, tmp_path: Path
) -> None:
    """Linux has a device that is always full."""

    def fill() -> None:
        if written == LAST:
            (tmp_path / f".{LAST}.tmp").symlink_to("/dev/full")
        else:
            (tmp_path / written).unlink()
            (tmp_path / written).symlink_to("/dev/full")

    with pytest.raises(OSError, match=f"No space left on device: .*{written}"):
        _trainer(tmp_path).fit(Line(7, fill), _loader())
    assert newest(tmp_path) == tmp_path / LAST
    assert _step(tmp_path / LAST) == 6


def test_what_was_logged_behind_a_checkpoint_is_logged_once(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    _trainer(whole).fit(Line(), _loader())
    with pytest.raises(RuntimeError, match="stopped here"):
        _trainer(broken, "3 updates").fit(Line(8, _stop), _loader())
    with (broken / "metrics.csv").open("a") as file:
        file.write("1,8,0.")  # half a line, as a loss of power may leave
    assert _steps(broken)[-2:] == ["7", "8"]
    _trainer(broken, "3 updates").fit(
        Line(), _loader(), ckpt_path=broken / LAST, weights_only=True
    )
    assert (broken / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert _steps(whole) == [str(step) for step in range(10)]


def test_a_log_that_lost_lines_is_refused(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in range(3):
        log.log_metrics({"a": 1.0}, step)
    state = log.state()
    (tmp_path / "metrics.csv").write_text("a,step\r\n1.0,0\r\n")
    with pytest.raises(LogCutShort, match=r"metrics.csv has 1 lines where .* counts 3"):
        MetricsLog(tmp_path).go_on(state)
    (tmp_path / "metrics.csv").unlink()
    elsewhere = MetricsLog(tmp_path)
    elsewhere.go_on(state)
    elsewhere.log_metrics({"a": 2.0}, 3)
    assert (tmp_path / "metrics.csv").read_text().split() == ["a,step", "2.0,3"]


def test_columns_of_lines_that_are_dropped_are_dropped_too(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log_metrics({"train/loss": 1.0}, 0)
    state, before = log.state(), (tmp_path / "metrics.csv").read_text()
    log.log_metrics({"test/loss": 2.0}, 1)
    MetricsLog(tmp_path).go_on(state)
    assert (tmp_path / "metrics.csv").read_text() == before


def test_a_log_has_a_column_for_every_metric_and_begins_anew_with_the_training(
    tmp_path: Path,
) -> None:
    log = MetricsLog(tmp_path)
    log.log_metrics({"b": 0.1, "a": 2.0}, 0)
    log.log_metrics({"c": 3.0}, 1)
    lines = ["a,b,c,step", "2.0,0.1,,0", ",,3.0,1"]
    assert (tmp_path / "metrics.csv").read_text().split() == lines
    MetricsLog(tmp_path).log_metrics({"d": 4.0}, 0)
    assert (tmp_path / "metrics.csv").read_text().split() == ["d,step", "4.0,0"]


def test_a_column_that_came_behind_a_checkpoint_is_dropped_with_its_lines(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log_metrics({"a": 1.0}, 0)
    state = log.state()
    before = (tmp_path / "metrics.csv").read_text()
    log.log_metrics({"test/loss": 2.0}, 1)
    after = (tmp_path / "metrics.csv").read_text()
    resumed = MetricsLog(tmp_path)
    resumed.go_on(state)
    assert (tmp_path / "metrics.csv").read_text() == before
    resumed.log_metrics({"test/loss": 2.0}, 1)
    assert (tmp_path / "metrics.csv").read_text() == after


def test_sigterm_leaves_a_checkpoint_of_that_very_update(tmp_path: Path) -> None:
    model = Line(6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        _trainer(tmp_path, "1000 s").fit(model, _loader())
    assert _step(tmp_path / LAST) == 7
    resumed = Line()
    _trainer(tmp_path).fit(resumed, _loader(), ckpt_path=tmp_path / LAST, weights_only=True)
    other, whole = tmp_path / "other", Line()
    other.mkdir()
    _trainer(other).fit(whole, _loader())
    assert torch.equal(whole.weight, resumed.weight)
    assert (other / "metrics.csv").read_text() == (tmp_path / "metrics.csv").read_text()


def test_no_checkpoint_is_written_while_gradients_are_gathered(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watch(pl.Callback):
        def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(trainer.fit_loop.total_batch_idx + 1)

    trainer = _trainer(tmp_path, "1 updates", accumulate_grad_batches=2, max_epochs=1)
    trainer.callbacks.append(Watch())  # type: ignore[attr-defined]
    trainer.fit(Line(), _loader())
    assert seen == [2, 4, 5]


def test_a_training_that_begins_anew_keeps_no_checkpoint_of_another(tmp_path: Path) -> None:
    _trainer(tmp_path).fit(Line(), _loader())
    with pytest.raises(RuntimeError, match="stopped here"):
        _trainer(tmp_path).fit(Line(3, _stop), _loader())
    assert _step(tmp_path / LAST) == 2
    assert not (tmp_path / PREVIOUS).exists()


@pytest.mark.parametrize("every", ["", "30", "0 s", "2.5 updates", "-1 s", "5 minutes"])
def test_how_often_is_a_time_or_a_number_of_updates(every: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a time such as '30 s', or '20 updates'"):
        Checkpoints(tmp_path, every)


def test_short_epochs_go_by_without_a_checkpoint_but_the_end_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock on which each checkpoint takes a second, and nothing else any time."""
    now, seen = [0.0], []

    def slow(self: Checkpoints, trainer: pl.Trainer, *_: Any) -> None:
        seen.append(trainer.global_step)
        now[0] += 1.0

    monkeypatch.setattr("lightning_modules.checkpoints.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Checkpoints, "on_save_checkpoint", slow)
    _trainer(tmp_path, "30 s", max_epochs=4).fit(Line(), _loader())
    assert seen == [5, 20]
    later = Line(13, lambda: now.__setitem__(0, now[0] + 105.0))
    seen.clear()
    _trainer(tmp_path, "30 s", max_epochs=4).fit(later, _loader())
    assert seen == [5, 14, 20]


class Settled(Line):
    """Saves the settings that it was given as they are."""

    def __init__(
        self, solver: SolverSettings, optimizer: OptimizerSettings, schedule: ScheduleSettings
    ) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_settings_that_a_module_saves_as_they_are_are_loaded_and_resumed_from(
    tmp_path: Path,
) -> None:
    given: dict[str, Any] = {
        "solver": SolverSettings("native", rtol=1e-5, gradient="checkpoint"),
        "optimizer": OptimizerSettings("adam", lr=0.5),
        "schedule": ScheduleSettings("steps", [1, 2]),
    }
    _trainer(tmp_path, max_epochs=1).fit(Settled(**given), _loader())
    path = str(tmp_path / LAST)
    assert dict(Settled.load_from_checkpoint(path).hparams) == given
    resumed = _trainer(tmp_path)
    resumed.fit(Settled(**given), _loader(), ckpt_path=path)
    assert resumed.global_step == 10
