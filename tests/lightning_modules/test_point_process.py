"""Intensities of events: closed forms, the integral, gradients, invariances and faults."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import integrate, special
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from trainers import quiet_trainer

from datamodules import PoissonEvents
from lightning_modules import PointProcessModel
from lightning_modules.callbacks import Diverged
from lightning_modules.nets import Events, IntensityField
from lightning_modules.point_process import intensity_errors
from lightning_modules.solvers import SolverSettings

TIGHT = SolverSettings(backend="native", rtol=1e-10, atol=1e-10)
BACKENDS = [
    TIGHT,
    replace(TIGHT, gradient="adjoint"),
    replace(TIGHT, gradient="checkpoint"),
    replace(TIGHT, backend="torchdiffeq"),
    replace(TIGHT, backend="torchdiffeq", gradient="adjoint"),
    replace(TIGHT, backend="scipy", method="vode_adams", gradient="adjoint", adjoint_norm="rms"),
]
T = 5.0
SEQUENCES = [torch.tensor([0.5, 1.25, 4.0]), torch.tensor([]), torch.tensor([1.25, 3.0, 3.5, 4.9])]


def _model(solver: SolverSettings = TIGHT, **given: Any) -> PointProcessModel:
    torch.manual_seed(0)
    sizes = {"latent": 3, "units": 6, "decoder": 5, **given}
    return PointProcessModel(**sizes, solver=solver).double()


def _constant(rate: float) -> PointProcessModel:
    """Return a model whose intensity is the same at all times."""
    model = _model()
    with torch.no_grad():
        model.net.field.last.weight.zero_()
        model.net.field.last.bias.fill_(math.log(math.expm1(rate)))
    return model


def _sliding(a: float, b: float) -> PointProcessModel:
    """Return a model with λ(t) = softplus(a + b t): z = t and units that do not bend above 0."""
    model = _model(latent=1, units=1, decoder=1)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        field = model.net.field
        field.dynamics.layers[-1].bias.fill_(1.0)
        field.hidden.weight.fill_(1.0)
        field.last.weight.fill_(b)
        field.last.bias.fill_(a)
    return model


def _gradient(model: PointProcessModel) -> Tensor:
    model.log_likelihood(SEQUENCES, T).sum().backward()
    return parameters_to_vector(p.grad for p in model.parameters())


def test_a_constant_intensity_has_the_likelihood_written_by_hand() -> None:
    found = _constant(0.7).log_likelihood(SEQUENCES, T)
    expected = [3 * math.log(0.7) - 3.5, -3.5, 4 * math.log(0.7) - 3.5]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_an_intensity_that_rises_has_the_likelihood_of_its_closed_form() -> None:
    """∫ log(1 + e^u) du = -Li2(-e^u); SciPy's spence(1 + x) is Li2(-x)."""
    a, b = -1.0, 0.8
    integral = (special.spence(1 + math.exp(a)) - special.spence(1 + math.exp(a + b * T))) / b
    expected = [
        sum(math.log(math.log1p(math.exp(a + b * t))) for t in times.tolist()) - integral
        for times in SEQUENCES
    ]
    found = _sliding(a, b).log_likelihood(SEQUENCES, T)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("solver", BACKENDS, ids=lambda s: f"{s.backend}-{s.gradient}")
def test_the_integral_of_the_solve_is_that_of_the_intensity(solver: SolverSettings) -> None:
    model = _model(solver)
    dynamics = model.net.field.dynamics
    with torch.no_grad():
        path = integrate.solve_ivp(
            lambda t, z: dynamics(torch.tensor(t), torch.from_numpy(z)[None])[0].numpy(),
            (0.0, T), model.net.z0.numpy(), rtol=1e-11, atol=1e-11, dense_output=True,
        )  # fmt: skip

        def intensity(t: float) -> float:
            return float(model.net.log_intensity(torch.from_numpy(path.sol(t))[None]).exp())

        expected = [integrate.quad(intensity, 0, end, epsrel=1e-9)[0] for end in (2.0, T)]
        at = torch.tensor([0.0, 2.0, T])
        along = [intensity(float(t)) for t in at]
        counts, found = model.expected_count(at), model.intensity(at)
    torch.testing.assert_close(counts, counts.new_tensor([0.0, *expected]), rtol=1e-7, atol=0)
    torch.testing.assert_close(found, found.new_tensor(along), rtol=1e-7, atol=0)


