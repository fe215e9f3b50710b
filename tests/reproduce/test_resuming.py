"""A training that was broken off inside an epoch ends with the bits of an undisturbed one."""

import csv
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from in_process import CONFIGS, train_main

from lightning_modules.callbacks import DivergenceGuard
from reproduce import train

COSTS = {"train/seconds", "train/peak_memory"}
MINUTE_COSTS = {"train_seconds", "peak_memory"}
STEPS = {"data.steps": 3}
SMALL: dict[str, dict[str, Any]] = {
    "MNIST": {"trainer.limit_train_batches": 3, "trainer.limit_test_batches": 2}
    | {"data.batch_size": 4, "data.test_batch_size": 8},
    "PlaneData": STEPS | {"data.batch_size": 8, "data.test_points": 8},
    "BaseNoise": STEPS | {"data.batch_size": 8, "data.test_points": 8},
    # Not all series in a batch: then each pass has an order of its own.
    "Spirals": STEPS | {"data.train_size": 9, "data.batch_size": 4, "data.test_size": 4},
    "Windows": STEPS | {"data.batch_size": 2},
    "SpringObservations": STEPS | {"data.batch_size": 6, "data.grid": 9, "data.future": 1.0},
    "PoissonEvents": STEPS | {"data.test_size": 2},
}


def _arguments(name: str, folder: Path, mnist_root: str) -> list[str]:
    config = resources.files("reproduce") / "configs" / name
    kind = yaml.safe_load(config.read_text())["data"]["class_path"].rpartition(".")[2]
    flags = {"trainer.max_epochs": 2, "trainer.log_every_n_steps": 1, "trainer.accelerator": "cpu"}
    flags |= {"model.solver.rtol": 0.01, "model.solver.atol": 0.01}
    flags |= SMALL[kind] | {"trainer.default_root_dir": folder}
    flags |= {"data.root": mnist_root} if kind == "MNIST" else {}
    return ["run", "--config", str(config), *(f"--{key}={value}" for key, value in flags.items())]


def _break_off(self: DivergenceGuard, trainer: pl.Trainer, *_: Any) -> None:
    if trainer.global_step == 5:
        raise RuntimeError("the power went")


def _lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [{k: v for k, v in line.items() if k not in COSTS} for line in lines]


def _state(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    others = content.pop("callbacks")
    return {**content, "course": others.get("Course")}


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_model_goes_on_inside_an_epoch_as_if_nothing_had_happened(
    name: str, tmp_path: Path, mnist_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train_main(_arguments(name, whole, mnist_root)) == 0
    monkeypatch.setenv("REPRODUCE_CHECKPOINTS", "4 updates")
    with monkeypatch.context() as patch:
        patch.setattr(DivergenceGuard, "on_train_batch_start", _break_off)
        assert train_main(_arguments(name, broken, mnist_root)) == 1
    assert _state(broken)["global_step"] == 4
    checkpoints = ["--ckpt_path", str(broken / "checkpoints")]
    assert train_main([*_arguments(name, broken, mnist_root), *checkpoints]) == 0

    for key, value in _state(whole).items():
        assert _same(value, _state(broken)[key]), key
    assert _lines(whole) == _lines(broken)
    undisturbed, resumed = (json.loads((f / "summary.json").read_text()) for f in (whole, broken))
    for summary in (undisturbed, resumed):
        summary["cost"] = {k: v for k, v in summary["cost"].items() if k not in MINUTE_COSTS}
    assert undisturbed["cost"]["train_batches"] == 6
    assert undisturbed == resumed


def test_a_checkpoint_of_another_model_is_one_line_that_says_what_to_do(
    tmp_path: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = _arguments("rnn.yaml", tmp_path, mnist_root)
    assert train_main(arguments) == 0
    capsys.readouterr()
    other = ["--ckpt_path", str(tmp_path / "checkpoints"), "--model.recurrent", "7"]
    assert train_main([*arguments, *other]) == train.FAILED
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {train.OTHER_MODEL}"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["status"], summary["hint"]) == ("error", train.OTHER_MODEL)
