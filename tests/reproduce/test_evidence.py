"""Evidence beside the rows: curves, misclassified images and weights of each run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sample import ROW

from reproduce import evidence, weights

RECORD = replace(ROW, value=50.0, seed=1)


def _folder(root: Path, value: float = 1.0) -> Path:
    """Return a run folder as a training leaves it."""
    (root / "checkpoints").mkdir(parents=True)
    (root / "metrics.csv").write_text(
        "epoch,step,test/error,train/loss,train/seconds\n"
        "0,9,,4.0,\n0,19,,2.0,\n0,59,,1.0,\n0,59,,,7.5\n1,99,,0.5,\n1,99,3.0,,\n"
    )
    (root / "predictions.csv").write_text("image,label,prediction\n0,7,7\n1,2,3\n2,1,1\n3,0,6\n")
    state = {"net.weight": torch.full((2, 2), value), "test_wrong.sum_value": torch.zeros(())}
    content = {"state_dict": state, "hyper_parameters": {"body": "ode"}}
    torch.save(content, root / "checkpoints" / "last.ckpt")
    return root


def test_curves_are_means_over_windows_of_updates(tmp_path: Path) -> None:
    evidence.keep(tmp_path / "short.csv", _folder(tmp_path / "run"), RECORD)
    lines = evidence.read(tmp_path / "curves" / "short.csv", evidence.CURVE)
    assert [(x["metric"], x["update"], x["value"]) for x in lines] == [
        ("loss", "50", "3"),
        ("loss", "100", "0.75"),
        ("seconds", "100", "7.5"),
    ]
    assert {(x["row"], x["seed"], x["run"]) for x in lines} == {("odenet", "1", RECORD.run)}


def test_the_curve_of_a_long_training_has_no_more_points_than_are_seen(tmp_path: Path) -> None:
    lines = [f"0,{step},,{step / 1e4},\n" for step in range(9, 74_900, 10)]
    (tmp_path / "metrics.csv").write_text(
        "epoch,step,test/error,train/loss,train/seconds\n" + "".join(lines)
    )
    points = [(int(update), float(value)) for update, _, value in evidence.curves(tmp_path)]
    assert 100 < len(points) <= evidence.POINTS
    (before, _), (window, value) = points[:2]
    assert window == 2 * before
    assert before % evidence.WINDOW == 0
    assert value == pytest.approx(1e-4 * (before + window + 8) / 2, rel=1e-5)


def test_misclassified_images_are_kept_with_what_was_answered(tmp_path: Path) -> None:
    evidence.keep(tmp_path / "short.csv", _folder(tmp_path / "run"), RECORD)
    lines = evidence.read(tmp_path / "errors" / "short.csv", evidence.ERROR)
    assert [(x["image"], x["label"], x["prediction"]) for x in lines] == [
        ("1", "2", "3"),
        ("3", "0", "6"),
    ]


def test_a_repeated_run_replaces_its_own_lines_and_no_others(tmp_path: Path) -> None:
    rows, folder = tmp_path / "short.csv", _folder(tmp_path / "run")
    evidence.keep(rows, folder, RECORD)
    evidence.keep(rows, folder, replace(RECORD, seed=0, run="a" * 12))
    evidence.keep(rows, folder, replace(RECORD, run="b" * 12))
    lines = evidence.read(tmp_path / "errors" / "short.csv", evidence.ERROR)
    assert [(x["seed"], x["run"]) for x in lines] == [("0", "a" * 12)] * 2 + [("1", "b" * 12)] * 2


def test_the_weights_of_the_lowest_seed_stay(tmp_path: Path) -> None:
    rows = tmp_path / "short.csv"
    kept = tmp_path / "weights" / "short-odenet.safetensors"
    for seed, value in ((1, 1.0), (0, 0.0), (2, 2.0)):
        folder = _folder(tmp_path / f"run{seed}", value)
        evidence.keep(rows, folder, replace(RECORD, seed=seed))
    state, facts = weights.load(kept)
    assert set(state) == {"weight"}
    assert (facts["seed"], facts["hyper_parameters"]) == (0, {"body": "ode"})
    assert float(state["weight"].sum()) == 0.0


def test_where_nets_are_measured_the_weights_of_every_seed_are_kept(tmp_path: Path) -> None:
    rows = tmp_path / "table1" / "short.csv"
    for seed in (0, 2):
        folder = _folder(tmp_path / f"run{seed}", float(seed))
        evidence.keep(rows, folder, replace(RECORD, seed=seed), every_seed=True)
    paths = evidence.find_weights("table1", "odenet", [tmp_path], "short")
    assert [float(weights.load(path)[0]["weight"].mean()) for path in paths] == [0.0, 2.0]


def test_weights_of_the_way_are_kept_where_the_training_kept_them(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "run")
    checkpoint = folder / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    stages = {"net.weight": torch.arange(12.0).view(3, 2, 2), "buffer": torch.zeros(3)}
    content["callbacks"] = {"Course": {"updates": [0, 5, 10], "weights": stages}}
    torch.save(content, checkpoint)
    evidence.keep(tmp_path / "short.csv", folder, RECORD)
    last = tmp_path / "weights" / "short-odenet.safetensors"
    kept, facts = weights.load(evidence.course_of(last))
    assert facts["updates"] == [0, 5, 10]
    assert set(kept) == {"weight"}
    assert torch.equal(kept["weight"], stages["net.weight"])
    assert weights.load(last)[1]["run"] == facts["run"] == RECORD.run


def test_changed_settings_leave_the_weights_alone(tmp_path: Path) -> None:
    changed = replace(RECORD, overrides="model.width=32")
    evidence.keep(tmp_path / "short.csv", _folder(tmp_path / "run"), changed)
    assert not (tmp_path / "weights").exists()


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "curves").mkdir()
    (tmp_path / "curves" / "short.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match=r"short\.csv, line 1: the columns are not row,seed"):
        evidence.keep(tmp_path / "short.csv", _folder(tmp_path / "run"), RECORD)
