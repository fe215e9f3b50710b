"""The native backend's three gradients: exact, equal to each other, and to torchdiffeq's."""

import math
from collections.abc import Callable

import against_native
import pytest
import torch
from against_native import FIXED, loss_of, start
from problems import PROBLEMS, Growth, Net, Problem
from torch import Tensor, nn

from lightning_modules.solvers import (
    Backend,
    SolverFailed,
    SolverSettings,
    collect_stats,
    gradient_table,
    odeint,
)
from lightning_modules.solvers.native_backend import methods
from lightning_modules.solvers.torchdiffeq_backend import solve as torchdiffeq_solve

GRADIENTS = gradient_table()["native"]
GRIDS = ([0.0, 1.0], [0.0, 0.3, 0.8, 1.0], [1.0, 0.2, -0.5], [i / 20 for i in range(21)])


def native(method: str = "dopri5", **changes: object) -> SolverSettings:
    if method in FIXED:
        changes.setdefault("step_size", 0.1)
    return SolverSettings(backend="native", method=method, **changes)  # type: ignore[arg-type]


def gradients(net: nn.Module, grid: list[float], settings: SolverSettings) -> tuple[Tensor, ...]:
    times = torch.tensor(grid, dtype=torch.float64)
    _, *found = against_native.gradients(net, start(), settings, times)[0]
    return tuple(found)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{len(grid)}_times")
@pytest.mark.parametrize("method", methods())
def test_checkpoint_equals_direct_to_rounding(method: str, grid: list[float]) -> None:
    net = Net()
    found = [gradients(net, grid, native(method, gradient=g)) for g in ("direct", "checkpoint")]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", methods())
