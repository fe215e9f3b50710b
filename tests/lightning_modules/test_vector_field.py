"""Learned fields: their gradients, what they are trained on, and the paths that follow them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainers import quiet_trainer

from datamodules import Windows
from lightning_modules import VectorFieldModel
from lightning_modules.callbacks import Course, Diverged
from lightning_modules.nets import TanhField
from lightning_modules.optimization import OptimizerSettings
from lightning_modules.solvers import FactoredField, SolverFailed, SolverSettings, odeint

TIGHT = SolverSettings("native", "dopri5", 1e-9, 1e-9)


def _data(**given: Any) -> Windows:
    sizes = {"span": 5.0, "grid": 200, "points": 6, "batch_size": 8, "steps": 3, "data_seed": 0}
    return Windows(**{**sizes, **given})


def _model(**given: Any) -> VectorFieldModel:
    torch.manual_seed(0)
    return VectorFieldModel(**given)


class _Known(nn.Module):
    """Stands where the learned field does: dy/dt = -y."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * y


@pytest.mark.parametrize("initial", ["normal", "glorot"])
def test_the_field_has_the_examples_size_and_begins_as_it_says(initial: Any) -> None:
    torch.manual_seed(0)
    field = TanhField(initial=initial)
    assert sum(p.numel() for p in field.parameters()) == 252
    assert not any(bool(layer.bias.any()) for layer in (field.first, field.second))
    large = TanhField(400, 600, initial=initial).first.weight.detach()
    if initial == "normal":
        assert float(large.std()) == pytest.approx(0.1, rel=0.01)
    else:
        assert float(large.abs().max()) == pytest.approx(math.sqrt(6 / 1000), rel=0.01)


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_written_out_gradient_of_the_tanh_field_is_that_of_autograd(
    power: int, method: str
) -> None:
    torch.manual_seed(0)
    field = TanhField(2, 11, power).double()
    for parameter in field.parameters():
        nn.init.normal_(parameter, std=0.5)
    assert isinstance(field, FactoredField)
    y0, times = torch.randn(6, 2).double(), torch.linspace(0, 1, 9).double()
    weight = torch.randn(9, 6, 2).double()
    settings = SolverSettings("native", method, rtol=1e-6, atol=1e-6)

    def gradients(f: Any) -> list[Tensor]:
        start = y0.clone().requires_grad_()
        loss = (odeint(f, start, times, settings).ys * weight).sum()
        return list(torch.autograd.grad(loss, [start, *field.parameters()]))

    plain = nn.Module.__call__.__get__(field)  # a function has no coefficients
    for a, b in zip(gradients(field), gradients(lambda t, y: plain(t, y)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
@pytest.mark.parametrize("fit_to", ["path", "end"])
def test_a_field_trains_and_is_tested_on_the_whole_path(fit_to: Any, gradient: Any) -> None:
    solver = SolverSettings("native", rtol=1e-5, atol=1e-5, gradient=gradient)
    model, data = _model(fit_to=fit_to, solver=solver), _data()
    before = [p.detach().clone() for p in model.parameters()]
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, datamodule=data)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    found = trainer.test(model, datamodule=data, verbose=False)[0]
    with torch.no_grad():
        missed = (model.predict(data.path[0], data.times) - data.path).abs()
    assert found["test/mae"] == pytest.approx(float(missed.mean()), rel=1e-5)
    assert found["test/largest"] == pytest.approx(float(missed.max()), rel=1e-5)


def test_the_loss_is_the_mean_absolute_error_of_what_is_fitted() -> None:
    batch = next(iter(_data().train_dataloader()))
    times, path = batch
    for fit_to in ("path", "end"):
        model = _model(fit_to=fit_to, solver=TIGHT).double()
        missed = (model.predict(path[:, 0], times) - path).abs()
        expected = missed.mean() if fit_to == "path" else missed[:, -1].mean()
        torch.testing.assert_close(model.loss(batch), expected, rtol=1e-7, atol=1e-9)
        model.net = _Known()  # type: ignore[assignment]
        exact = path[:, :1] * (-times).exp()[None, :, None]
        assert float(model.loss((times, exact)).detach()) < 1e-8


@pytest.mark.parametrize("fit_to", ["path", "end"])
def test_both_gradients_agree_and_reach_every_parameter(fit_to: Any) -> None:
    batch = next(iter(_data().train_dataloader()))
    found = []
    for gradient in ("direct", "adjoint"):
        solver = SolverSettings("native", "dopri5", 1e-10, 1e-10, gradient=gradient)
        model = _model(fit_to=fit_to, solver=solver, initial="glorot").double()
        model.loss(batch).backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert float(a.abs().sum()) > 0
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_a_field_learns_the_speed_of_its_windows_and_a_late_end_a_speed_too_high() -> None:
    """Of dy/dt = -y exactly, a target one step of five late asks for 6/5 of the speed."""
    times = torch.linspace(0, 0.5, 6, dtype=torch.float64)
    y0 = torch.linspace(0.5, 1.5, 16, dtype=torch.float64).view(8, 2)
    speeds = []
    for late in (0, 1):
        ahead = torch.arange(6)
        ahead[-1] += late
        path = y0.unsqueeze(1) * (-0.1 * ahead).exp()[:, None]
        model = _model(fit_to="end", solver=SolverSettings("native", "rk4", step_size=0.1))
        model.double().net = _Known()  # type: ignore[assignment]
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            model.loss((times, path)).backward()
            optimizer.step()
        speeds.append(float(model.net.rate))  # type: ignore[arg-type]
    assert speeds[0] == pytest.approx(1.0, abs=0.02)
    assert speeds[1] == pytest.approx(1.2, abs=0.02)


def test_training_lowers_the_loss() -> None:
    rule = OptimizerSettings("adam", lr=0.02)
    solver = SolverSettings("native", rtol=1e-4, atol=1e-4)
    model = _model(optimizer=rule, solver=solver)
    batch = next(iter(_data().train_dataloader()))
    before = float(model.loss(batch))
    quiet_trainer(max_epochs=1).fit(model, datamodule=_data(steps=100))
    assert float(model.loss(batch)) < 0.3 * before


def test_paths_run_either_way_and_back_again() -> None:
    model = _model(solver=TIGHT, initial="glorot").double()
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    y0 = torch.tensor([[2.0, 0.0], [0.5, 1.0]]).double()
    with torch.no_grad():
        there = model.predict(y0, times)
        back = model.predict(there[:, -1], times.flip(0))
        alone = model.predict(y0[1], times)
    assert there.shape == (2, 11, 2)
    torch.testing.assert_close(back.flip(1), there, rtol=0, atol=1e-6)
    torch.testing.assert_close(alone, there[1], rtol=0, atol=1e-6)
    step = torch.tensor([0.0, 1e-5]).double()
    moved = model.predict(y0, step)[:, 1] - y0
    torch.testing.assert_close(moved / 1e-5, model.slopes(y0), rtol=1e-3, atol=1e-3)


def test_a_path_that_cannot_be_followed_says_so() -> None:
    model = _model(solver=SolverSettings("native", rtol=1e-6, atol=1e-6, max_steps=3))
    with pytest.raises(SolverFailed, match="max_steps"):
        model.predict(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 100.0]))