def test_the_gradient_of_the_likelihood_is_that_of_finite_differences() -> None:
    """With steps that do not depend on the weights, which would move the error of the solve."""
    model = _model(SolverSettings(backend="native", method="rk4", step_size=0.1))
    gradient, draw = _gradient(model), torch.Generator().manual_seed(1)
    at = parameters_to_vector(model.parameters()).detach()
    for _ in range(3):
        along = torch.randn(at.shape, dtype=at.dtype, generator=draw)
        values = []
        for sign in (1, -1):
            vector_to_parameters(at + sign * 1e-5 * along, model.parameters())
            with torch.no_grad():
                values.append(float(model.log_likelihood(SEQUENCES, T).sum()))
        assert float(gradient @ along) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-7)


@pytest.mark.parametrize("solver", BACKENDS[1:], ids=lambda s: f"{s.backend}-{s.gradient}")
def test_every_gradient_of_the_likelihood_is_the_same(solver: SolverSettings) -> None:
    # ELU bends at 0: a solve at 1e-10 has a gradient that is known to about 1e-5.
    torch.testing.assert_close(_gradient(_model(solver)), _gradient(_model()), rtol=0, atol=2e-5)


def test_written_out_slopes_and_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    field = IntensityField(latent=3, units=6, layers=2, decoder=5).double()
    y = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    kappa = torch.randn(4, 4, dtype=torch.float64)
    expected = field(torch.tensor(0.0), y)
    c = tuple(part[0].detach().requires_grad_() for part in field.coefficients(torch.zeros(1)))
    out = torch.empty(4, 4, dtype=torch.float64)
    with torch.no_grad():
        note = field.slope(c, y, out)
        pulled = field.pull(c, y, note, kappa)
    torch.testing.assert_close(out, expected)
    wanted = torch.autograd.grad(expected, [y, *field.parameters()], kappa)
    found = [p.T if p.ndim == 2 else p for p in pulled[1:]]  # weights are transposed there
    names = [name for name, _ in field.named_parameters()]
    assert len(found) == len(names)
    torch.testing.assert_close([pulled[0], *found], list(wanted))


def test_sequences_in_another_order_have_the_same_likelihoods() -> None:
    model = _model()
    whole = model.log_likelihood(SEQUENCES, T)
    torch.testing.assert_close(model.log_likelihood(SEQUENCES[::-1], T), whole.flip(0))
    alone = torch.cat([model.log_likelihood([times], T) for times in SEQUENCES])
    torch.testing.assert_close(alone, whole)


def test_events_may_coincide_and_lie_on_both_ends_of_the_window() -> None:
    model = _model()
    found = model.log_likelihood([torch.tensor([0.0, 2.0, 2.0, T])], T)
    with torch.no_grad():
        logs = model.intensity(torch.tensor([0.0, 2.0, T])).log()
        expected = logs @ logs.new_tensor([1, 2, 1]) - model.expected_count(torch.tensor([T]))
    torch.testing.assert_close(found.detach(), expected)
    # What is apart in float64 may fall together in the model's own precision.
    near = torch.tensor([2.0, 2.0 + 1e-12], dtype=torch.float64)
    single = PointProcessModel(solver=replace(TIGHT, rtol=1e-5, atol=1e-5))
    assert math.isfinite(float(single.log_likelihood([near], T).detach()))


def test_an_intensity_next_to_nothing_has_a_finite_logarithm() -> None:
    model = _sliding(-2000.0, 0.0)
    found = model.log_likelihood([torch.tensor([1.0, 2.0])], T)
    assert float(found.detach()) == pytest.approx(-4000.0)
    found.sum().backward()
    assert float(model.net.field.last.bias.grad) == pytest.approx(2.0)


