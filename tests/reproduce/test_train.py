"""The training command line: typed flags, refusals, checkpoints, one process for fit and test."""

import csv
import json
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_modules import ImageClassifier
from reproduce import train

CONFIGS = sorted(p.name for p in (resources.files("reproduce") / "configs").iterdir())
SMALL = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
SMALL += ["--trainer.log_every_n_steps=1", "--trainer.limit_test_batches=1"]
SMALL += ["--data.batch_size=8", "--data.test_batch_size=16"]


def _config(name: str) -> str:
    return str(resources.files("reproduce") / "configs" / name)


def _main(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["reproduce.train", *arguments])
        return train.main()


def _logged_steps(path: Path) -> list[int]:
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


def _printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        _main([*arguments, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_states_all_settings_of_its_model_and_data(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run is known by its configuration: a default that changes in code must not hide in it."""
    printed = _printed(["run", "--config", _config(name)], capsys)
    stated = yaml.safe_load(Path(_config(name)).read_text())
    for part in ("model", "data"):
        assert printed[part] == stated[part]


def test_flags_reach_nested_settings_and_seed_zero_is_a_seed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model.solver.rtol=1e-4", "--seed_everything=0"]
    printed = _printed(["fit", "--config", _config("odenet.yaml"), *flags], capsys)
    assert printed["model"]["init_args"]["solver"]["rtol"] == 1e-4
    assert printed["seed_everything"] == 0


def test_help_comes_from_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _main(["fit", "--model.help=ImageClassifier"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--model.solver.rtol" in shown
    assert "Relative tolerance" in shown


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--model.solvr.rtol=1", "solvr"),
        ("--model.solver.rtol=-1", "rtol"),
        ("--model.body=densenet", "densenet"),
        ("--data.batch=3", "batch"),
    ],
)
def test_unknown_and_impossible_settings_are_refused_by_name(
    flag: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        _main(["fit", "--config", _config("odenet.yaml"), flag])
    assert stop.value.code == 2
    assert named in capsys.readouterr().err


def test_run_fits_and_tests_in_one_process_and_its_checkpoint_is_plain(
    tmp_path: Path, mnist_root: str
) -> None:
    common = ["--data.root", mnist_root, *SMALL]
    common += ["--trainer.default_root_dir", str(tmp_path), "--model.stem=conv"]
    assert _main(["run", "--config", _config("odenet.yaml"), *common]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "ok"
    assert summary["parameters"] == 208_266
    assert summary["metrics"]["test/images"] == 16
    assert summary["cost"]["train_nfe_forward"] >= 14
    assert summary["cost"]["train_nfe_backward"] >= 14
    assert summary["cost"]["train_batches"] == 2
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert {"train/loss", "train/nfe_forward", "train/nfe_backward"} <= set(header.split(","))

    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert content["hyper_parameters"]["solver"]["gradient"] == "adjoint"
    loaded = ImageClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    assert loaded.hparams["stem"] == "conv"

    resumed = ["run", "--config", _config("odenet.yaml"), *common, "--trainer.max_epochs=2"]
    assert _main([*resumed, "--ckpt_path", str(checkpoint)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cost"]["train_batches"] == 4
    assert _logged_steps(tmp_path / "metrics.1.csv") == [0, 1]
    assert _logged_steps(tmp_path / "metrics.csv") == [2, 3]


def test_a_solver_that_fails_leaves_its_status_and_the_remedy(
    tmp_path: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--config", _config("rknet.yaml"), "--data.root", mnist_root, *SMALL]
    arguments += ["--trainer.default_root_dir", str(tmp_path), "--model.solver.max_steps=1"]
    arguments += ["--model.solver.rtol=1e-7", "--model.solver.atol=1e-7"]
    assert _main(arguments) == train.FAILED
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "solver_failed"
    assert "max_steps" in summary["hint"]
    assert "--model.solver" in capsys.readouterr().err