def test_weights_that_burst_end_the_training() -> None:
    model = _model(optimizer=OptimizerSettings("sgd", lr=1.0))
    model.net.second.bias.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(Diverged, match=r"model\.optimizer\.lr"):
        quiet_trainer(max_epochs=1).fit(model, datamodule=_data())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: _model(fit_to="middle"), "Choose one of path, end"),
        (lambda: _model(initial="zero"), "Choose one of normal, glorot"),
        (lambda: _model(hidden=0), "hidden is 0"),
        (lambda: _model().predict(torch.zeros(3), torch.zeros(2)), "takes"),
        (lambda: _model().predict(torch.zeros(1, 1, 2), torch.zeros(2)), "y0 is"),
        (lambda: _model().loss((torch.zeros(3), torch.zeros(4, 5, 2))), "there are 3 times"),
    ],
)
def test_what_cannot_be_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()


def test_the_course_of_a_training_is_in_its_checkpoint_and_goes_on_after_a_break(
    tmp_path: Any,
) -> None:
    def fit(epochs: int, ckpt: str | None = None) -> tuple[VectorFieldModel, dict[str, Any]]:
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[Course()])
        model = _model()
        trainer.fit(model, datamodule=_data(), ckpt_path=ckpt)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        content = torch.load(tmp_path / "last.ckpt", weights_only=True)
        return model, content["callbacks"]["Course"]

    drawn = _model().state_dict()
    model, whole = fit(3)
    assert whole["updates"] == [0, 3, 6, 9]
    for name, stages in whole["weights"].items():
        assert torch.equal(stages[0], drawn[name])
        assert torch.equal(stages[-1], model.state_dict()[name])
        assert not torch.equal(stages[0], stages[1])
    fit(2)
    _, resumed = fit(3, str(tmp_path / "last.ckpt"))
    assert resumed["updates"] == whole["updates"]
    for name, stages in whole["weights"].items():
        assert torch.equal(stages, resumed["weights"][name])
