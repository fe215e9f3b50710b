"""Factored fields: solution and gradient are those of the same field called as any other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from lightning_modules.nets import PerceptronField, TanhField
from lightning_modules.nets.point_process import IntensityField
from lightning_modules.solvers import (
    FactoredField,
    SolverSettings,
    collect_stats,
    is_factored,
    odeint,
)


class Waves(nn.Module):
    """dy/dt = tanh(a(t) y + b(t)) with a and b from a layer over t."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 6)
        self.asked: list[int] = []

    def coefficients(self, times: Tensor) -> tuple[Tensor, ...]:
        self.asked.append(len(times))
        return torch.sin(self.layer(times[:, None])).split(3, dim=-1)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        a, b = (part[0] for part in self.coefficients(t.view(1)))
        return torch.tanh(a * y + b)

    def slope(self, c: tuple[Tensor, ...], y: Tensor, out: Tensor) -> Tensor:
        a, b = c
        return torch.tanh(a * y + b, out=out).clone()

    def pull(
        self, c: tuple[Tensor, ...], y: Tensor, note: Tensor, kappa: Tensor
    ) -> tuple[Tensor, ...]:
        g = kappa * (1 - note**2)
        return g * c[0], (g * y).sum(0), g.sum(0)


class Opaque(nn.Module):
    """Hides what a field knows of itself."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.field(t, y)


def _field() -> Waves:
    torch.manual_seed(0)
    return Waves().double()


def _start() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, dtype=torch.float64, generator=generator).requires_grad_()


def _gradients(field: nn.Module, times: list[float], **given: Any) -> tuple[Tensor, list[Tensor]]:
    y0 = _start()
    settings = SolverSettings(**{"backend": "native", "rtol": 1e-6, "atol": 1e-6, **given})
    ys = odeint(field, y0, torch.tensor(times, dtype=torch.float64), settings).ys
    weights = torch.randn(ys.shape, dtype=ys.dtype, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((ys * weights).sum(), (y0, *field.parameters()))
    return ys.detach(), list(gradients)


def test_the_protocol_knows_its_fields() -> None:
    assert isinstance(_field(), FactoredField)
    assert not isinstance(Opaque(_field()), FactoredField)


@pytest.mark.parametrize("times", [[0.0, 2.0], [1.0, 0.3, 0.1, -1.0], [0.0, 0.5, 0.51, 3.0]])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "dopri8", "rk4", "euler", "heun"])
def test_solution_and_gradient_are_those_of_the_same_field_hidden(
    method: str, times: list[float]
) -> None:
    fixed = {"step_size": 0.2} if method in ("rk4", "euler", "heun") else {}
    ys, found = _gradients(_field(), times, method=method, **fixed)
    expected_ys, expected = _gradients(Opaque(_field()), times, method=method, **fixed)
    torch.testing.assert_close(ys, expected_ys, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_evaluations_are_counted_alike_and_coefficients_asked_once_a_step() -> None:
    field, counted = _field(), []
    for one in (field, Opaque(_field())):
        with collect_stats() as solves:
            _gradients(one, [0.0, 2.0])
        counted.append((solves[0].nfe_forward, solves[0].steps, solves[0].nfe_backward))
    assert counted[0] == counted[1]
    evaluations, steps, _ = counted[0]
    # The first slope and the probe of the first step size; every step; the whole of backward.
    assert field.asked[:2] == [1, 1]
    assert field.asked[2 : 2 + steps] == [6] * steps
    assert len(field.asked) == 3 + steps
    assert field.asked[-1] <= evaluations


def test_evaluation_without_gradients_gives_the_same_solution() -> None:
    settings, times = SolverSettings(backend="native"), torch.tensor([0.0, 1.0])
    field = _field()
    graph = odeint(field, _start(), times, settings).ys
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            found = odeint(field, _start(), times, settings).ys
        assert torch.equal(found, graph)
        assert not found.requires_grad


def test_frozen_parameters_get_nothing_and_the_state_its_gradient() -> None:
    field, y0 = _field().requires_grad_(False), _start()
    odeint(
        field, y0, torch.tensor([0.0, 1.0]), SolverSettings(backend="native")
    ).ys.sum().backward()
    assert y0.grad is not None
    assert all(p.grad is None for p in field.parameters())


def test_output_times_that_want_a_gradient_get_it() -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    field, y0 = _field(), _start()
    ys = odeint(field, y0, times, SolverSettings(backend="native", rtol=1e-9, atol=1e-9)).ys
    ys[-1].sum().backward()
    assert times.grad is not None
    assert float(times.grad[1]) == pytest.approx(float(field(times[1], ys[-1]).sum()), rel=1e-5)


def test_weights_changed_before_backward_are_noticed() -> None:
    field, y0 = _field(), _start()
    ys = odeint(field, y0, torch.tensor([0.0, 1.0]), SolverSettings(backend="native")).ys
    with torch.no_grad():
        field.layer.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ys.sum().backward()


def test_two_forwards_before_one_backward() -> None:
    field, times, settings = _field(), torch.tensor([0.0, 1.0]), SolverSettings(backend="native")
    first, second = (odeint(field, _start() * k, times, settings).ys for k in (1.0, 2.0))
    (first.sum() + second.sum()).backward()
    both = field.layer.weight.grad
    assert both is not None
    apart = torch.zeros_like(both)
    for k in (1.0, 2.0):
        ys = odeint(field, _start() * k, times, settings).ys
        apart += torch.autograd.grad(ys.sum(), field.layer.weight)[0]
    torch.testing.assert_close(both, apart)


def test_a_norm_of_the_callers_rules_the_steps() -> None:
    settings, times = SolverSettings(backend="native"), torch.tensor([0.0, 1.0])
    steps = [
        odeint(_field(), _start(), times, settings, norm).stats.steps
        for norm in (None, lambda error: 1e4 * error.abs().max())
    ]
    assert steps[1] > steps[0]
    with pytest.raises(ValueError, match="norm= was given to backend 'native' with a tuple"):
        odeint(lambda t, y: y, (_start(),), times, settings, norm=lambda e: e.max())
    adjoint = SolverSettings(backend="scipy", method="vode_adams", gradient="adjoint",
                             adjoint_norm="rms")  # fmt: skip
    with pytest.raises(ValueError, match="norm= was given to backend 'scipy'"):
        odeint(lambda t, y: y, _start(), times, adjoint, norm=lambda e: e.max())


class Twice(TanhField):
    """A field whose ``forward`` is newer than its parts."""

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return 2 * super().forward(t, y)


class Cautious(nn.Linear):
    """A layer that does more than its weights say."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-0.1, 0.1)