def test_a_model_trains_and_its_test_measures_what_it_says() -> None:
    data = PoissonEvents(batch_size=8, test_size=6, steps=25, data_seed=1)
    torch.manual_seed(0)
    model = PointProcessModel().double()

    def loss(purpose: str, count: int) -> float:
        with torch.no_grad():
            return -float(model.log_likelihood(data.sequences(purpose, count), 10.0).mean())

    before, trainer = loss("train", 8), quiet_trainer(max_steps=25)
    trainer.fit(model, datamodule=data)
    assert float(trainer.callback_metrics["val/loss"]) == pytest.approx(loss("val", 6))
    assert loss("train", 8) < before - 5

    found = trainer.test(model, datamodule=data, verbose=False)[0]
    sequences = data.sequences("test", 6)
    times, at = torch.cat(sequences), torch.linspace(0, 10, 4001).double()
    nll = 6 * loss("test", 6) / len(times)
    least = (6 * 30.0 - data.intensity(times).log().sum()) / len(times)
    with torch.no_grad():
        learned, truth = model.intensity(at), data.intensity(at)
        count = float(model.expected_count(at[-1:]))
    assert found["test/nll"] == pytest.approx(nll)
    assert found["test/nll_gap"] == pytest.approx(nll - float(least), rel=1e-5)
    assert found["test/count_error"] == pytest.approx(count / 30 - 1, rel=1e-5)
    error = integrate.simpson((learned - truth).abs().numpy(), x=at.numpy()) / 30
    assert found["test/intensity_error"] == pytest.approx(error, rel=1e-3)
    lost = truth * (truth / learned).log() - truth + learned
    assert found["test/kl"] == pytest.approx(
        integrate.simpson(lost.numpy(), x=at.numpy()) / 30, rel=1e-3
    )


def test_the_true_intensity_errs_by_nothing_and_twice_as_much_by_its_closed_form() -> None:
    at = torch.linspace(0, 3, 50)
    truth = 1 + at
    assert intensity_errors(at, truth, truth) == {"intensity_error": 0.0, "kl": 0.0}
    found = intensity_errors(at, 2 * truth, truth)
    assert found["intensity_error"] == pytest.approx(1.0)
    assert found["kl"] == pytest.approx(1 - math.log(2))


@pytest.mark.parametrize(
    ("sequences", "horizon", "message"),
    [
        ([torch.tensor([2.0, 1.0])], T, "sequence 0 are out of order. Sort"),
        ([torch.tensor([4.0]), torch.tensor([1.0, 3.0, 2.0])], T, "sequence 1 are out of order"),
        (
            [torch.tensor([1.0, 6.0])],
            T,
            r"1 of 2 events lie outside of the window \[0, 5\].* at 6",
        ),
        ([torch.tensor([-0.5])], T, "outside of the window"),
        ([torch.tensor([1.0, math.nan])], T, "not finite. Leave"),
        ([torch.tensor([1.0, math.inf])], T, "not finite. Leave"),
        ([torch.tensor([1.0])], 0.0, "window ends at 0.0"),
        ([torch.tensor([1.0])], math.inf, "window ends at inf"),
        ([torch.tensor([[1.0]])], T, "shapes"),
        ([], T, "at least one"),
    ],
)
def test_events_that_cannot_be_are_refused(
    sequences: list[Tensor], horizon: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _model().log_likelihood(sequences, horizon)


def test_lengths_that_do_not_add_up_are_refused() -> None:
    for lengths in ([1, 1], [4, -1], [[3]]):
        with pytest.raises(ValueError, match="add up"):
            Events(torch.arange(3.0), torch.tensor(lengths), torch.tensor(T)).checked()


def test_a_batch_without_an_event_is_refused_but_a_single_empty_sequence_is_not() -> None:
    nothing = (torch.tensor([]), torch.tensor([0, 0]), torch.tensor(T))
    with pytest.raises(ValueError, match="no event in 2 sequences"):
        _model().training_step(nothing, 0)
    model = _model()
    expected = -model.expected_count(torch.tensor([T]))
    torch.testing.assert_close(model.log_likelihood([torch.tensor([])], T), expected)


@pytest.mark.parametrize("times", [[1.0, 1.0], [2.0, 1.0], [-1.0, 1.0], [math.nan], []])
def test_times_that_cannot_be_asked_for_are_refused(times: list[float]) -> None:
    for method in (_model().intensity, _model().expected_count):
        with pytest.raises(ValueError, match=r"strictly increasing|at least 0"):
            method(torch.tensor(times))


@pytest.mark.parametrize("name", ["latent", "units", "layers", "decoder"])
def test_sizes_below_1_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PointProcessModel(**{name: 0})


def test_a_gradient_that_is_not_finite_ends_the_training() -> None:
    model = _model()
    model.net.z0.grad = torch.full_like(model.net.z0, math.nan)
    with pytest.raises(Diverged, match="not finite"):
        model.on_before_optimizer_step(torch.optim.SGD(model.parameters(), 0.1))
