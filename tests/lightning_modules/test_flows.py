"""Flows: inverse, volume and gradient of every kind, by closed forms and automatic derivatives."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from lightning_modules.nets import (
    ContinuousFlow,
    Flow,
    NotInvertible,
    PlanarField,
    PlanarFlow,
    TimeMLP,
    TracedField,
    find_energy,
    log_normaliser,
)
from lightning_modules.nets.planar_flow import _preimage
from lightning_modules.solvers import SolverSettings

SEEDS = [3, 4]
TIGHT = SolverSettings(backend="native", rtol=1e-9, atol=1e-9)


def _louder(module: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    return module.double()


def _planar(generates: bool) -> Flow:
    flow = PlanarFlow(2, 6, SEEDS, generates=generates)
    with torch.no_grad():
        flow.u.add_(torch.randn(flow.u.shape, generator=torch.Generator().manual_seed(0)))
    return flow.double()


def _continuous(solver: SolverSettings = TIGHT) -> Flow:
    field = _louder(PlanarField(2, 5, 8, SEEDS), 2.0)
    return ContinuousFlow(field, 2, len(SEEDS), 1.5, solver)


def _free_form(trace: str = "exact") -> Flow:
    torch.manual_seed(0)
    field = TracedField(_louder(TimeMLP(2, 8, 2), 2.0), trace)
    return ContinuousFlow(field, 2, 1, 1.0, TIGHT)


FLOWS: dict[str, Callable[[], Flow]] = {
    "planar_from_base": lambda: _planar(True),
    "planar_from_data": lambda: _planar(False),
    "continuous": _continuous,
    "free_form": _free_form,
}


@pytest.fixture(params=FLOWS)
def flow(request: pytest.FixtureRequest) -> Flow:
    return FLOWS[request.param]()


def _points(flow: Flow, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(flow.members, flow.dim, count, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("part", [0.3, 1.0])
def test_pulling_undoes_pushing_and_its_volume(flow: Flow, part: float) -> None:
    z = _points(flow)
    x, volume = flow.push(z, part)
    back, of_back = flow.pull(x, part)
    torch.testing.assert_close(back, z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of_back, -volume, rtol=1e-6, atol=1e-6)
    assert float((x - z).abs().max()) > 0.1


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_the_volume_is_that_of_the_jacobian(flow: Flow, direction: str) -> None:
    points, apply = _points(flow), getattr(flow, direction)
    jacobian = torch.autograd.functional.jacobian(lambda v: apply(v)[0].sum(dim=2), points)
    for member in range(flow.members):
        matrices = jacobian[member, :, member].permute(2, 0, 1)
        expected = torch.linalg.slogdet(matrices).logabsdet
        torch.testing.assert_close(apply(points)[1][member], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_gradients_reach_points_and_every_parameter(flow: Flow, direction: str) -> None:
    names, parameters = zip(*flow.named_parameters(), strict=True)
    apply = getattr(flow, direction)

    def loss(points: Tensor, *values: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
        x, volume = apply(points)
        return x.sin().sum() + (volume * volume).sum()

    points = _points(flow, 3).requires_grad_()
    at = [p.detach().clone() for p in parameters]
    gradients = torch.autograd.grad(loss(points, *at), (points, *parameters))
    for k, gradient in enumerate(gradients):
        along = torch.randn(gradient.shape, dtype=torch.float64,
                            generator=torch.Generator().manual_seed(k))  # fmt: skip
        moved = [[points.detach(), *at] for _ in range(2)]
        for sign, values in zip((1, -1), moved, strict=True):
            values[k] = values[k] + sign * 1e-5 * along
        difference = (loss(*moved[0]) - loss(*moved[1])).detach() / 2e-5
        name = "points" if k == 0 else names[k - 1]
        assert float((gradient * along).sum()) == pytest.approx(float(difference), rel=1e-4), name


def test_members_do_not_see_each_other() -> None:
    for build in (lambda s: PlanarFlow(2, 4, s, generates=True).double(),
                  lambda s: ContinuousFlow(PlanarField(2, 5, 8, s).double(), 2, len(s), 1.0, TIGHT)):  # noqa: E501  # fmt: skip
        both, first, second = build([3, 4]), build([3]), build([4])
        z = _points(both)
        x, volume = both.push(z)
        for k, alone in enumerate((first, second)):
            expected, of_expected = alone.push(z[k : k + 1])
            torch.testing.assert_close(x[k], expected[0], rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(volume[k], of_expected[0], rtol=1e-7, atol=1e-7)


def test_a_traced_field_is_the_same_with_the_tanh_that_a_compiler_does_well() -> None:
    field = PlanarField(2, 5, 8, SEEDS)
    t, y = torch.tensor(0.3), torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    graph = make_fx(field, tracing_mode="fake", _allow_non_fake_inputs=True)(t, y)
    found = [node.target for node in graph.graph.nodes]
    assert found.count(torch.ops.aten.tanh.default) == 3  # twice in the hypernetwork
    assert found.count(torch.ops.aten.sigmoid.default) == 1  # its gate
    torch.testing.assert_close(graph(t, y), field(t, y))


def test_the_worst_member_rules_the_steps() -> None:
    flow = _continuous()
    assert isinstance(flow, ContinuousFlow)
    error = torch.zeros(2, 3, 7, dtype=torch.float64)
    error[1, 2] = 5.0
    assert float(flow.worst_member(error)) == 5.0
    error[0, :2] = 6.0
    assert float(flow.worst_member(error)) == 6.0


@pytest.mark.parametrize("backend", ["native", "torchdiffeq"])
@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_every_backend_solves_the_planar_field(backend: str, gradient: str) -> None:
    reference, z = _continuous(), _points(_continuous())
    settings = SolverSettings(backend=backend, rtol=1e-9, atol=1e-9, gradient=gradient)  # type: ignore[arg-type]
    flow = _continuous(settings)
    found = []
    for one in (reference, flow):
        x, volume = one.push(z)
        found.append(torch.autograd.grad(x.sum() + volume.sum(), list(one.parameters())))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_a_root_that_is_not_found_says_so() -> None:
    slope, b = torch.full((1, 1, 1), -0.5), torch.zeros(1, 1, 1)
    with pytest.raises(NotInvertible, match="train with a lower rate"):
        _preimage(torch.full((1, 1, 1), math.nan), slope, b)


def test_a_root_has_the_derivatives_of_the_implicit_function_first_and_second() -> None:
    draw = torch.Generator().manual_seed(1)
    s, b = (torch.randn(2, 1, n, dtype=torch.float64, generator=draw) for n in (5, 1))
    slope = torch.tensor([-0.9, 2.0], dtype=torch.float64).view(2, 1, 1)
    inputs = [tensor.requires_grad_() for tensor in (s, slope, b)]
    assert torch.autograd.gradcheck(_preimage, inputs)
    assert torch.autograd.gradgradcheck(_preimage, inputs)


@pytest.mark.parametrize("generates", [True, False])
def test_layers_that_are_applied_refuse_a_second_derivative(generates: bool) -> None:
    flow = _planar(generates)
    z = _points(flow).requires_grad_()
    forwards = flow.push if generates else flow.pull
    with pytest.raises(RuntimeError, match="Invert them instead"):
        torch.autograd.grad(forwards(z)[1].sum(), z, create_graph=True)


def test_no_weights_lead_beyond_what_is_invertible() -> None:
    flow = PlanarFlow(2, 500, [0], generates=True)
    with torch.no_grad():
        flow.u.copy_(-20 * flow.w)  # as far down as m goes
    u, slope = flow.constrained()
    assert bool((slope > -1).all())
    _, volume = flow.push(3 * torch.randn(1, 2, 1000, generator=torch.Generator().manual_seed(0)))
    assert bool(torch.isfinite(volume).all())
    torch.testing.assert_close((flow.w * u).sum(-1, keepdim=True), slope, rtol=0, atol=1e-4)


@pytest.mark.parametrize("height", [-0.99, 3.0, 700.0])
def test_the_root_is_found_from_both_sides_of_a_steep_tanh(height: float) -> None:
    s = torch.linspace(-900, 900, 1801, dtype=torch.float64).view(1, 1, -1)
    slope, b = (torch.full((1, 1, 1), v, dtype=torch.float64) for v in (height, 20.0))
    root = _preimage(s, slope, b)
    torch.testing.assert_close(root + slope * torch.tanh(root + b), s, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("layers", [32, 963, 1702])
def test_planar_flows_begin_near_the_identity_however_deep(layers: int) -> None:
    flow = PlanarFlow(2, layers, [0, 1, 2], generates=True)
    z = torch.randn(3, 2, 2000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x, _ = flow.push(z)
    assert float(x.std()) < 2
    assert float((x.abs() > 4).any(dim=1).float().mean()) < 0.05


def test_the_root_is_found_at_the_edge_of_what_is_invertible() -> None:
    s = torch.linspace(-20, 20, 401, dtype=torch.float64).view(1, 1, -1)
    slope = torch.full((1, 1, 1), -1 + 1e-9, dtype=torch.float64)
    root = _preimage(s, slope, torch.zeros(1, 1, 1, dtype=torch.float64))
    torch.testing.assert_close(root + slope * torch.tanh(root), s, rtol=1e-12, atol=1e-12)


def test_points_that_do_not_fit_are_refused(flow: Flow) -> None:
    with pytest.raises(ValueError, match="this flow takes"):
        flow.push(torch.zeros(flow.members, 3, 4, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_hutchinsons_noise_is_fixed_within_a_solve_and_new_in_the_next(kind: str) -> None:
    flow = _free_form(kind)
    z = _points(flow)
    field = flow.field
    assert isinstance(field, TracedField)
    field.begin(torch.cat([z, z[:, :1]], dim=1))
    t, y = torch.tensor(0.2, dtype=torch.float64), torch.cat([z, z[:, :1]], dim=1)
    first = field(t, y)
    assert torch.equal(first, field(t, y))
    field.begin(y)
    assert not torch.equal(first, field(t, y))
    if kind == "rademacher":
        assert set(field.noise.flatten().tolist()) <= {-1.0, 1.0}


@pytest.mark.parametrize("trace", ["exact", "rademacher"])
def test_traces_are_found_in_inference_mode(trace: str) -> None:
    flow = _free_form(trace)
    torch.manual_seed(5)
    expected = flow.push(_points(flow))[1]
    with torch.inference_mode():
        torch.manual_seed(5)
        found = flow.push(_points(flow))[1]
    assert not found.requires_grad
    torch.testing.assert_close(found, expected.detach(), rtol=1e-7, atol=1e-7)


def test_normalisers_on_the_box_are_those_of_the_fact_sheet() -> None:
    expected = {"u1": 1.877502, "u2": 2.082089, "u3": 2.641705, "u4": 2.684568}
    assert {n: log_normaliser(n) for n in expected} == pytest.approx(expected, abs=1e-6)


def _unfinished(z: Tensor) -> Tensor:
    return torch.where(z[..., 0] > 1, math.nan, 0.0)


def test_targets_of_ones_own_are_named_and_checked() -> None:
    with pytest.raises(ValueError, match=r"Unknown target 'u9'. Choose one of u1, u2, u3, u4"):
        find_energy("u9")
    with pytest.raises(ValueError, match=r"returned nan at \["):
        find_energy(f"{__name__}:_unfinished")