def _hooked() -> nn.Module:
    field = TanhField(dim=2, hidden=5)
    field.register_forward_hook(lambda module, given, out: 3 * out)
    return field


def _cautious() -> nn.Module:
    field = TanhField(dim=2, hidden=5)
    field.first = Cautious(2, 5)
    return field


def _pruned() -> nn.Module:
    field = TanhField(dim=2, hidden=5)
    prune.random_unstructured(field.first, "weight", 0.5)
    return field


def _patched() -> nn.Module:
    field = TanhField(dim=2, hidden=5)
    field.forward = lambda t, y: -y  # type: ignore[method-assign]
    return field


def _patched_within() -> nn.Module:
    field = IntensityField(latent=2, units=4, layers=1, decoder=3)
    field.dynamics.forward = lambda t, y: -y  # type: ignore[method-assign]
    return field


def _within() -> nn.Module:
    class Damped(PerceptronField):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return super().forward(t, y) - y

    field = IntensityField(latent=2, units=4, layers=1, decoder=3)
    field.dynamics = Damped(2, 4)
    return field


@pytest.mark.parametrize(
    "build",
    [
        lambda: Twice(dim=2, hidden=5),
        _hooked,
        _cautious,
        _pruned,
        _patched,
        _within,
        _patched_within,
    ],
    ids=["subclass", "hook", "layer", "pruned", "patched", "within", "patched within"],
)
@pytest.mark.parametrize("graph", [True, False])
def test_what_calling_a_field_does_goes_before_what_its_parts_say(
    build: Callable[[], nn.Module], graph: bool
) -> None:
    torch.manual_seed(0)
    field = build().double()
    numbers = 3 if isinstance(field, IntensityField) else 2
    y0 = torch.linspace(-1, 1, 4 * numbers, dtype=torch.float64).view(4, numbers)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    settings = SolverSettings(backend="native", rtol=1e-6, atol=1e-6)
    with torch.set_grad_enabled(graph):
        ys, wanted = (odeint(f, y0, times, settings).ys for f in (field, Opaque(field)))
    torch.testing.assert_close(ys, wanted, rtol=0, atol=0)
    if graph and wanted.requires_grad:
        found, expected = (
            torch.autograd.grad(
                states.square().sum(),
                list(field.parameters()),
                allow_unused=True,
                materialize_grads=True,
            )
            for states in (ys, wanted)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_parametrized_layer_of_a_factored_field_is_differentiated_through() -> None:
    torch.manual_seed(0)
    field = PerceptronField(2, 4).double()
    parametrizations.weight_norm(field.layers[0])
    y0 = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    settings = SolverSettings(backend="native", rtol=1e-6, atol=1e-6)
    found, wanted = (
        torch.autograd.grad(odeint(f, y0, times, settings).ys.square().sum(), field.parameters())
        for f in (field, Opaque(field))
    )
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (2, 4), (3, 4, 2), (2, 1, 1, 2)])
@pytest.mark.parametrize("kind", [PerceptronField, TanhField])
def test_a_field_of_rows_takes_states_of_any_shape(
    kind: Callable[[int, int], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    field = kind(2, 4).double()
    y0 = torch.randn(shape, dtype=torch.float64)
    if shape[-1] != 2:
        y0 = y0.T  # rows that lie in memory as columns do
    times = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    settings = SolverSettings(backend="native", rtol=1e-6, atol=1e-6)
    both = []
    for f in (field, Opaque(field)):
        start = y0.clone().requires_grad_()
        ys = odeint(f, start, times, settings).ys
        wanted = (start, *field.parameters())
        both.append((ys, *torch.autograd.grad(ys.sin().sum(), wanted)))
    torch.testing.assert_close(*both)


class Lending(Waves):
    """Returns the solver's own memory, as is natural where it holds what is needed."""

    def slope(self, c: tuple[Tensor, ...], y: Tensor, out: Tensor) -> Tensor:
        a, b = c
        return torch.tanh(a * y + b, out=out)


class Passing(nn.Module):
    """dy/dt = y W + c(t), whose cotangent of c is the one that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.layer = nn.Parameter(torch.eye(3) / 2), nn.Linear(1, 12)

    def coefficients(self, times: Tensor) -> tuple[Tensor, ...]:
        return self.w.expand(len(times), 3, 3), self.layer(times[:, None]).view(-1, 4, 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        w, c = (part[0] for part in self.coefficients(t.view(1)))
        return y @ w + c

    def slope(self, c: tuple[Tensor, ...], y: Tensor, out: Tensor) -> None:
        torch.add(y @ c[0], c[1], out=out)

    def pull(
        self, c: tuple[Tensor, ...], y: Tensor, note: None, kappa: Tensor
    ) -> tuple[Tensor, ...]:
        return kappa @ c[0].T, y.T @ kappa, kappa


@pytest.mark.parametrize("build", [Lending, Passing])
def test_memory_that_a_field_hands_back_to_the_solver_is_not_overwritten(
    build: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    field = build().double()
    y0 = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)
    times = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    settings = SolverSettings(backend="native", rtol=1e-6, atol=1e-6)
    found, wanted = (
        torch.autograd.grad(odeint(f, y0, times, settings).ys.square().sum(), field.parameters())
        for f in (field, Opaque(field))
    )
    torch.testing.assert_close(found, wanted)


def test_a_module_that_happens_to_have_a_slope_is_no_part() -> None:
    class Leaky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.where(x > 0, x, self.slope * x)

    field = Waves()
    field.layer = nn.Sequential(nn.Linear(1, 6), Leaky())  # type: ignore[assignment]
    assert is_factored(field)
    assert not is_factored(Leaky())
    assert not is_factored(lambda t, y: y)


def _loss(field: nn.Module) -> Tensor:
    y0 = torch.linspace(-1, 1, 8).view(4, 2)
    settings = SolverSettings(backend="native", rtol=1e-4, atol=1e-4)
    return odeint(field, y0, torch.tensor([0.0, 1.0]), settings).ys.sum()


def test_what_the_parts_read_must_not_change_before_backward() -> None:
    field = TanhField(dim=2, hidden=5)
    loss = _loss(field)
    field.power = 2
    with pytest.raises(RuntimeError, match="'power' was changed between forward and backward"):
        loss.backward()


def test_weights_of_parts_that_are_cached_without_a_graph_are_refused() -> None:
    field = TanhField(dim=2, hidden=5)
    parametrizations.weight_norm(field.first)
    with parametrize.cached(), pytest.raises(RuntimeError, match="no graph by then"):
        _loss(field).backward()


def test_a_hook_of_a_parameter_sees_the_whole_gradient_once() -> None:
    field, seen = TanhField(dim=2, hidden=5), []
    _loss(field).backward()
    wanted = field.first.weight.grad
    field.zero_grad()
    field.first.weight.register_hook(lambda g: seen.append(g))
    _loss(field).backward()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], wanted)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_frozen_parts_beside_a_parameter_that_is_unused_have_no_gradient(gradient: str) -> None:
    field = TanhField(dim=2, hidden=5).requires_grad_(False)
    field.unused = torch.nn.Parameter(torch.ones(2))
    y0 = torch.ones(3, 2, requires_grad=True)
    settings = SolverSettings(backend="native", gradient=gradient)  # type: ignore[arg-type]
    odeint(field, y0, torch.tensor([0.0, 1.0]), settings).ys.sum().backward()
    assert y0.grad is not None
    assert field.unused.grad is None or not field.unused.grad.any()
