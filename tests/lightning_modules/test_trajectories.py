"""Models of series: likelihoods, times of their own, extrapolation, and what goes wrong."""

import math
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from trainers import quiet_trainer

from datamodules import Spirals
from lightning_modules import TrajectoryModel
from lightning_modules.callbacks import Diverged
from lightning_modules.nets import (
    ObservationRNN,
    PerceptronField,
    Series,
    divergence_from_unit,
    gaussian_nll,
)
from lightning_modules.nets.perceptron_field import elu
from lightning_modules.solvers import SolverSettings, odeint
from lightning_modules.trajectories import Network

NETWORKS = list(get_args(Network))
TIGHT = SolverSettings(backend="native", rtol=1e-9, atol=1e-9)


def _data(**given: Any) -> Spirals:
    sizes = {"train_size": 24, "test_size": 20, "batch_size": 8, "steps": 3, "points": 12}
    return Spirals(**{**sizes, "grid": 20, "future": 10, "data_seed": 1, **given})


def _model(network: Any = "latent_ode", **given: Any) -> TrajectoryModel:
    torch.manual_seed(0)
    return TrajectoryModel(network, **given)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_model_trains_validates_and_tests(network: str) -> None:
    trainer, model, data = quiet_trainer(max_steps=3), _model(network), _data()
    before = [p.detach().clone() for p in model.parameters()]
    trainer.fit(model, datamodule=data)
    assert math.isfinite(float(trainer.callback_metrics["val/rmse"]))
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    found = trainer.test(model, datamodule=data, verbose=False)[0]
    times, seen, x, at, truth, _ = data.fixed("test")
    with torch.no_grad():
        expected = model.predict(times[seen], x, at[20:]) - truth[:, 20:]
    assert found["test/rmse"] == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-4)
    medians = expected.square().mean(dim=(1, 2)).sqrt().median()
    assert found["test/rmse_median"] == pytest.approx(float(medians), rel=1e-4)
    with torch.no_grad():
        missed = (model.predict(times[seen], x, at[:20]) - truth[:, :20]).square().mean(dim=2)
    spans = [missed[i, int(own[0]) + 1 :].mean() for i, own in enumerate(seen)]
    expected_span = float(torch.stack(spans).mean().sqrt())
    assert found["test/rmse_span"] == pytest.approx(expected_span, rel=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_losses_fall_in_training(network: str) -> None:
    model, data = _model(network), _data(batch_size=24, steps=40)
    batch = data.fixed("test")
    before = float(model.losses(batch).mean())
    quiet_trainer(max_steps=40, limit_val_batches=0).fit(model, datamodule=data)
    assert float(model.losses(batch).mean()) < 0.7 * before


@pytest.mark.parametrize("network", NETWORKS)
def test_series_do_not_see_one_another(network: str) -> None:
    model = _model(network).double()
    if network == "latent_ode":
        model.latent_ode.solver = TIGHT
    times, seen, x, at, *_ = _data().fixed("test")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    noise = torch.randn(len(x), 4).double()
    whole = model.losses((times, seen, x), noise)
    permuted = model.losses((times, seen[order], x[order]), noise[order])
    torch.testing.assert_close(whole[order], permuted, rtol=1e-6, atol=1e-6)
    alone = model.losses((times, seen[3:4], x[3:4]), noise[3:4])
    torch.testing.assert_close(whole[3:4], alone, rtol=1e-6, atol=1e-6)
    predicted = model.predict(times[seen], x, at)
    shuffled = model.predict(times[seen[order]], x[order], at)
    torch.testing.assert_close(predicted[order], shuffled, equal_nan=True, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_predictions_know_nothing_of_what_is_observed_later(network: str) -> None:
    if network == "latent_ode":
        pytest.skip("it smooths: z0 is inferred from the whole series")
    model = _model(network)
    times, seen, x, at, *_ = _data().fixed("test")
    changed = x.clone()
    changed[:, 8:] += 1.0
    before, after = (model.predict(times[seen], y, at) for y in (x, changed))
    known = at <= times[seen][:, 8:9]
    assert torch.equal(before[known].nan_to_num(), after[known].nan_to_num())
    assert not torch.equal(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("network", NETWORKS)
def test_one_ahead_is_what_is_predicted_at_the_next_observation(network: str) -> None:
    if network == "latent_ode":
        pytest.skip("it reconstructs")
    model = _model(network)
    times, seen, x, *_ = _data().fixed("test")
    series = Series(times, seen, x)
    expected = model.net.one_ahead(series)
    found = model.predict(times[seen], x, times)
    at_own = found[torch.arange(len(x)).unsqueeze(1), seen]
    torch.testing.assert_close(at_own[:, 1:], expected, rtol=1e-5, atol=1e-5)
    assert bool(at_own[:, 0].isnan().all())


def test_the_recognition_network_goes_backwards_and_is_told_the_gap_to_the_one_before() -> None:
    model = _model(start=-0.5)
    times, x = torch.tensor([0.1, 0.7, 0.9]), torch.randn(1, 3, 2)
    net = model.latent_ode
    h = torch.zeros(1, 25)
    for k, gap in ((2, 0.2), (1, 0.6), (0, 0.6)):
        u = torch.cat([x[:, k], torch.tensor([[gap]])], dim=1)
        h = torch.tanh(net.recognition.into(u) + net.recognition.memory(h))
    mean, log_variance = net.posterior_of(h).chunk(2, dim=1)
    found, std = model.encode(times, x)
    torch.testing.assert_close(found, mean)
    torch.testing.assert_close(std.log(), log_variance / 2)


def test_training_draws_z0_and_does_not_take_its_mean() -> None:
    model, batch = _model(), _data().fixed("test")
    written = SimpleNamespace(should_update_logs=True)
    model._trainer = SimpleNamespace(
        world_size=1, global_rank=0, global_step=3, _logger_connector=written
    )
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    loss = model.training_step(batch, 0)
    torch.testing.assert_close(loss, model.losses(batch, model._noise(20)).mean())
    assert not torch.isclose(loss, model.losses(batch).mean(), rtol=1e-6)


def test_where_nothing_was_observed_a_network_gets_what_its_name_says() -> None:
    times, x = torch.arange(6.0), torch.randn(1, 3, 2)
    series = Series(times, torch.tensor([[1, 2, 4]]), x)
    for network in ("rnn", "rnn_hold", "rnn_zero"):
        net = _model(network).net
        h, mean, held = torch.zeros(1, 25), net.out(torch.zeros(1, 25)), None
        means = []
        for k in range(9):
            means.append(mean)
            if k in (1, 2, 4):
                fed = held = x[:, (1, 2, 4).index(k)]
            elif k > 5 or network == "rnn":  # beyond the span all are fed their own mean
                fed = mean
            elif network == "rnn_zero":
                fed = torch.zeros(1, 2)
            else:
                fed = mean if held is None else held
            h = net.cell(fed, h)
            mean = net.out(h)
        found = net.predict(series, torch.arange(9.0))
        torch.testing.assert_close(found[2:], torch.stack(means)[2:])


def test_a_paced_network_goes_on_in_steps_of_the_mean_gap() -> None:
    times, seen, x, at, *_ = _data(points=7, future=12).fixed("test")  # a gap of 19/6 on average
    paced, stepping = _model("rnn_paced"), _model("rnn_gap")
    with torch.no_grad():
        found = paced.predict(times[seen], x, at)
        coarse = stepping.predict(times[seen], x, at[torch.tensor([22, 25, 28, 31])])
        fine = stepping.predict(times[seen], x, at)
    torch.testing.assert_close(found[:, [22, 25, 28, 31]], coarse)
    torch.testing.assert_close(found[:, 1:21], fine[:, 1:21], equal_nan=True)
    assert not torch.allclose(found[:, 21:], fine[:, 21:])


def test_a_float64_model_decodes_states_of_either_precision() -> None:
    model = _model(solver=SolverSettings(backend="native", rtol=1.5e-8, atol=1.5e-8)).double()
    at = torch.linspace(0, 2, 5)
    assert model.decode(torch.ones(3, 4), at).dtype == torch.float64
    assert model.predict(T, X, at).dtype == torch.float64
    with pytest.raises(ValueError, match=r"takes \(series, 4\)"):
        model.decode(torch.ones(3, 5), at)


def test_recurrent_networks_feed_back_their_own_mean_beyond_the_span() -> None:
    times, seen, x, at, *_ = _data().fixed("test")
    for network in ("rnn", "rnn_gap", "rnn_blind"):
        model = _model(network)
        with torch.no_grad():
            first = model.predict(times[seen], x, at[:21])[:, -1:]
            # Its own mean, given as if it had been observed, changes nothing that follows.
            longer = torch.cat([times[seen], at[20:21].expand(len(x), 1)], dim=1)
            given = model.predict(longer, torch.cat([x, first], dim=1), at[21:])
            expected = model.predict(times[seen], x, at)[:, 21:]
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_the_network_without_gaps_ignores_them_and_the_other_does_not() -> None:
    x = torch.randn(3, 5, 2)
    for gaps in (False, True):
        torch.manual_seed(0)
        net = ObservationRNN(2, 7, gaps)
        near, far = (
            net.one_ahead(Series.of(factor * torch.arange(5.0), x)) for factor in (1.0, 2.0)
        )
        assert torch.equal(near, far) is not gaps


def test_the_elbo_is_that_of_a_gaussian_computed_by_hand() -> None:
    mean, log_std = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.1, -0.4]])
    draws = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    q = torch.distributions.Normal(mean, log_std.exp())
    z = mean + log_std.exp() * draws
    sampled = (q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)).sum(1)
    found = float(divergence_from_unit(mean, log_std))
    assert found == pytest.approx(float(sampled.mean()), abs=0.01)
    assert float(divergence_from_unit(torch.zeros(1, 3), torch.zeros(1, 3))) == 0.0
    x, expected = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    by_scipy = -stats.norm.logpdf(x.numpy(), expected.numpy(), 0.3).sum(axis=(1, 2))
    nll = gaussian_nll(x, expected, torch.tensor(math.log(0.3)))
    torch.testing.assert_close(nll, torch.tensor(by_scipy).float(), rtol=1e-4, atol=1e-3)


