import math
from collections.abc import Callable

import pytest
import torch
import torchdiffeq
from against_native import loss_of
from problems import Growth, Net
from torch import Tensor, nn

from lightning_modules.solvers import (
    SolverFailed,
    SolverSettings,
    collect_stats,
    odeint,
)
from lightning_modules.solvers.registry import backends

TIGHT = SolverSettings(rtol=1e-10, atol=1e-10)
TIGHT_ADJOINT = SolverSettings(rtol=1e-10, atol=1e-10, gradient="adjoint")
NORMS = ("per_tensor", "rms", "seminorm")


class Counting(nn.Module):
    """Counts evaluations of torchdiffeq's own adjoint."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.nfe = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        self.nfe += 1
        return self.net(t, y)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def y0() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(5, 2, dtype=torch.float64, requires_grad=True)


def gradients(
    net: nn.Module, y0: Tensor, times: Tensor, settings: SolverSettings
) -> tuple[Tensor, ...]:
    wanted = [y0, times, *(p for p in net.parameters() if p.requires_grad)]
    loss = loss_of(odeint(net, y0, times, settings).ys)
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return tuple(found)


def output_times(direction: int = 1) -> Tensor:
    times = torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=torch.float64) * direction
    return times.requires_grad_()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("direction", [1, -1])
def test_adjoint_gradients_equal_direct_ones(
    net: Net, y0: Tensor, direction: int, norm: str
) -> None:
    settings = SolverSettings(
        rtol=1e-10,
        atol=1e-10,
        gradient="adjoint",
        adjoint_norm=norm,  # type: ignore[arg-type]
    )
    times = output_times(direction)
    adjoint = gradients(net, y0, times, settings)
    torch.testing.assert_close(adjoint, gradients(net, y0, times, TIGHT), rtol=1e-6, atol=1e-7)


def test_time_gradients_equal_finite_differences(net: Net, y0: Tensor) -> None:
    times = output_times()
    (found,) = torch.autograd.grad(loss_of(odeint(net, y0, times, TIGHT_ADJOINT).ys), times)
    h = 1e-4
    for i in range(len(times)):
        shift = torch.zeros(len(times), dtype=torch.float64)
        shift[i] = h
        up, down = (
            float(loss_of(odeint(net, y0, times + sign * shift, TIGHT).ys).detach())
            for sign in (1, -1)
        )
        assert float(found[i]) == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-6)


def test_fixed_step_solves_have_time_gradients_in_both_modes(net: Net, y0: Tensor) -> None:
    direct = SolverSettings(method="rk4_38", step_size=0.02)
    adjoint = SolverSettings(method="rk4_38", step_size=0.02, gradient="adjoint")
    times = output_times()
    found = [gradients(net, y0, times, settings) for settings in (direct, adjoint)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_adjoint_of_linear_growth_is_its_closed_form(norm: str) -> None:
    theta, end, start = 0.7, 1.3, 0.9
    field = Growth(theta)
    z0 = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    times = torch.tensor([0.0, end], dtype=torch.float64, requires_grad=True)
    settings = SolverSettings(
        rtol=1e-10,
        atol=1e-10,
        gradient="adjoint",
        adjoint_norm=norm,  # type: ignore[arg-type]
    )
    odeint(field, z0, times, settings).ys[-1].backward()
    grown = math.exp(theta * end)
    assert z0.grad is not None
    assert times.grad is not None
    assert field.theta.grad is not None
    assert float(z0.grad) == pytest.approx(grown, rel=1e-8)
    assert float(field.theta.grad) == pytest.approx(end * start * grown, rel=1e-8)
    slope = theta * start * grown
    assert times.grad.tolist() == pytest.approx([-slope, slope], rel=1e-8)


def test_the_seminorm_costs_no_more_and_the_gradient_stays_right(y0: Tensor) -> None:
    torch.manual_seed(0)
    net, times = Net(width=32), torch.tensor([0.0, 3.0], dtype=torch.float64)
    cost, found = {}, {}
    for norm in NORMS:
        settings = SolverSettings(
            rtol=1e-6,
            atol=1e-6,
            gradient="adjoint",
            adjoint_norm=norm,  # type: ignore[arg-type]
        )
        solution = odeint(net, y0, times, settings)
        found[norm] = torch.autograd.grad(loss_of(solution.ys), [y0, net.first.weight])
        cost[norm] = solution.stats.nfe_backward
    exact = torch.autograd.grad(
        loss_of(odeint(net, y0, times, TIGHT_ADJOINT).ys), [y0, net.first.weight]
    )
    assert cost["seminorm"] <= cost["per_tensor"]
    for norm in NORMS:
        torch.testing.assert_close(list(found[norm]), list(exact), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["per_tensor", "seminorm"])
@pytest.mark.parametrize("autonomous", [True, False])
def test_torchdiffeqs_own_adjoint_agrees(
    net: Net, y0: Tensor, norm: str, autonomous: bool
) -> None:
    with torch.no_grad():
        net.first.weight[:, 0] *= not autonomous
    times = output_times().detach()
    settings = SolverSettings(gradient="adjoint", adjoint_norm=norm)  # type: ignore[arg-type]
    solution = odeint(net, y0, times, settings)
    ours = torch.autograd.grad(loss_of(solution.ys), [y0, net.second.weight])
    theirs_net = Counting(net)
    options = {"adjoint_options": {"norm": "seminorm"}} if norm == "seminorm" else {}
    ys = torchdiffeq.odeint_adjoint(
        theirs_net, y0, times, rtol=1e-3, atol=1e-3, method="dopri5", **options
    )
    forward_nfe = theirs_net.nfe
    loss = loss_of(ys)
    theirs = torch.autograd.grad(loss, [y0, net.second.weight])
    backward_nfe = theirs_net.nfe - forward_nfe
    assert solution.stats.nfe_forward == forward_nfe
    if autonomous:  # the same steps, so the same numbers
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert solution.stats.nfe_backward == backward_nfe
    else:  # torchdiffeq lets dL/dt into its error norm although nobody asked for it
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)
        assert solution.stats.nfe_backward <= backward_nfe


def test_tuple_states_have_adjoint_gradients(net: Net, y0: Tensor) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.net(t, state[0]), state[0].sum(dim=1, keepdim=True) * t

    field, mass = Pair(), torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    found = []
    for settings in (TIGHT, TIGHT_ADJOINT):
        z, m = odeint(field, (y0, mass), output_times(), settings).ys
        loss = (z[-1] * m[-1]).sum() + m[1].pow(2).sum()
        found.append(torch.autograd.grad(loss, [y0, mass, net.second.bias]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


def test_unused_parameters_get_zeros_and_frozen_ones_nothing(net: Net, y0: Tensor) -> None:
    loss_of(odeint(net, y0, output_times(), TIGHT_ADJOINT).ys).backward()
    assert net.unused.grad is not None
    assert net.unused.grad.tolist() == [0.0, 0.0]
    assert net.frozen.grad is None


@pytest.mark.parametrize(
    "field", [lambda t, y: -y, torch.nn.Tanh().forward, lambda t, y: torch.ones_like(y)]
)
def test_fields_without_parameters_work(field: Callable[..., Tensor], y0: Tensor) -> None:
    def plain(t: Tensor, y: Tensor) -> Tensor:
        return field(y) if field.__name__ == "forward" else field(t, y)

    found = [
        torch.autograd.grad(loss_of(odeint(plain, y0, output_times(), settings).ys), y0)
        for settings in (TIGHT, TIGHT_ADJOINT)
    ]
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-8)


def test_a_hidden_tensor_that_needs_a_gradient_is_refused(net: Net, y0: Tensor) -> None:
    with_lambda = odeint(lambda t, y: net(t, y), y0, output_times(), TIGHT_ADJOINT)
    with pytest.raises(RuntimeError, match="is no parameter of it"):
        loss_of(with_lambda.ys).backward()


def test_two_forwards_before_one_backward(net: Net, y0: Tensor) -> None:
    once = gradients(net, y0, output_times(), TIGHT_ADJOINT)
    times = output_times()
    wanted = [y0, times, *(p for p in net.parameters() if p.requires_grad)]
    first, second = (odeint(net, y0, times, TIGHT_ADJOINT) for _ in range(2))
    twice = torch.autograd.grad(loss_of(first.ys) + loss_of(second.ys), wanted)
    torch.testing.assert_close(twice, tuple(2 * g for g in once))
    assert first.stats == second.stats
    assert first.stats.nfe_backward > 0


@pytest.mark.parametrize("assign", [False, True])
def test_weights_loaded_between_two_calls_are_used(net: Net, y0: Tensor, assign: bool) -> None:
    gradients(net, y0, output_times(), TIGHT_ADJOINT)
    torch.manual_seed(5)
    other = Net()
    net.load_state_dict(other.state_dict(), assign=assign)
    torch.testing.assert_close(
        gradients(net, y0, output_times(), TIGHT_ADJOINT),
        gradients(other, y0, output_times(), TIGHT_ADJOINT),
    )


@pytest.mark.parametrize("assign", [False, True])
def test_weights_changed_before_backward_are_noticed(net: Net, y0: Tensor, assign: bool) -> None:
    loss = loss_of(odeint(net, y0, output_times(), TIGHT_ADJOINT).ys)
    net.load_state_dict(Net().state_dict(), assign=assign)
    with pytest.raises(RuntimeError, match="replaced" if assign else "modified by an inplace"):
        loss.backward()


def test_a_second_derivative_is_refused(net: Net, y0: Tensor) -> None:
    loss = loss_of(odeint(net, y0, output_times(), TIGHT_ADJOINT).ys)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(loss, y0, create_graph=True)


def test_a_failed_backward_solve_names_the_adjoint_tolerances(y0: Tensor) -> None:
    settings = SolverSettings(
        gradient="adjoint", max_steps=12, adjoint_rtol=1e-12, adjoint_atol=1e-12
    )
    with collect_stats() as gathered:
        ys = odeint(lambda t, y: -4 * y, y0, output_times(), settings).ys
    with pytest.raises(SolverFailed, match="adjoint_rtol and adjoint_atol") as caught:
        ys.sum().backward()
    assert caught.value.steps == 12
    assert gathered[0].steps_accepted_backward + gathered[0].steps_rejected_backward == 12


def test_autocast_is_the_same_in_both_passes() -> None:
    torch.manual_seed(0)
    seen = []

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            out = self.linear(y)
            seen.append(out.dtype)
            return out

    field, y = Field(), torch.randn(3, 4)
    times = torch.tensor([0.0, 1.0])
    settings = SolverSettings(method="rk4_38", gradient="adjoint")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = odeint(field, y, times, settings).ys[-1].sum()
    loss.backward()
    assert set(seen) == {torch.bfloat16}
    assert field.linear.weight.grad is not None
    assert field.linear.weight.grad.dtype == torch.float32
    assert float(field.linear.weight.grad.abs().max()) > 0


def test_evaluation_needs_no_graph(net: Net, y0: Tensor) -> None:
    with torch.no_grad():
        solution = odeint(net, y0, output_times(), TIGHT_ADJOINT)
    assert not solution.ys.requires_grad
    assert solution.stats.nfe_backward == 0


def test_every_backend_offers_the_adjoint() -> None:
    assert all("adjoint" in backend.gradients for backend in backends().values())
