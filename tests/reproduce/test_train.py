"""The training command line: typed flags, refusals, checkpoints, one process for fit and test."""

import csv
import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from in_process import CONFIGS, train_main

from lightning_modules import ImageClassifier
from lightning_modules.callbacks import RunCost
from reproduce import train

SMALL = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.accelerator=cpu"]
# 2, not 1: a number of batches that jsonargparse reads as 1.0 would be the whole set.
SMALL += ["--trainer.log_every_n_steps=1", "--trainer.limit_test_batches=2"]
SMALL += ["--data.batch_size=8", "--data.test_batch_size=16"]


def _config(name: str) -> str:
    return str(resources.files("reproduce") / "configs" / name)


def _logged_steps(path: Path) -> list[int]:
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]


def _printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stop:
        train_main([*arguments, "--print_config"])
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


@pytest.mark.parametrize("name", ["fig4_cnf", "fig4_nf", "fig5_cnf", "fig5_nf", "ffjord"])
def test_every_kind_of_flow_fits_and_validates_from_its_configuration(
    name: str, tmp_path: Path
) -> None:
    small = ["--data.batch_size=16", "--data.steps=2", "--data.test_points=20"]
    small += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    root = ["--trainer.default_root_dir", str(tmp_path)]
    assert train_main(["fit", "--config", _config(f"{name}.yaml"), *small, *root]) == 0
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    assert bool(content["state_dict"]["alive"].all())


@pytest.mark.parametrize("name", ["rnn", "rnn_gap", "latent_ode"])
def test_every_model_of_series_fits_and_validates_from_its_configuration(
    name: str, tmp_path: Path
) -> None:
    small = ["--data.train_size=20", "--data.test_size=20", "--data.batch_size=10"]
    small += ["--data.steps=2", "--trainer.max_epochs=1", "--trainer.limit_val_batches=1"]
    small += ["--trainer.accelerator=cpu", "--trainer.default_root_dir", str(tmp_path)]
    assert train_main(["fit", "--config", _config(f"{name}.yaml"), *small]) == 0
    content = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 2
    assert content["hyper_parameters"]["network"] == name


def test_flags_reach_nested_settings_and_seed_zero_is_a_seed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model.solver.rtol=1e-4", "--seed_everything=0"]
    printed = _printed(["fit", "--config", _config("odenet.yaml"), *flags], capsys)
    assert printed["model"]["init_args"]["solver"]["rtol"] == 1e-4
    assert printed["seed_everything"] == 0