def test_the_loss_of_a_latent_ode_is_its_negative_elbo() -> None:
    model, (times, seen, x, *_) = _model(noise_std=0.3), _data().fixed("test")
    noise = torch.randn(len(x), 4)
    mean, std = model.encode(times[seen], x)
    z0 = mean + std * noise
    decoded = model.decode(z0, times)[torch.arange(len(x)).unsqueeze(1), seen]
    likelihood = torch.distributions.Normal(decoded, 0.3).log_prob(x).sum(dim=(1, 2))
    prior = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), prior)
    expected = divergence.sum(dim=1) - likelihood
    torch.testing.assert_close(
        model.losses((times, seen, x), noise), expected, rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("noise_std", [0.1, None])
def test_the_gradient_reaches_every_parameter(network: str, noise_std: float | None) -> None:
    model = _model(network, noise_std=noise_std)
    model.losses(_data().fixed("test"), torch.randn(20, 4)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_written_out_gradient_of_the_field_is_that_of_autograd(
    layers: int, method: str
) -> None:
    torch.manual_seed(0)
    field = PerceptronField(4, 20, layers).double()
    y0, times = torch.randn(6, 4).double(), torch.linspace(0, 3, 25).double()
    weight = torch.randn(25, 6, 4).double()
    settings = SolverSettings(backend="native", method=method, rtol=1e-6, atol=1e-6)

    def gradients(f: Any) -> list[Tensor]:
        start = y0.clone().requires_grad_()
        loss = (odeint(f, start, times, settings).ys * weight).sum()
        return list(torch.autograd.grad(loss, [start, *field.parameters()]))

    plain = nn.Module.__call__.__get__(field)  # a function has no coefficients
    for a, b in zip(gradients(field), gradients(lambda t, y: plain(t, y)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gradient", ["adjoint", "checkpoint"])
def test_other_gradients_agree_with_the_direct_one(gradient: Any) -> None:
    batch, noise = _data().fixed("test"), torch.randn(20, 4).double()
    found = []
    for kind in ("direct", gradient):
        solver = SolverSettings(backend="native", rtol=1e-9, atol=1e-9, gradient=kind)
        model = _model(solver=solver).double()
        model.losses(batch, noise).mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    direct, other = found
    assert float((direct - other).norm()) < 1e-5 * float(direct.norm())


def test_a_known_linear_field_is_extrapolated_both_ways() -> None:
    model = _model(latent=2, solver=TIGHT).double()
    net = model.latent_ode
    rotation = torch.tensor([[-0.1, 1.0], [-1.0, -0.1]]).double()
    net.field = _Linear(rotation)
    z0, at = torch.randn(5, 2).double(), torch.linspace(-3, 6, 40).double()
    expected = torch.stack([z0 @ torch.matrix_exp(t * rotation) for t in at])
    torch.testing.assert_close(net.paths(z0, at), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.decode(z0, at), net.decoder(expected).transpose(0, 1))
    with_start = torch.tensor([-1.0, 0.0, 2.0]).double()
    torch.testing.assert_close(net.paths(z0, with_start)[1], z0)


class _Linear(nn.Module):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix


def test_series_with_times_of_their_own_are_solved_once_on_the_union() -> None:
    times = torch.tensor([[0.0, 1.0, 2.5], [0.5, 1.0, 3.0]])
    series = Series.of(times, torch.randn(2, 3, 2))
    assert series.times.tolist() == [0.0, 0.5, 1.0, 2.5, 3.0]
    assert series.seen.tolist() == [[0, 2, 3], [1, 2, 4]]
    assert torch.equal(series.own_times, times)


def test_series_observed_at_all_times_are_reconstructed_as_any_others() -> None:
    torch.manual_seed(0)
    model = TrajectoryModel("latent_ode")
    times, x = torch.linspace(0, 1, 6), torch.randn(3, 6, 2)
    whole = Series.of(times, x)
    # One more time, which no series has: the same paths, by way of the union.
    longer = whole._replace(times=torch.cat([times, torch.tensor([1.1])]))
    assert whole.whole
    assert not longer.whole
    z0 = torch.randn(3, 4)
    net = model.latent_ode
    torch.testing.assert_close(
        net.reconstruct(whole, z0), net.reconstruct(longer, z0), rtol=0, atol=1e-4
    )


def test_the_fields_elu_is_that_of_torch_to_the_rounding_of_one() -> None:
    x = torch.cat([torch.linspace(-100, 100, 4001), torch.tensor([-1e-8, 0.0, 1e-8, -1e-3])])
    for dtype, within in ((torch.float32, 1.2e-7), (torch.float64, 2.3e-16)):
        given = x.to(dtype)
        expected = nn.functional.elu(given)
        torch.testing.assert_close(elu(given), expected, rtol=0, atol=within)


def test_noise_depends_on_seed_and_update_and_is_shared_by_ranks() -> None:
    def drawn(rank: int, ranks: int, step: int, count: int, seed: int = 0) -> Tensor:
        torch.manual_seed(seed)
        model = TrajectoryModel()
        model._trainer = SimpleNamespace(world_size=ranks, global_rank=rank, global_step=step)
        found = model._noise(count)
        assert found is not None
        return found

    whole = drawn(0, 1, 5, 6)
    parts = torch.cat([drawn(rank, 2, 5, 3) for rank in range(2)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, drawn(0, 1, 6, 6))
    assert not torch.equal(whole, drawn(0, 1, 5, 6, seed=1))


def test_a_model_comes_back_from_its_checkpoint(tmp_path: Any) -> None:
    trainer, model, data = quiet_trainer(max_steps=2, limit_val_batches=0), _model(), _data()
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = TrajectoryModel.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    times, seen, x, at, *_ = data.fixed("test")
    assert torch.equal(loaded.predict(times[seen], x, at), model.predict(times[seen], x, at))


T, X = torch.arange(5.0), torch.zeros(3, 5, 2)


@pytest.mark.parametrize(
    ("times", "x", "message"),
    [
        (torch.tensor([0.0, 2.0, 1.0, 3.0, 4.0]), X, "increase strictly"),
        (torch.tensor([0.0, 1.0, 1.0, 3.0, 4.0]), X, "increase strictly"),
        (torch.tensor([0.0, math.nan, 2.0, 3.0, 4.0]), X, "times or observations are not finite"),
        (T, X * math.nan, "observations are not finite"),
        (T, X[:0], "at least one"),
        (T[:0], X[:, :0], "at least one"),
        (T[:4], X, "give"),
        (T, torch.zeros(3, 5, 3), "takes"),
        (T - 1, X, "before z0"),
    ],
)
def test_series_that_no_model_can_use_are_refused(times: Tensor, x: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _model().predict(times, x, torch.tensor([6.0]))


@pytest.mark.parametrize(
    ("times", "seen", "x", "message"),
    [
        (T, torch.tensor([[0, -1]]), X[:1, :2], "from 0 to 4"),
        (T, torch.tensor([[0, 7]]), X[:1, :2], "from 0 to 4"),
        (T, torch.tensor([[0.0, 1.0]]), X[:1, :2], "whole numbers"),
        (T, torch.tensor([0, 1]), X[:1, :2], r"seen \(2,\)"),
        (T, torch.tensor([[0, 1]]), X[:1], r"x \(1, 5, 2\)"),
        (T * math.inf, torch.tensor([[0, 1]]), X[:1, :2], "not finite"),
        (1e9 + T.double(), torch.tensor([[0, 1]]), X[:1, :2], "float64 model"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    times: Tensor, seen: Tensor, x: Tensor, message: str
) -> None:
    for network in ("latent_ode", "rnn", "rnn_gap"):
        with pytest.raises(ValueError, match=message):
            _model(network).losses((times, seen, x))


def test_errors_need_the_truth_and_a_time_beyond_the_span() -> None:
    batch = (T, torch.tensor([[0, 1]]), X[:1, :2])
    with pytest.raises(ValueError, match="has 3 parts"):
        _model().errors(batch)
    with pytest.raises(ValueError, match="behind the observed span"):
        _model().errors((*batch, T, torch.zeros(1, 5, 2)))


@pytest.mark.parametrize("at", [T.flip(0), T[:0], T * math.nan, T[None]])
def test_times_to_predict_at_must_be_in_order(at: Tensor) -> None:
    with pytest.raises(ValueError, match="strictly increasing"):
        _model().predict(T, X, at)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": "lstm"}, "Choose one of latent_ode"),
        ({"noise_std": 0.0}, "noise_std"),
        ({"start": math.nan}, "finite time"),
        ({"recurrent": 0}, "at least 1"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_model_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrajectoryModel(**given)


def test_only_a_latent_ode_has_a_latent_state() -> None:
    with pytest.raises(ValueError, match="no latent state"):
        _model("rnn").encode(T, X)


def test_a_gradient_that_is_not_finite_ends_the_training_with_advice() -> None:
    model, data = _model("rnn"), _data()
    with torch.no_grad():
        next(model.parameters())[0, 0] = math.nan
    with pytest.raises(Diverged, match="lr"):
        quiet_trainer(max_steps=2, limit_val_batches=0).fit(model, datamodule=data)


@pytest.mark.parametrize("network", [n for n in NETWORKS if n != "latent_ode"])
def test_a_recurrent_network_runs_under_autocast(network: str) -> None:
    model, batch = _model(network), _data().fixed("test")[:3]
    with torch.no_grad():
        expected = model.losses(batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = model.losses(batch)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.5)


def test_a_single_latent_state_is_decoded_as_many_are() -> None:
    net, z = _model().latent_ode, torch.randn(4)
    with torch.no_grad():
        torch.testing.assert_close(net.decoded(z), net.decoder(z))
