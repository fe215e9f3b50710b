"""Edges of the native solver: dtypes, layouts, in-place use, distant clocks, hidden state."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_modules.solvers import (
    SolverFailed,
    SolverSettings,
    SolveStats,
    Step,
    odeint,
    state,
    watch_steps,
)
from lightning_modules.solvers.stepping import BufferedStages, GraphStages
from lightning_modules.solvers.tableaus import TABLEAUS

GRADIENTS = ("direct", "checkpoint", "adjoint")
UNIT = torch.tensor([0.0, 1.0])


def native(method: str = "dopri5", **more: Any) -> SolverSettings:
    return SolverSettings(backend="native", method=method, **more)


class Decay(nn.Module):
    """f(t, y) = -k y."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.3, dtype=dtype))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.k * y


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_parameters_may_have_another_dtype_than_the_state(gradient: str) -> None:
    field = Decay(torch.float32)
    y0 = torch.ones(2, dtype=torch.float64)
    odeint(field, y0, UNIT.double(), native(gradient=gradient)).ys[-1].sum().backward()
    assert field.k.grad is not None
    assert field.k.grad.dtype == torch.float32
    assert float(field.k.grad) == pytest.approx(-2 * math.exp(-0.3), rel=1e-3)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize(
    "y0",
    [
        torch.tensor(1.5),
        torch.randn(6)[::2],
        torch.randn(3, 4).t(),
        torch.randn(1, 3).expand(4, 3),
        torch.randn(2, 4, 3, 5).contiguous(memory_format=torch.channels_last),
    ],
    ids=["scalar", "strided", "transposed", "expanded", "channels_last"],
)
def test_any_shape_and_layout_is_solved_and_keeps_its_shape(y0: Tensor, gradient: str) -> None:
    field, start = Decay(), y0.double().detach().requires_grad_()
    ys = odeint(field, start, UNIT.double(), native(gradient=gradient, rtol=1e-8, atol=1e-8)).ys
    assert ys.shape == (2, *y0.shape)
    torch.testing.assert_close(ys[-1], start * math.exp(-0.3), rtol=1e-6, atol=1e-6)
    (by_y0,) = torch.autograd.grad(ys[-1].sum(), start)
    torch.testing.assert_close(by_y0, torch.full_like(by_y0, math.exp(-0.3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gradient", ["direct", "checkpoint"])
def test_a_solution_may_be_changed_in_place(gradient: str) -> None:
    field = Decay()
    y0 = torch.tensor([1.0, -1.0], dtype=torch.float64)
    out = torch.relu_(odeint(field, y0, UNIT.double(), native(gradient=gradient)).ys[-1])
    out.sum().backward()
    assert field.k.grad is not None
    assert float(field.k.grad) == pytest.approx(-math.exp(-0.3), rel=1e-3)


class Energy(nn.Module):
    """f(t, z) = -∂E/∂z for E = w z⁴, the usual idiom of fields that are gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        with torch.enable_grad():
            if not z.requires_grad:
                z = z.detach().requires_grad_()
            energy = (self.w * z.pow(4)).sum()
            return -torch.autograd.grad(energy, z, create_graph=True)[0]


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("graph", [True, False])
def test_a_field_may_differentiate_an_energy(gradient: str, graph: bool) -> None:
    y0 = torch.ones(3, requires_grad=True)
    with torch.set_grad_enabled(graph):
        ys = odeint(Energy(), y0, UNIT, native(gradient=gradient, rtol=1e-6, atol=1e-6)).ys
    torch.testing.assert_close(ys[-1], torch.full((3,), 1 / 3), rtol=1e-4, atol=0)  # 1/√(1+8t)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_steps_within_the_rounding_of_times_fall_together(gradient: str) -> None:
    times = torch.tensor([1e6, 1e6 + 1])  # float32 has sixteen times between them
    ys = odeint(Decay(), torch.ones(2), times, native("rk4", step_size=0.01, gradient=gradient)).ys
    torch.testing.assert_close(ys[-1], torch.full((2,), math.exp(-0.3)), rtol=1e-3, atol=0)


def test_no_step_is_longer_than_step_size_far_from_zero() -> None:
    times = torch.tensor([1e6, 1e6 + 1])
    stats = odeint(Decay(), torch.ones(2), times, native("rk4", step_size=0.25)).stats
    assert stats.steps_accepted == 4


def test_a_probe_that_is_not_finite_is_a_failure_and_no_other_error() -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 0, math.nan, torch.zeros_like(y))

    with pytest.raises(SolverFailed, match="Check the field"):
        odeint(field, torch.ones(2), UNIT, native())


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "tsit5", "dopri8"])
def test_output_times_may_lie_close_together_near_zero(method: str) -> None:
    times = torch.cat([torch.zeros(1), torch.logspace(-20, 0, 21, dtype=torch.float64)])
    settings = native(method, rtol=1e-6, atol=1e-6)
    ys = odeint(Decay(), torch.ones(1, dtype=torch.float64), times, settings).ys
    torch.testing.assert_close(ys[:, 0], torch.exp(-0.3 * times), rtol=1e-4, atol=0)


class Hiding(nn.Module):
    """Uses a layer that is no parameter of it, in the first part of the time alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3))
        self.hidden = [nn.Linear(2, 2)]

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.hidden[0](y) if t < 0.4 else self.a * y


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_a_hidden_parameter_is_found_wherever_it_is_used(gradient: str) -> None:
    ys = odeint(Hiding(), torch.ones(5, 2), UNIT, native("rk4", step_size=0.1, gradient=gradient))
    with pytest.raises(RuntimeError, match="no parameter of it"):
        ys.ys[-1].sum().backward()


class Noisy(nn.Module):
    """A field with a buffer that it computes with."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("noise", torch.ones(2))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.a * y * self.noise


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_a_buffer_that_changed_before_backward_is_refused(gradient: str, replace: bool) -> None:
    field = Noisy()
    loss = odeint(field, torch.ones(5, 2), UNIT, native(gradient=gradient)).ys[-1].sum()
    if replace:
        field.noise = torch.zeros(2)
    else:
        field.noise.zero_()
    with pytest.raises(RuntimeError, match="A buffer of the field was replaced or written to"):
        loss.backward()


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_a_buffer_that_evaluations_replace_is_put_back_for_a_second_backward(
    gradient: str,
) -> None:
    class Counting(Noisy):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            self.noise.data = self.noise + 0.0  # other memory, which nothing counts
            return super().forward(t, y)

    field = Counting()
    loss = odeint(field, torch.ones(5, 2), UNIT, native(gradient=gradient)).ys[-1].sum()
    memory = field.noise.data_ptr()
    first, second = (torch.autograd.grad(loss, field.a, retain_graph=True) for _ in range(2))
    assert first == second
    assert field.noise.data_ptr() == memory


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_running_statistics_may_be_written_between_two_solves(gradient: str) -> None:
    field = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    class Timeless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = field

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y)

    shared, x = Timeless(), torch.randn(8, 2)
    for _ in range(2):
        x = odeint(shared, x, UNIT, native("rk4", step_size=0.5, gradient=gradient)).ys[-1]
    x.sum().backward()
    assert all(p.grad is not None for p in shared.parameters())


def test_a_field_without_a_graph_may_return_the_same_memory_again() -> None:
    buffer = torch.empty(2, dtype=torch.float64)

    def field(t: Tensor, y: Tensor) -> Tensor:
        return torch.mul(y.detach(), -torch.cos(t), out=buffer)

    ys = odeint(
        field, torch.ones(2, dtype=torch.float64), UNIT.double(), native(rtol=1e-8, atol=1e-8)
    ).ys
    torch.testing.assert_close(ys[-1], torch.full((2,), math.exp(-math.sin(1.0))).double(),
                               rtol=1e-4, atol=0)  # fmt: skip


def test_without_a_graph_checkpoint_keeps_no_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing will be replayed")

    monkeypatch.setattr("lightning_modules.solvers.checkpoint._Checkpoint.apply", refuse)
    with torch.no_grad():
        ys = odeint(Decay(), torch.ones(2), UNIT, native(gradient="checkpoint")).ys
    torch.testing.assert_close(ys[-1], torch.full((2,), math.exp(-0.3)), rtol=1e-3, atol=0)


def test_an_empty_parameter_changes_nothing() -> None:
    field = Decay()
    field.empty = nn.Parameter(torch.empty(0, dtype=torch.float64))
    y0 = torch.ones(2, dtype=torch.float64)
    odeint(field, y0, UNIT.double(), native(gradient="adjoint")).ys[-1].sum().backward()
    assert field.k.grad is not None


def test_a_complex_field_is_refused() -> None:
    with pytest.raises(ValueError, match="complex numbers"):
        odeint(lambda t, y: y * 1j, torch.ones(2), UNIT, native())


def test_the_step_that_a_solve_gives_up_at_is_named_with_its_remedy() -> None:
    def jump(t: Tensor, y: Tensor) -> Tensor:
        return torch.where(t > 0.5, math.nan, y)

    with pytest.raises(SolverFailed, match=r"t=0\.5.*dt=.*Check the field") as caught:
        odeint(jump, torch.ones(3), UNIT, native(rtol=0.0))
    assert "resolution" not in str(caught.value)
    with pytest.raises(SolverFailed, match=r"after 10 steps \(dt=1\.0e-01\).*Lower step_size"):
        odeint(jump, torch.ones(3), UNIT, native("rk4", step_size=0.1))


def test_what_a_watcher_raises_ends_the_solve_and_leaves_nothing_behind() -> None:
    def stop(step: Step) -> None:
        raise KeyError("seen enough")

    with pytest.raises(KeyError, match="seen enough"), watch_steps(stop):
        odeint(Decay(), torch.ones(2), UNIT, native())
    odeint(Decay(), torch.ones(2), UNIT, native())


@pytest.mark.parametrize("stages", [BufferedStages, GraphStages])
def test_autocast_on_a_gpu_leaves_the_state_in_its_dtype(stages: Any) -> None:
    """Fake tensors run the dispatch of a GPU without one."""
    seen: list[torch.dtype] = []

    def field(t: Tensor, y: Tensor) -> Tensor:
        seen.append(y.dtype)
        return -y

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        y0 = torch.empty(6, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            taken = stages(field, TABLEAUS["rk4"], y0)
            assert taken.step(0.0, 0.1, y0).dtype == torch.float32
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_autocast_reaches_no_sum_of_the_solver(gradient: str) -> None:
    """Decay has no operator that autocast touches: what it returns must not change by a bit."""
    times = torch.tensor([0.0, 0.3, 1.0])
    found = []
    for enabled in (False, True):
        y0, field = torch.linspace(-2, 2, 8).requires_grad_(), Decay(torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            ys = odeint(field, y0, times, native(gradient=gradient)).ys
            ys.pow(3).sum().backward()
            with torch.no_grad():
                unrecorded = odeint(field, y0, times, native(gradient=gradient)).ys
        found.append((ys.detach(), unrecorded, y0.grad, field.k.grad))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_one_norm_over_everything_takes_other_steps_than_the_largest_of_each() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 100), nn.Tanh(), nn.Linear(100, 2)).double()

    class Swinging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y) * torch.cos(3 * t)

    start, times = torch.randn(16, 2).double(), torch.tensor([0.0, 3.0]).double()
    cost = {}
    for norm in ("per_tensor", "rms"):
        settings = native(gradient="adjoint", adjoint_norm=norm, rtol=1e-5, atol=1e-5)
        solution = odeint(Swinging(), start, times, settings)
        solution.ys[-1].sum().backward()
        cost[norm] = solution.stats.nfe_backward
    # The parameters' errors are small and many: one mean over all is the looser demand.
    assert cost["rms"] < cost["per_tensor"]


@pytest.mark.parametrize("ticks", [[0.1, 0.7, 3.3], [2.0, -1.0, -1.3]], ids=["on", "back"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_ends_that_are_made_in_pieces_are_those_that_are_made_at_once(
    ticks: list[float], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = torch.tensor(ticks, dtype=dtype)
    settings = native("euler", step_size=0.01)
    whole = list(state.grid_pieces(times, settings, SolveStats()))
    assert len(whole) == 1
    monkeypatch.setattr(state, "PIECE", 7)
    pieces = list(state.grid_pieces(times, settings, SolveStats()))
    assert max(map(len, pieces)) < 3 * 7
    assert torch.equal(torch.cat(pieces), whole[0])
    assert torch.equal(state.fixed_grid(times, settings, SolveStats()), whole[0])


def test_too_many_steps_are_refused_before_the_first() -> None:
    settings = native("euler", step_size=0.01, max_steps=99)
    with pytest.raises(SolverFailed, match="needs 100 steps"):
        state.grid_pieces(UNIT, settings, SolveStats())


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_solve_by_pieces_of_the_grid_gives_the_same_gradients(
    gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> list[Tensor]:
        field, y0 = Decay(), torch.ones(2, dtype=torch.float64, requires_grad=True)
        times = torch.linspace(0, 2, 4, dtype=torch.float64)
        times.requires_grad_(gradient != "checkpoint")
        settings = native("rk4", step_size=0.05, gradient=gradient)
        wanted = (y0, field.k, *([times] if times.requires_grad else []))
        return list(torch.autograd.grad(odeint(field, y0, times, settings).ys.sum(), wanted))

    at_once = gradients()
    monkeypatch.setattr(state, "PIECE", 5)
    for one, other in zip(at_once, gradients(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-15)