def test_help_comes_from_the_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_main(["fit", "--model.help=ImageClassifier"])
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
        ("--trainer.max_steps=many", "max_steps"),
        ("--trainer.max_epochs=-5", "max_epochs"),
        (f"--trainer.default_root_dir={__file__}/x", "default_root_dir"),
    ],
)
def test_unknown_and_impossible_settings_are_refused_by_name(
    flag: str, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        train_main(["fit", "--config", _config("odenet.yaml"), flag])
    assert stop.value.code == 2
    refusal = _refusal(capsys.readouterr().err)
    assert named in refusal
    assert "Namespace" not in refusal


@pytest.mark.parametrize("key", ["method", "backend"])
@pytest.mark.parametrize(
    "name", ["spiral_path", "odenet", "latent_ode", "springs_physics", "ffjord"]
)
def test_a_solver_that_nothing_offers_is_refused_before_a_folder_is_made(
    name: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    given = [f"--model.solver.{key}=rk45", f"--trainer.default_root_dir={folder}"]
    with pytest.raises(SystemExit) as stop:
        train_main(["run", "--config", _config(f"{name}.yaml"), *given])
    assert stop.value.code == 2
    assert "'rk45'. Choose one of" in _refusal(capsys.readouterr().err)
    assert not folder.exists()


def _refusal(printed: str) -> str:
    """Return the one line of a refusal, after what Lightning says of itself."""
    *before, told = printed.splitlines()
    assert told.startswith("error: ")
    assert not any("usage" in line or "Traceback" in line for line in before)
    return told


def test_run_fits_and_tests_in_one_process_and_its_checkpoint_is_plain(
    tmp_path: Path, mnist_root: str
) -> None:
    common = ["--data.root", mnist_root, *SMALL]
    common += ["--trainer.default_root_dir", str(tmp_path), "--model.stem=conv"]
    assert train_main(["run", "--config", _config("odenet.yaml"), *common]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "ok"
    assert summary["parameters"] == 208_266
    assert summary["metrics"]["test/images"] == 32
    assert summary["cost"]["train_nfe_forward"] >= 14
    assert summary["cost"]["train_nfe_backward"] >= 14
    assert summary["cost"]["train_batches"] == 2
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    logged = ("loss", "error", "nfe_forward", "nfe_backward", "seconds", "peak_memory")
    assert {f"train/{name}" for name in logged} <= set(header.split(","))

    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert content["hyper_parameters"]["solver"]["gradient"] == "adjoint"
    loaded = ImageClassifier.load_from_checkpoint(checkpoint, weights_only=True)
    assert loaded.hparams["stem"] == "conv"

    resumed = ["run", "--config", _config("odenet.yaml"), *common, "--trainer.max_epochs=2"]
    assert train_main([*resumed, "--ckpt_path", str(checkpoint)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["cost"]["train_batches"] == 4
    assert _logged_steps(tmp_path / "metrics.csv") == [0, 1, 2, 3]


def test_an_interrupted_training_goes_on_from_its_last_epoch_to_the_same_result(
    tmp_path: Path, mnist_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arguments(folder: str) -> list[str]:
        common = ["run", "--config", _config("mlp.yaml"), "--data.root", mnist_root, *SMALL]
        return [
            *common,
            "--trainer.max_epochs=3",
            f"--trainer.default_root_dir={tmp_path / folder}",
        ]

    def break_off(self: RunCost, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("the power went")

    assert train_main(arguments("whole")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(RunCost, "on_train_epoch_start", break_off)
        assert train_main(arguments("broken")) == 1
    assert json.loads((tmp_path / "broken" / "summary.json").read_text())["status"] == "error"
    checkpoint = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    assert train_main([*arguments("broken"), "--ckpt_path", str(checkpoint)]) == 0
    whole, resumed = (
        json.loads((tmp_path / f / "summary.json").read_text()) for f in ("whole", "broken")
    )
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["cost"]["train_batches"] == whole["cost"]["train_batches"] == 6
    assert resumed["cost"]["peak_memory"] > 50


def test_flags_rule_over_what_a_checkpoint_was_trained_with(
    tmp_path: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ImageClassifier(body="mlp", hidden=3)
    trainer = pl.Trainer(accelerator="cpu", logger=False, max_epochs=0, default_root_dir=tmp_path)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    common = ["test", "--config", _config("mlp.yaml"), "--data.root", mnist_root, *SMALL]
    common += ["--ckpt_path", str(tmp_path / "a.ckpt"), f"--trainer.default_root_dir={tmp_path}"]
    assert train_main([*common, "--model.hidden=3"]) == 0
    assert train_main([*common, "--model.hidden=4"]) == train.FAILED
    assert train.OTHER_MODEL in capsys.readouterr().err
    assert not (tmp_path / "config.yaml").exists()


@pytest.mark.parametrize("verb", ["test", "run"])
def test_a_checkpoint_never_runs_code(
    verb: str, tmp_path: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"state_dict": {}, "hyper_parameters": {"x": Evil()}}, tmp_path / "evil.ckpt")
    common = [verb, "--config", _config("mlp.yaml"), "--data.root", mnist_root, *SMALL]
    common += ["--ckpt_path", str(tmp_path / "evil.ckpt")]
    assert train_main([*common, f"--trainer.default_root_dir={tmp_path}"]) == 1
    assert "Weights only load failed" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (["--model.optimizer.lr=1e30", "--trainer.limit_train_batches=1"], "diverged"),
        (["--trainer.limit_test_batches=0"], "error"),
    ],
)
def test_a_training_without_a_finite_test_is_no_result(
    flags: list[str], status: str, tmp_path: Path, mnist_root: str
) -> None:
    common = ["run", "--config", _config("mlp.yaml"), "--data.root", mnist_root, *SMALL]
    assert train_main([*common, f"--trainer.default_root_dir={tmp_path}", *flags]) != 0
    assert json.loads((tmp_path / "summary.json").read_text())["status"] == status


@pytest.mark.parametrize("name", ["rknet.yaml", "odenet.yaml"])
def test_the_same_command_gives_the_same_bits(name: str, tmp_path: Path, mnist_root: str) -> None:
    results = []
    for folder in ("first", "second"):
        common = ["run", "--config", _config(name), "--data.root", mnist_root, *SMALL]
        assert train_main([*common, f"--trainer.default_root_dir={tmp_path / folder}"]) == 0
        summary = json.loads((tmp_path / folder / "summary.json").read_text())
        content = torch.load(tmp_path / folder / "checkpoints" / "last.ckpt", weights_only=True)
        results.append((summary["metrics"], content["state_dict"]))
    (metrics, weights), (same_metrics, same_weights) = results
    assert metrics == same_metrics
    assert all(torch.equal(weights[key], same_weights[key]) for key in weights)
    answers = [(tmp_path / f / "predictions.csv").read_text() for f in ("first", "second")]
    assert answers[0] == answers[1]
    assert len(answers[0].splitlines()) == 1 + 32


def test_two_processes_train_one_global_batch_and_one_device_tests(
    tmp_path: Path, mnist_root: str
) -> None:
    common = [sys.executable, "-m", "reproduce.train", "run", "--config", _config("mlp.yaml")]
    common += ["--data.root", mnist_root, *SMALL]
    ddp = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    for folder, extra in (("one", []), ("two", ddp)):
        command = [*common, f"--trainer.default_root_dir={tmp_path / folder}", *extra]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f / "summary.json").read_text()) for f in ("one", "two"))
    assert one["metrics"]["test/images"] == two["metrics"]["test/images"] == 32
    assert two["metrics"]["test/loss"] == pytest.approx(one["metrics"]["test/loss"], rel=1e-5)


def test_a_solver_that_fails_leaves_its_status_and_the_remedy(
    tmp_path: Path, mnist_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--config", _config("rknet.yaml"), "--data.root", mnist_root, *SMALL]
    arguments += ["--trainer.default_root_dir", str(tmp_path), "--model.solver.max_steps=1"]
    arguments += ["--model.solver.rtol=1e-7", "--model.solver.atol=1e-7"]
    assert train_main(arguments) == train.FAILED
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "solver_failed"
    assert "max_steps" in summary["hint"]
    assert "--model.solver" in capsys.readouterr().err
