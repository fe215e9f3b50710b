"""Gradients: errors fall with the tolerance, and rows carry what claims are judged by."""

import math
from pathlib import Path

import pytest

from reproduce import trained
from reproduce.context import Context
from reproduce.experiments import gradients

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


def test_the_trained_network_is_measured_on_real_images(
    small_odenet: Path, mnist_root: str
) -> None:
    ctx = Context(profile="smoke", device="cpu", device_text="cpu", seeds=(0,),
                  out=small_odenet, data_root=mnist_root)  # fmt: skip
    rows, which = gradients._net_rows(ctx, [1e-2, 1e-4], batch=3)
    assert which == "paper-odenet: none, seed 0"
    for method in gradients.METHODS:
        assert rows[f"odenet_{method}"]["z0_1e-4"] < 0.2
    assert rows["odenet_direct"]["theta_1e-4"] == pytest.approx(
        rows["odenet_checkpoint"]["theta_1e-4"]
    )
    batch = rows["batch"]
    assert (batch["nfe_shared"] - 2) % 6 == 0
    assert batch["nfe_alone_most"] >= batch["nfe_alone_mean"] >= 8


def test_weights_of_the_longest_training_are_found(small_odenet: Path) -> None:
    path = trained.find("table1", "odenet", [small_odenet])
    assert path.name == "paper-odenet.safetensors"
    _, field, _, facts = trained.parts(path)
    assert facts["seed"] == 0
    assert all(math.isfinite(float(p.sum())) for p in field.parameters())


def test_a_net_of_another_training_carries_no_verdict(small_odenet: Path) -> None:
    place = small_odenet / "unheard_of" / "weights"
    place.mkdir(parents=True)
    (place / "quick-net.safetensors").touch()
    folders = [small_odenet]
    assert trained.find("unheard_of", "net", folders, "quick").stem == "quick-net"
    with pytest.raises(FileNotFoundError, match=r"under short .* --profile short"):
        trained.find("unheard_of", "net", folders, "short")


def test_weights_that_are_not_there_are_told_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="python -m reproduce table1"):
        trained.find("table1", "unheard_of", [tmp_path])
