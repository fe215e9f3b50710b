"""Paths of three bodies: forces, gradients, first guesses, and what descent recovers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainers import quiet_trainer

from datamodules import SpringObservations, springs
from lightning_modules import PathModel
from lightning_modules.callbacks import Diverged
from lightning_modules.nets import FieldPath, SpringField, SpringPath, TimePath
from lightning_modules.optimization import OptimizerSettings
from lightning_modules.solvers import FactoredField, SolverSettings, odeint

TIGHT = SolverSettings("native", "dopri5", 1e-9, 1e-9)
KINDS = ("physics", "neural_ode", "network")


def _data(**given: Any) -> SpringObservations:
    sizes = {"span": 3.0, "observations": 24, "future": 1.0, "grid": 21, "batch_size": 24}
    return SpringObservations(**{**sizes, "steps": 2, "data_seed": 0, **given})


def _model(kind: Any = "physics", **given: Any) -> PathModel:
    torch.manual_seed(0)
    return PathModel(kind, **given).double()


def _springs(model: PathModel) -> SpringPath:
    assert isinstance(model.net, SpringPath)
    return model.net


def _field(*shape: int) -> SpringField:
    torch.manual_seed(0)
    k, rest = (torch.rand(*shape, 3, dtype=torch.float64) + 0.5 for _ in "kl")
    field = SpringField(k, rest)
    for parameter in field.parameters():
        nn.init.normal_(parameter, std=0.3)
    return field


def test_the_field_pulls_as_computed_by_hand() -> None:
    """Sides of 3, 4 and 5 with rest lengths of 1 pull by 2 · 2, 3 · 3 and 5 · 4."""
    field = SpringField(torch.tensor([2.0, 3.0, 5.0]), torch.ones(3))
    y = torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    expected = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 9.0, -16.0, 16.0, 12.0, -25.0]
    assert field(torch.zeros(()), y).tolist() == pytest.approx(expected)
    out = torch.empty(1, 12)
    field.slope(tuple(c[0] for c in field.coefficients(torch.zeros(1))), y[None], out)
    assert out[0].tolist() == pytest.approx(expected)


def test_the_field_is_that_of_the_truth() -> None:
    field = _field()
    k, rest = field.stiffness.detach(), field.rest_lengths.detach()
    states = torch.randn(7, 12, dtype=torch.float64)
    true = springs(k.tolist(), rest.tolist()).slopes(0.0, states)
    torch.testing.assert_close(field(torch.zeros(()), states).detach(), true)


@pytest.mark.parametrize("shape", [(), (5,)], ids=["shared", "of each state"])
def test_the_written_out_gradient_of_the_springs_is_that_of_autograd(shape: Any) -> None:
    field = _field(*shape)
    assert isinstance(field, FactoredField)
    corners = torch.tensor([0.0, 0.0, 1.2, 0.0, 0.4, 1.0], dtype=torch.float64)
    still = torch.cat([corners, torch.zeros(6, dtype=torch.float64)])
    y0 = still + 0.1 * torch.randn(5, 12, dtype=torch.float64)
    times = torch.linspace(0, 1, 7, dtype=torch.float64)
    weight = torch.randn(7, 5, 12, dtype=torch.float64)
    settings = SolverSettings("native", "dopri5", rtol=1e-6, atol=1e-6)

    def gradients(f: Any) -> list[Tensor]:
        start = y0.clone().requires_grad_()
        loss = (odeint(f, start, times, settings).ys * weight).sum()
        return list(torch.autograd.grad(loss, [start, *field.parameters()]))

    plain = nn.Module.__call__.__get__(field)  # a function has no coefficients
    for a, b in zip(gradients(field), gradients(lambda t, y: plain(t, y)), strict=True):
        assert float(a.abs().sum()) > 0
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_18_numbers_are_learned_and_they_begin_at_what_was_observed() -> None:
    data, model = _data(observations=120, noise=1e-6), _model()
    assert sum(p.numel() for p in model.parameters()) == 18
    model.begin(data.times, data.observed)
    net = _springs(model)
    start, stiffness = net.start.detach(), net.field.stiffness.detach()
    torch.testing.assert_close(start[:6], data.observed[0])
    torch.testing.assert_close(start[6:], data.start[6:], rtol=0, atol=0.05)
    assert len(set(stiffness.tolist())) == 1
    assert 2 < float(stiffness[0]) < 4  # the true ones are 4, 2 and 3
    x = data.observed.view(-1, 3, 2)
    assert float(net.field.rest_lengths[2].detach()) == pytest.approx(
        float((x[:, 1] - x[:, 2]).norm(dim=1).mean())
    )


def test_equal_springs_are_guessed_exactly() -> None:
    """Around the rest triangle, where mean distances are rest lengths, differences see k."""
    system = springs((3.0, 3.0, 3.0), (1.0, 1.0, 1.0))
    times = torch.linspace(0, 2 * math.pi / 3, 101, dtype=torch.float64)  # a whole breath
    path = system.reference(times, torch.tensor(system.start, dtype=torch.float64) * 1.05)
    model = _model()
    model.begin(times, path[:, :6])
    assert float(_springs(model).field.stiffness[0].detach()) == pytest.approx(3.0, rel=0.02)


def test_without_noise_the_18_numbers_are_recovered_from_near_the_truth() -> None:
    data = _data(noise=1e-9)
    model = _model(solver=SolverSettings("native", "dopri5", 1e-5, 1e-5))
    model.begin(data.times, data.observed)
    net = _springs(model)
    true = torch.cat([data.start, torch.tensor([*data.stiffness, *data.rest_lengths])])
    with torch.no_grad():  # 5 % off in springs and lengths, 0.02 in the state
        net.shift.copy_(data.start - net.guess + 0.02 * torch.randn(12))
        for name, values in (("stiffness", data.stiffness), ("rest", data.rest_lengths)):
            near = torch.tensor(values) * torch.tensor([1.05, 0.95, 1.05])
            getattr(net.field, f"{name}_guess").copy_(near)
    batch = next(iter(data.train_dataloader()))
    options: dict[str, Any] = {"tolerance_change": 0, "tolerance_grad": 0, "history_size": 55}
    rule = torch.optim.LBFGS(
        model.parameters(), max_iter=55, line_search_fn="strong_wolfe", **options
    )

    def closure() -> Tensor:
        rule.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        return loss

    rule.step(closure)
    torch.testing.assert_close(net.numbers.detach(), true.double(), rtol=0, atol=3e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_every_parameter(kind: str) -> None:
    data, model = _data(), _model(kind)
    model.begin(data.times, data.observed)
    model.loss(next(iter(data.train_dataloader()))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trains_from_its_guess_and_is_tested_behind_the_span(kind: str) -> None:
    data, model = _data(), _model(kind, noise_std=0.02)
    before = [p.detach().clone() for p in model.parameters()]
    quiet_trainer(max_epochs=1).fit(model, datamodule=data)
    assert bool(model.begun)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    guess = {name: b.clone() for name, b in model.named_buffers()}
    quiet_trainer(max_epochs=1).fit(model, datamodule=data)  # goes on from where it is
    assert all(torch.equal(b, guess[name]) for name, b in model.named_buffers())
    found = quiet_trainer().test(model, datamodule=data, verbose=False)[0]
    with torch.no_grad():
        missed = (model.predict(data.at) - data.truth).view(-1, 3, 2).square().sum(dim=2)
    within = data.at <= 3.0
    for name, part in (("span", within), ("future", ~within)):
        expected = float(missed[part].mean().sqrt())
        assert found[f"test/rmse_{name}"] == pytest.approx(expected, rel=1e-6)


def test_the_loss_is_the_residual_in_variances_of_the_noise() -> None:
    data, model = _data(), _model("network", noise_std=0.1)
    model.begin(data.times, data.observed)
    times, x, _ = next(iter(data.train_dataloader()))
    seen = torch.tensor([1, 4, 9])
    missed = (model.predict(times) - x)[seen]
    expected = float((missed / 0.1).square().mean().detach())
    assert float(model.loss((times, x, seen)).detach()) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["physics", "neural_ode"])
def test_a_position_does_not_depend_on_which_others_are_asked_for(kind: str) -> None:
    data, model = _data(), _model(kind, solver=TIGHT)
    model.begin(data.times, data.observed)
    with torch.no_grad():
        whole = model.predict(data.times)
        later = model.predict(data.times[[3, 7, 20]])
        first = model.predict(data.times[:1])
    torch.testing.assert_close(later, whole[[3, 7, 20]], rtol=0, atol=1e-7)
    torch.testing.assert_close(first, whole[:1])
    with pytest.raises(ValueError, match="begins at 0, before which -1 lies"):
        model.predict(torch.tensor([-1.0, 1.0]))


def test_a_network_of_time_has_an_answer_at_all_times_and_sees_the_span_as_ten_units() -> None:
    model = _model("network")
    times = torch.linspace(2.0, 6.0, 9, dtype=torch.float64)
    model.begin(times, torch.zeros(9, 6))
    net = model.net
    assert isinstance(net, TimePath)
    ends = (times[[0, -1]] - net.centre) / net.unit
    assert ends.tolist() == pytest.approx([-5.0, 5.0])
    assert model.predict(torch.tensor([-9.0, 99.0])).shape == (2, 6)


def test_a_neural_ode_begins_with_positions_and_what_velocities_they_suggest() -> None:
    data, model = _data(), _model("neural_ode", units=7)
    model.begin(data.times, data.observed)
    net = model.net
    assert isinstance(net, FieldPath)
    x, step = data.observed, data.times[1]
    torch.testing.assert_close(net.start.detach(), torch.cat([x[0], (x[1] - x[0]) / step]))
    assert sum(p.numel() for p in model.parameters()) == 12 + (12 * 7 + 7) + (7 * 12 + 12)


def test_weights_that_burst_end_the_training() -> None:
    model = _model(optimizer=OptimizerSettings("sgd", lr=1.0))
    _springs(model).shift.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(Diverged, match=r"model\.optimizer\.lr"):
        quiet_trainer(max_epochs=1).fit(model, datamodule=_data())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: _model("chemistry"), "Choose one of physics, neural_ode, network"),
        (lambda: _model(units=0), "units is 0"),
        (lambda: _model(layers=0), "layers is 0"),
        (lambda: _model(noise_std=0.0), "noise_std is 0.0"),
        (lambda: _model().begin(torch.arange(4.0), torch.zeros(4, 6)), "at least 5 observations"),
        (lambda: _model().begin(torch.arange(6.0), torch.zeros(6, 4)), r"\(time, 6\)"),
        (lambda: _model().begin(-torch.arange(6.0), torch.zeros(6, 6)), "increasing order"),
        (lambda: _model().begin(torch.arange(6.0), torch.full((6, 6), math.nan)), "not finite"),
        (lambda: _model().predict(torch.tensor([1.0, 0.5])), "increasing order"),
        (lambda: SpringField(torch.tensor([1.0, 0.0, 1.0]), torch.ones(3)), "stiffness is"),
        (lambda: SpringField(torch.ones(3), torch.ones(2)), "rest_lengths is"),
    ],
)
def test_what_cannot_be_is_refused(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wrong()
