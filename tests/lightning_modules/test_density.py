"""Density models: what users ask of them, members side by side, and what goes wrong."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from trainers import quiet_trainer

from datamodules import BaseNoise, PlaneData
from lightning_modules import DensityModel
from lightning_modules.callbacks import Diverged
from lightning_modules.solvers import SolverFailed, SolverSettings

KINDS: dict[str, dict[str, Any]] = {
    "cnf": {"flow": "cnf", "size": 4, "hidden": 8},
    "planar": {"flow": "planar", "size": 3},
    "ffjord": {"flow": "ffjord", "size": 8, "depth": 1, "trace": "rademacher"},
}
SEEDS = [1, 2, 3]
TARGETS = ["u1", "u1", "u4"]


def _trainer(steps: int, **given: Any) -> pl.Trainer:
    return quiet_trainer(max_steps=steps, log_every_n_steps=1, **given)


def _ensemble(
    kind: str = "cnf", seeds: list[int] = SEEDS, targets: list[str] = TARGETS
) -> DensityModel:
    return DensityModel(objective="kl", targets=targets, member_seeds=seeds, **KINDS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trains_validates_and_tests_under_the_trainers_defaults(kind: str) -> None:
    model = DensityModel(member_seeds=[0], **KINDS[kind])
    data = PlaneData(batch_size=32, steps=3, test_points=40)
    trainer = _trainer(3)
    trainer.fit(model, datamodule=data)
    assert math.isfinite(float(trainer.callback_metrics["val/loss"]))
    found = trainer.test(model, datamodule=data, verbose=False)[0]
    if kind != "ffjord":
        points = data.fixed("test")[0]
        expected = -float(model.log_prob(points).mean().detach())
        assert found["test/nll/0"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kind", ["cnf", "planar"])
def test_likelihood_rises_in_training(kind: str) -> None:
    model = DensityModel(member_seeds=[0], **KINDS[kind])
    data = PlaneData(batch_size=128, steps=60, test_points=500)
    before = float(model.log_prob(data.fixed("test")[0]).mean())
    model.optimizer_settings = model.optimizer_settings.__class__(name="adam", lr=0.02)
    _trainer(60, limit_val_batches=0).fit(model, datamodule=data)
    assert float(model.log_prob(data.fixed("test")[0]).mean()) > before + 0.1


@pytest.mark.parametrize("kind", ["cnf", "planar"])
@pytest.mark.parametrize("objective", ["kl", "likelihood"])
def test_densities_integrate_to_one_and_samples_follow_them(kind: str, objective: Any) -> None:
    targets = ["u1"] if objective == "kl" else None
    model = DensityModel(objective=objective, targets=targets, member_seeds=[0], **KINDS[kind])
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.mul_(1.5)
        axis = torch.linspace(-8, 8, 321)
        points = torch.cartesian_prod(axis, axis)
        density = model.log_prob(points).exp() * (16 / 320) ** 2
        samples = model.sample(20_000, torch.Generator().manual_seed(0))
    assert float(density.sum()) == pytest.approx(1, abs=1e-3)
    mean = (density[:, None] * points).sum(dim=0)
    spread = samples.std(dim=0) / math.sqrt(len(samples))
    assert bool(((samples.mean(dim=0) - mean).abs() < 4.5 * spread + 1e-3).all())


def test_a_single_member_answers_without_a_member_dimension() -> None:
    one, three = DensityModel(member_seeds=[0], **KINDS["cnf"]), _ensemble()
    x = torch.zeros(5, 2)
    assert one.log_prob(x).shape == (5,)
    assert one.sample(4).shape == (4, 2)
    assert three.log_prob(x).shape == three.log_prob(x.expand(3, 5, 2)).shape == (3, 5)
    assert three.sample(4).shape == (3, 4, 2)


@pytest.mark.parametrize("kind", ["cnf", "planar"])
def test_members_train_as_they_would_alone(kind: str) -> None:
    def trained(seeds: list[int], targets: list[str]) -> DensityModel:
        model = _ensemble(kind, seeds, targets)
        model.optimizer_settings = model.optimizer_settings.__class__(name="adam", lr=0.01)
        data = BaseNoise(batch_size=32, steps=20, member_seeds=seeds)
        _trainer(20, limit_val_batches=0).fit(model, datamodule=data)
        return model

    together = trained(SEEDS, TARGETS)
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    for i, (seed, target) in enumerate(zip(SEEDS, TARGETS, strict=True)):
        alone = trained([seed], [target])
        expected = alone.log_prob(x).detach()
        # Alone, an adaptive solver takes other steps.
        close = 5e-3 if kind == "cnf" else 1e-5
        torch.testing.assert_close(together.log_prob(x)[i].detach(), expected, rtol=0, atol=close)
        picked = together.only([i])
        of_member = together.log_prob(x)[i].detach()
        torch.testing.assert_close(picked.log_prob(x).detach(), of_member, rtol=0, atol=1e-3)


def test_a_member_that_bursts_is_left_out_and_the_others_go_on() -> None:
    model = _ensemble("planar")
    with torch.no_grad():
        model.net.u[1, 0] = math.nan
    data = BaseNoise(batch_size=16, steps=4, test_points=300, member_seeds=SEEDS)
    trainer = _trainer(4, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    assert model.alive.tolist() == [True, False, True]
    assert all(bool(torch.isfinite(p).all()) for p in model.net.parameters())
    found = trainer.test(model, datamodule=data, verbose=False)[0]
    assert {"test/kl/0", "test/kl/2"} <= set(found)
    assert "test/kl/1" not in found
    assert found["test/alive"] == 2


def test_what_is_left_of_the_others_is_what_they_would_have_been() -> None:
    def trained(burst: bool) -> Tensor:
        model = _ensemble("planar")
        if burst:
            with torch.no_grad():
                model.net.u[1, 0] = math.nan
        data = BaseNoise(batch_size=16, steps=5, member_seeds=SEEDS)
        _trainer(5, limit_val_batches=0).fit(model, datamodule=data)
        return model.net.w.detach()[[0, 2]]

    assert torch.equal(trained(True), trained(False))


def test_a_member_that_cannot_be_solved_is_found_and_left_out() -> None:
    solver = SolverSettings(backend="native", rtol=1e-5, atol=1e-5, max_steps=40)
    model = DensityModel(objective="kl", targets=TARGETS, member_seeds=SEEDS, solver=solver,
                         **KINDS["cnf"])  # fmt: skip
    with torch.no_grad():
        model.net.field.hyper.last.weight[2] *= 300  # type: ignore[union-attr, index]
    data = BaseNoise(batch_size=16, steps=2, member_seeds=SEEDS)
    _trainer(2, limit_val_batches=0).fit(model, datamodule=data)
    assert model.alive.tolist() == [True, True, False]


def test_if_all_burst_the_training_ends() -> None:
    model = _ensemble("planar")
    with torch.no_grad():
        model.net.u.fill_(math.nan)
    with pytest.raises(Diverged, match=r"Lower --model.optimizer.lr"):
        _trainer(2, limit_val_batches=0).fit(
            model, datamodule=BaseNoise(batch_size=8, steps=2, member_seeds=SEEDS)
        )


def test_a_solve_that_fails_for_nobody_alone_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, solve = _ensemble(), DensityModel._solve
    calls = []

    def once(self: DensityModel, batch: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        calls.append(weight)
        if len(calls) == 1:
            raise SolverFailed("together they fail", 0.0, 0.0, 1)
        return solve(self, batch, weight)

    monkeypatch.setattr(DensityModel, "_solve", once)
    before = [p.detach().clone() for p in model.net.parameters()]
    with pytest.raises(SolverFailed, match="together they fail"):
        _trainer(1, limit_val_batches=0).fit(
            model, datamodule=BaseNoise(batch_size=8, steps=1, member_seeds=SEEDS)
        )
    assert len(calls) == 1 + len(SEEDS)
    assert all(map(torch.equal, before, model.net.parameters()))
    assert bool(model.alive.all())


def test_a_single_fit_that_cannot_be_solved_says_why() -> None:
    solver = SolverSettings(backend="native", rtol=1e-5, atol=1e-5, max_steps=1)
    model = DensityModel(member_seeds=[0], solver=solver, **KINDS["cnf"])
    with pytest.raises(SolverFailed, match="max_steps"):
        _trainer(1).fit(model, datamodule=PlaneData(batch_size=8, steps=1))


def test_a_member_that_cannot_be_solved_in_the_test_leaves_the_others_their_results() -> None:
    solver = SolverSettings(backend="native", rtol=1e-5, atol=1e-5, max_steps=40)
    model = DensityModel(objective="kl", targets=TARGETS, member_seeds=SEEDS, solver=solver,
                         **KINDS["cnf"])  # fmt: skip
    with torch.no_grad():
        model.net.field.hyper.last.weight[1] *= 300  # type: ignore[union-attr, index]
    data = BaseNoise(test_points=200, member_seeds=SEEDS)
    found = _trainer(1).test(model, datamodule=data, verbose=False)[0]
    assert {"test/kl/0", "test/kl/2"} <= set(found)
    assert "test/kl/1" not in found


def test_a_training_goes_on_inside_an_epoch_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def trained(resume: Path | None) -> list[Tensor]:
        keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
        model = _ensemble("planar")
        trainer = _trainer(9, limit_val_batches=0, callbacks=[keep], enable_checkpointing=True)
        data = BaseNoise(batch_size=8, steps=6, member_seeds=SEEDS)
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
        return [p.detach() for p in model.net.parameters()]

    whole = trained(None)
    assert all(map(torch.equal, whole, trained(tmp_path / "step=4.ckpt")))


def test_hutchinsons_noise_trains_and_evaluation_is_exact() -> None:
    model = DensityModel(member_seeds=[0], **KINDS["ffjord"]).eval()
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.log_prob(x), model.log_prob(x))
    model.train()
    assert not torch.equal(model.log_prob(x), model.log_prob(x))


def test_hutchinsons_noise_is_that_of_its_update_whatever_else_was_drawn() -> None:
    def trained(other: int) -> list[Tensor]:
        model = DensityModel(member_seeds=[0], **KINDS["ffjord"])
        torch.manual_seed(other)
        data = PlaneData(batch_size=8, steps=2, test_points=8)
        _trainer(2).fit(model, datamodule=data)
        return [p.detach() for p in model.net.parameters()]

    assert all(map(torch.equal, trained(1), trained(2)))


def test_the_energys_factor_rises_to_one() -> None:
    model = DensityModel(objective="kl", targets=["u1"], member_seeds=[0], anneal=2,
                         **KINDS["planar"])  # fmt: skip
    weights = []
    solve = model._solve
    model._solve = lambda b, w: (weights.append(w), solve(b, w))[1]  # type: ignore[method-assign, func-returns-value]
    _trainer(4, limit_val_batches=0).fit(
        model, datamodule=BaseNoise(batch_size=8, steps=4, member_seeds=[0])
    )
    assert weights == pytest.approx([0.01, 0.51, 1.0, 1.0])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"flow": "glow"}, "Unknown flow 'glow'. Choose one of planar, cnf, ffjord"),
        ({"objective": "score"}, "Unknown objective 'score'"),
        ({"objective": "kl"}, "0 targets for 1 members"),
        ({"objective": "kl", "targets": ["u1", "u3"]}, "2 targets for 1 members"),
        ({"objective": "kl", "targets": ["u1"], "dim": 3}, "dim is 3"),
        ({"objective": "kl", "targets": ["u7"]}, "Unknown target 'u7'"),
        ({"targets": ["u1"]}, "targets are energies"),
        ({"size": 0}, "size is 0; give at least 1"),
        ({"base_std": 0.0}, "base_std is 0.0"),
        ({"base_std": math.inf}, "base_std is inf"),
        ({"anneal": -1}, "anneal is -1"),
        ({"member_seeds": []}, "member_seeds is empty"),
        ({"objective": "kl", "targets": ["os:getcwd"]}, "os:getcwd cannot be called with points"),
        ({"objective": "kl", "targets": ["..x:f"]}, "'..x:f' cannot be imported"),
        ({"objective": "kl", "targets": ["math:nothing"]}, "has no attribute 'nothing'"),
        ({"objective": "kl", "targets": ["math:pi"]}, "'math:pi' is a float"),
        ({"objective": "kl", "targets": ["torch:sum"]}, r"returned \(\), not \(33, 33\)"),
        ({"horizon": 0.0}, "horizon is 0.0"),
        ({"flow": "ffjord", "member_seeds": [1, 2]}, "'ffjord' is one fit"),
        ({"flow": "ffjord", "trace": "hutch"}, "Unknown trace 'hutch'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DensityModel(**{"member_seeds": [0], **given})


def test_points_and_counts_that_do_not_fit_are_refused() -> None:
    model = _ensemble()
    for points in (torch.zeros(4, 3), torch.zeros(2, 4, 2), torch.zeros(0, 2), torch.zeros(2)):
        with pytest.raises(ValueError, match=r"this model takes \(points, 2\)"):
            model.log_prob(points)
    with pytest.raises(ValueError, match="Some points are not finite"):
        model.log_prob(torch.full((1, 2), math.nan))
    with pytest.raises(ValueError, match="0 samples were asked for"):
        model.sample(0)
    for part in (0.0, -0.5, 1.5, math.nan):
        with pytest.raises(ValueError, match="give a number above 0, at most 1"):
            model.sample(1, part=part)


def test_checkpoints_hold_plain_values_and_come_back(tmp_path: Path) -> None:
    model = _ensemble()
    trainer = _trainer(1, limit_val_batches=0)
    trainer.fit(model, datamodule=BaseNoise(batch_size=8, steps=1, member_seeds=SEEDS))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    again = DensityModel.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    x = torch.zeros(1, 2)
    assert torch.equal(again.log_prob(x), model.log_prob(x))
