"""Gradients: errors fall with the tolerance, and rows carry what claims are judged by."""

import math
import sys
from pathlib import Path

import pytest
import torch
from contexts import context

from reproduce import evidence, peers, printout, trained
from reproduce.context import Context
from reproduce.experiments import gradients
from reproduce.records import Record

TOLERANCES = [1e-2, 1e-5, 1e-8]


@pytest.mark.parametrize("method", gradients.METHODS)
@pytest.mark.parametrize("problem", gradients.PROBLEMS)
def test_every_gradient_tends_to_that_of_the_reference(problem: str, method: str) -> None:
    values = gradients._system_row(problem, method, TOLERANCES)
    quantities = ["z0", "theta", "several"] + (["t0", "t1"] if method != "checkpoint" else [])
    for quantity in quantities:
        errors = [values[f"{quantity}_1e-{k}"] for k in (2, 5, 8)]
        assert errors[0] > 10 * errors[1] > 100 * errors[2]
        assert errors[2] < 3e-5
    assert values["nfe_1e-8"] > values["nfe_1e-2"]
    assert ("t0_1e-2" in values) == (method != "checkpoint")


def test_claims_are_judged_by_the_larger_error_at_the_tightest_tolerance() -> None:
    keys = [f"{q}_1e-{k}" for q in (*gradients.QUANTITIES, "several") for k in (2, 5, 8)]
    base = {key: 10.0 ** -int(key.rpartition("e-")[2]) for key in keys}
    worse = {**base, "t0_1e-8": 3e-8, "theta_1e-8": 2e-8}
    rows = gradients._judged({"linear_adjoint": base, "spiral_adjoint": worse}, TOLERANCES)
    assert rows["adjoint"]["relative_error"] == 2e-8
    assert rows["adjoint_start_time"]["relative_error"] == 3e-8
    assert rows["adjoint_end_time"]["relative_error"] == 1e-8
    assert 0.9 < rows["adjoint"]["error_slope"] < 1.0


@pytest.fixture
def ctx(small_odenet: Path, mnist_root: str) -> Context:
    return context(small_odenet, data_root=mnist_root)


def test_the_trained_network_is_measured_on_real_images_beside_a_converged_reference(
    ctx: Context,
) -> None:
    rows = gradients._net_rows(ctx, trained.odenet(ctx, None), [1e-2, 1e-4, 1e-6])
    for method in gradients.METHODS:
        assert rows[f"odenet_{method}"]["z0_1e-4"] < 0.2
    assert rows["odenet_direct"]["theta_1e-4"] == pytest.approx(
        rows["odenet_checkpoint"]["theta_1e-4"]
    )
    for quantity in ("z0", "theta"):
        doubt = rows["odenet_reference"][quantity]
        # The order of a solver is that of its smooth parts: kinks leave the square root of it.
        assert 0 < doubt < 1e-2
        assert rows["odenet_direct"][f"{quantity}_1e-2"] > doubt


def test_slopes_leave_out_what_the_reference_cannot_tell() -> None:
    tolerances = [10.0**-k for k in range(1, 8)]
    values = {f"z0_1e-{k}": max(10.0**-k, 1e-4) for k in range(1, 8)}
    assert gradients._slopes(values, tolerances)["z0_slope"] < 0.8
    found = gradients._slopes(values, tolerances, {"z0": 1e-4})
    assert found["z0_slope"] == pytest.approx(1)
    assert gradients._slopes(values, tolerances, {"z0": 1e-2}) == {}


def test_images_one_by_one_take_no_more_evaluations_than_together(ctx: Context) -> None:
    rows, skipped = gradients._batch_rows(ctx, trained.odenet(ctx, None), 3, [1e-3])
    together, alone = rows["batch_shared"], rows["batch_alone"]
    assert (together["nfe_1e-3"] - 2) % 6 == 0
    assert 8 <= alone["nfe_1e-3"] <= together["nfe_1e-3"] + 6
    assert together["time_1e-3"] == 1
    assert alone["time_1e-3"] > 1
    if not skipped:
        assert rows["batch_torchode"]["nfe_1e-3"] >= 8


def test_a_peer_that_is_not_there_is_a_skipped_row(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torchode", None)
    rows = gradients.run(ctx)
    row = next(r for r in rows if r.row == "batch_torchode")
    assert row.status == "skipped"
    assert "pip install torchode" in row.hint
    assert "batch_torchode" not in gradients.table(rows).index
    assert gradients.plot(rows).axes
    assert "were not measured" in gradients.findings(rows)
    printout.remarks("gradients", rows)
    assert "Skipped: batch_torchode: torchode is not there" in capsys.readouterr().out


def test_what_the_common_steps_of_a_batch_cost_is_said_in_words() -> None:
    rows = [
        Record("gradients", row, metric, value, "", 0, "quick", 2, "", "", "cpu", "0" * 12)
        for row, factor in (("batch_shared", 1), ("batch_alone", 2), ("batch_torchode", 3))
        for metric, value in (
            ("images", 32), ("nfe_1e-1", 14), ("nfe_1e-5", 38 * factor), ("time_1e-5", factor)
        )
    ]  # fmt: skip
    said = gradients.findings(rows)
    assert said.startswith("At 1e-5, a mini-batch of 32 images")
    assert "takes 76.0 on average, and all together 2.0 times as long" in said
    assert "takes 114.0 evaluations, and all together 3.0 times as long" in said
    assert gradients.findings(rows[:0]) == ""


def test_torchode_steps_every_sample_by_itself() -> None:
    pytest.importorskip("torchode")
    rates = torch.tensor([1.0, 50.0]).view(2, 1)
    steps = peers.torchode_steps(lambda t, y: -rates * y, torch.ones(2, 1), 1e-4)
    assert steps[1] > 2 * steps[0]


def test_weights_of_the_longest_training_are_found(small_odenet: Path) -> None:
    (path,) = evidence.find_weights("table1", "odenet", [small_odenet])
    assert path.name == "paper-odenet-seed0.safetensors"
    net = trained.of_net(path, *trained.classifier(path))
    assert net.seed == 0
    assert all(math.isfinite(float(p.detach().sum())) for p in net.field.parameters())


def test_a_net_of_another_training_carries_no_verdict(small_odenet: Path) -> None:
    place = small_odenet / "unheard_of" / "weights"
    place.mkdir(parents=True)
    (place / "quick-net.safetensors").touch()
    folders = [small_odenet]
    (path,) = evidence.find_weights("unheard_of", "net", folders, "quick")
    assert path.stem == "quick-net"
    with pytest.raises(FileNotFoundError, match=r"under short .* --profile short"):
        evidence.find_weights("unheard_of", "net", folders, "short")


def test_weights_that_are_not_there_are_told_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m reproduce table1"):
        evidence.find_weights("table1", "unheard_of", [tmp_path])


def test_without_weights_a_net_is_trained_first_and_its_rows_are_kept(
    tmp_path: Path, mnist_root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(evidence, "SHIPPED", tmp_path / "nothing")
    ctx = context(tmp_path, data_root=mnist_root)
    net = trained.odenet(ctx, "smoke")
    assert "Doing so now, with profile smoke" in capsys.readouterr().out
    assert (net.seed, net.budget[:8]) == (0, "0.00027 ")
    assert (tmp_path / "table1" / "smoke.csv").exists()
    assert trained.odenet(ctx, "smoke").text == net.text