def test_the_adjoint_tends_to_the_direct_gradient(method: str) -> None:
    net = Net()
    fine = {"step_size": 0.002} if method in FIXED else {"rtol": 1e-9, "atol": 1e-9}
    found = [
        gradients(net, [0.0, 0.3, 1.0], native(method, gradient=g, **fine))
        for g in ("direct", "adjoint")
    ]
    tolerance = 2e-2 if method == "euler" else 1e-5
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("method", methods())
def test_gradients_of_linear_growth_are_their_closed_form(method: str, gradient: str) -> None:
    theta, end, z = 0.7, 1.3, 0.9
    field = Growth(theta)
    z0 = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    tight = {"rtol": 1e-10, "atol": 1e-10, "step_size": 0.01 if method in FIXED else None}
    settings = native(method, gradient=gradient, **tight)
    odeint(field, z0, torch.tensor([0.0, end]).double(), settings).ys[-1].backward()
    grown = math.exp(theta * float(torch.tensor(end)))
    rel = {"euler": 2e-2, "midpoint": 1e-4, "heun": 1e-4}.get(method, 1e-7)
    assert z0.grad is not None
    assert field.theta.grad is not None
    assert float(z0.grad) == pytest.approx(grown, rel=rel)
    assert float(field.theta.grad) == pytest.approx(end * z * grown, rel=rel)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_gradients_follow_closed_forms(problem: Problem, direction: int, gradient: str) -> None:
    """The gradient by y0 is that of the solution: finite differences of another tight solve."""
    settings = native(rtol=1e-10, atol=1e-10, gradient=gradient)
    y0, times = problem.y0.clone().requires_grad_(), problem.times(2, direction)
    (found,) = torch.autograd.grad(odeint(problem.field, y0, times, settings).ys[-1].sum(), y0)
    h, step = 1e-4, torch.randn(y0.shape, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        tight = native("dopri8", rtol=1e-12, atol=1e-12)
        up, down = (
            odeint(problem.field, problem.y0 + s * h * step, times, tight).ys[-1].sum()
            for s in (1, -1)
        )
    assert float((found * step).sum()) == pytest.approx(float(up - down) / (2 * h), rel=1e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{len(grid)}_times")
@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4_38", "heun", "midpoint", "euler"])
def test_gradients_are_those_of_torchdiffeq(method: str, gradient: str, grid: list[float]) -> None:
    """With the norm detached, torchdiffeq's direct gradient takes its steps as constants too."""
    net = Net()
    ours = native(method, gradient=gradient)
    theirs = SolverSettings(method=method, step_size=ours.step_size)
    torch.testing.assert_close(
        gradients(net, grid, ours), gradients(net, grid, theirs), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_float32_gradients_are_those_of_torchdiffeq_nearly(gradient: str) -> None:
    net, times = Net().float(), torch.tensor([0.0, 0.5, 1.0])
    found = []
    for settings in (native(gradient=gradient), SolverSettings()):
        y0 = start().detach().float().requires_grad_()
        loss = loss_of(odeint(net, y0, times, settings).ys)
        grads = torch.autograd.grad(loss, [y0, net.first.weight, net.second.bias])
        found.append(torch.cat([grad.flatten() for grad in grads]))
    assert float((found[0] - found[1]).norm()) < 1e-4 * float(found[1].norm())


@pytest.mark.parametrize("method", methods())
def test_direct_gradients_reach_the_output_times(method: str) -> None:
    net, h = Net(), 1e-5
    settings = native(method)

    def loss_at(times: Tensor) -> Tensor:
        return loss_of(odeint(net, start().detach(), times, settings).ys)

    times = torch.tensor([0.0, 0.33, 0.87], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss_at(times), times)
    tight = native("dopri8", rtol=1e-12, atol=1e-12)
    for i in range(3):
        up, down = (
            loss_of(odeint(net, start().detach(), times.detach() + s * shift, tight).ys).detach()
            for shift in (h * torch.eye(3, dtype=torch.float64)[i],)
            for s in (1, -1)
        )
        exact = float(up - down) / (2 * h)
        assert float(found[i]) == pytest.approx(
            exact, rel=0.1 if method == "euler" else 2e-2, abs=0.3
        )


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "dopri8"])
def test_direct_and_adjoint_agree_on_the_output_times(method: str) -> None:
    net, found = Net(), []
    for gradient in ("direct", "adjoint"):
        times = torch.tensor([0.0, 0.33, 0.87], dtype=torch.float64, requires_grad=True)
        settings = native(method, rtol=1e-10, atol=1e-10, gradient=gradient)
        loss = loss_of(odeint(net, start().detach(), times, settings).ys)
        found += torch.autograd.grad(loss, times)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


def test_checkpoint_refuses_times_that_want_a_gradient() -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    settings = native(gradient="checkpoint")
    with pytest.raises(ValueError, match="Detach it, or use gradient='adjoint' or 'direct'"):
        odeint(Net(), start(), times, settings)
    with torch.no_grad():
        odeint(Net(), start(), times, settings)


@pytest.mark.parametrize("method", methods())
def test_the_replay_evaluates_no_stage_twice(method: str) -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    solution = odeint(Net(), start(), times, native(method, gradient="checkpoint"))
    stats = solution.stats
    assert stats.nfe_backward == 0
    solution.ys[-1].sum().backward()
    per_step = {"euler": 1, "midpoint": 2, "heun": 2, "bosh3": 3, "dopri8": 13}
    expected = per_step.get(method, 4 if method in FIXED else 6) * stats.steps_accepted
    # The last step of dopri5 ends behind the last time, and the interpolant reads its end.
    assert stats.nfe_backward == expected + (method == "dopri5")
    assert (stats.steps_accepted_backward, stats.steps_rejected_backward) == (0, 0)


def test_checkpoint_keeps_nothing_but_the_accepted_states() -> None:
    saved: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    net, times = Net(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        stats = odeint(net, start(), times, native("rk4", gradient="checkpoint")).stats
    parameters = [tuple(p.shape) for p in net.parameters() if p.requires_grad]
    assert saved == [(10,)] * stats.steps_accepted + parameters


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_tuple_states_have_gradients(gradient: str) -> None:
    net = Net()

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.net(t, state[0]), state[0].sum(dim=1, keepdim=True) * t

    y0, mass = start(), torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    times, found = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64), []
    for settings in (
        native(rtol=1e-9, atol=1e-9, gradient=gradient),
        SolverSettings(rtol=1e-9, atol=1e-9),
    ):
        z, m = odeint(Pair(), (y0, mass), times, settings).ys
        loss = (z[-1] * m[-1]).sum() + m[1].pow(2).sum()
        found.append(torch.autograd.grad(loss, [y0, mass, net.second.bias]))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_unused_parameters_get_zeros_or_nothing_and_frozen_ones_nothing(gradient: str) -> None:
    net = Net()
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    loss_of(odeint(net, start(), times, native(gradient=gradient)).ys).backward()
    assert net.unused.grad is None or net.unused.grad.tolist() == [0.0, 0.0]
    assert net.frozen.grad is None


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize(
    "field",
    [lambda t, y: -y, lambda t, y: torch.tanh(y), lambda t, y: torch.ones_like(y), lambda t, y: y],
)
def test_fields_without_parameters_work(field: Callable[..., Tensor], gradient: str) -> None:
    found = []
    for settings in (
        native(rtol=1e-9, atol=1e-9, gradient=gradient),
        SolverSettings(rtol=1e-9, atol=1e-9),
    ):
        y0, times = start(), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
        found.append(torch.autograd.grad(loss_of(odeint(field, y0, times, settings).ys), y0))
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_of_an_embedding_may_be_sparse(gradient: str) -> None:
    class Rows(nn.Module):
        def __init__(self, sparse: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(3, 2, sparse=sparse).double()

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(y * self.table(torch.tensor([0, 2, 2, 0, 0])))

    found, expected = (
        gradients(Rows(sparse), GRIDS[0], native(gradient=gradient)) for sparse in (True, False)
    )
    torch.testing.assert_close([g.to_dense() for g in found], list(expected))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_two_forwards_before_one_backward(gradient: str) -> None:
    net, settings = Net(), native(gradient=gradient)
    once = gradients(net, [0.0, 0.3, 1.0], settings)
    y0, times = start(), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    wanted = [y0, *(p for p in net.parameters() if p.requires_grad)]
    first, second = (odeint(net, y0, times, settings) for _ in range(2))
    loss = loss_of(first.ys) + loss_of(second.ys)
    twice = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(twice, tuple(2 * g for g in once))
    assert first.stats == second.stats


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_backward_pass_may_run_twice(gradient: str) -> None:
    net, times = Net(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    loss = loss_of(odeint(net, start(), times, native(gradient=gradient)).ys)
    runs = [torch.autograd.grad(loss, net.first.weight, retain_graph=True)[0] for _ in range(2)]
    assert torch.equal(*runs)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_weights_loaded_between_two_calls_are_used(gradient: str, assign: bool) -> None:
    net, other, settings = Net(), Net(), native(gradient=gradient)
    gradients(net, [0.0, 1.0], settings)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.3)
    net.load_state_dict(other.state_dict(), assign=assign)
    torch.testing.assert_close(
        gradients(net, [0.0, 1.0], settings), gradients(other, [0.0, 1.0], settings)
    )


@pytest.mark.parametrize("assign", [False, True])
def test_weights_changed_before_backward_are_noticed(assign: bool) -> None:
    net, times = Net(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    loss = loss_of(odeint(net, start(), times, native(gradient="checkpoint")).ys)
    net.load_state_dict(Net().state_dict(), assign=assign)
    with pytest.raises(RuntimeError, match="replaced" if assign else "modified by an inplace"):
        loss.backward()


def test_a_start_changed_in_place_before_backward_is_noticed() -> None:
    y0, times = start().detach(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    loss = loss_of(odeint(Net(), y0, times, native(gradient="checkpoint")).ys)
    y0.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_a_hidden_tensor_that_needs_a_gradient_is_refused(gradient: str) -> None:
    net, times = Net(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    hidden = odeint(lambda t, y: net(t, y), start(), times, native(gradient=gradient)).ys
    with pytest.raises(RuntimeError, match="is no parameter of it"):
        loss_of(hidden).backward()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_evaluation_keeps_no_graph(gradient: str) -> None:
    with torch.no_grad(), collect_stats() as gathered:
        times = torch.tensor([0.0, 1.0], dtype=torch.float64)
        ys = odeint(Net(), start(), times, native(gradient=gradient)).ys
    assert not ys.requires_grad
    assert gathered[0].nfe_backward == 0


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_autocast_is_the_same_in_both_passes(gradient: str) -> None:
    seen = []

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            out = self.linear(y)
            seen.append(out.dtype)
            return out

    field = Field()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        settings = native("rk4", gradient=gradient)
        loss = odeint(field, torch.ones(3, 4), torch.tensor([0.0, 1.0]), settings).ys[-1].sum()
    loss.backward()
    assert set(seen) == {torch.bfloat16}
    assert field.linear.weight.grad is not None
    assert float(field.linear.weight.grad.abs().max()) > 0


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_are_bit_identical_from_run_to_run(gradient: str) -> None:
    torch.manual_seed(0)
    field, y0, times = nn.Linear(64, 64), torch.randn(32, 64), torch.tensor([0.0, 0.4, 1.0])

    class Tanh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = field

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.tanh(self.linear(y))

    runs = []
    for _ in range(2):
        loss = loss_of(odeint(Tanh(), y0, times, native(gradient=gradient)).ys)
        runs.append(torch.autograd.grad(loss, field.weight)[0])
    assert torch.equal(*runs)


def test_a_failed_forward_solve_fails_alike_with_every_gradient() -> None:
    times, failures = torch.tensor([0.0, 3.0], dtype=torch.float64), []
    for gradient in GRADIENTS:
        y0 = start().detach().abs().add_(1).requires_grad_()
        with pytest.raises(SolverFailed) as caught:
            odeint(lambda t, y: y**2, y0, times, native(gradient=gradient))
        failures.append((str(caught.value), caught.value.steps))
    assert len(set(failures)) == 1


def test_the_table_says_who_offers_which_gradient() -> None:
    table = gradient_table()
    assert table["torchdiffeq"] == ("direct", "adjoint")
    assert table["native"] == ("direct", "adjoint", "checkpoint")
    settings = SolverSettings(gradient="checkpoint")
    with pytest.raises(ValueError, match=r"only direct, adjoint\. Backends that do: native"):
        odeint(Net(), start(), torch.tensor([0.0, 1.0]), settings)


def test_a_backend_must_bring_the_checkpointed_solve_that_it_lists() -> None:
    with pytest.raises(ValueError, match="if and only if"):
        Backend("half", torchdiffeq_solve, dict, gradients=("checkpoint",))
