import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
import torchdiffeq
from problems import PROBLEMS
from torch import Tensor, nn

from lightning_modules.solvers import (
    Backend,
    SolverFailed,
    SolverSettings,
    StatsCollector,
    backends,
    collect_stats,
    gradient_table,
    odeint,
    register_backend,
    unregister_backend,
)
from lightning_modules.solvers.base import SolveStats, State
from lightning_modules.solvers.registry import Norm, TensorField

TIMES = torch.tensor([0.0, 1.0])


class Named(NamedTuple):
    """A state whose parts have names."""

    x: Tensor
    v: Tensor


class Block(nn.Module):
    """An ODE block as in a classifier: state in, state out."""

    def __init__(self, settings: SolverSettings) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.settings = settings

    def forward(self, y0: Tensor) -> Tensor:
        return odeint(self.field(), y0, TIMES, self.settings).ys[-1]

    def field(self) -> nn.Module:
        return TanhField(self.net)


class TanhField(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.net(y))


def solve_decay(
    settings: SolverSettings, y0: Tensor | None = None, times: Tensor = TIMES
) -> Tensor:
    return odeint(lambda t, y: -y, torch.ones(2) if y0 is None else y0, times, settings).ys


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rtol": -1e-3}, "rtol is -0.001"),
        ({"rtol": "tight"}, "rtol is 'tight'"),
        ({"atol": 0.0}, "atol is 0.0.*above 0"),
        ({"atol": float("nan")}, "atol is nan"),
        ({"step_size": 0.0, "method": "euler"}, "step_size is 0.0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"max_steps": 1.5}, "max_steps is 1.5"),
        ({"gradient": "exact"}, "Unknown gradient 'exact'. Choose one of direct, adjoint"),
        ({"adjoint_norm": "max"}, "Unknown adjoint_norm 'max'"),
        ({"adjoint_atol": -1.0, "gradient": "adjoint"}, "adjoint_atol is -1.0"),
        ({"adjoint_rtol": 1e-3}, "adjoint_rtol given with gradient='direct'"),
        ({"adjoint_norm": "rms"}, "adjoint_norm given with gradient='direct'"),
        ({"backend": "fortran"}, "Unknown backend 'fortran'. Choose one of .*torchdiffeq"),
        ({"method": "leapfrog"}, "no method 'leapfrog'"),
        ({"step_size": 0.1}, "step_size=0.1 given with 'dopri5'.*euler"),
        (
            {"backend": "scipy", "method": "lsoda", "gradient": "adjoint", "step_size": 0.1},
            r"own steps\. Leave it out\.$",
        ),
        ({"method": "euler", "gradient": "adjoint", "adjoint_norm": "rms"}, "read no norm"),
    ],
)
def test_bad_settings_are_one_clear_error(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        solve_decay(SolverSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([0.0], "at least two"),
        ([0.0, 1.0, 0.5], "strictly monotone"),
        ([0.0, 1.0, 1.0], "length zero at t=1"),
        ([0.0, float("nan")], "finite"),
        ([0.0, float("inf")], "finite"),
        ([[0.0, 1.0]], "shape \\(time,\\)"),
        ([0, 1], "floating point"),
    ],
)
def test_bad_times_are_refused(times: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        solve_decay(SolverSettings(), times=torch.tensor(times))


@pytest.mark.parametrize(
    ("y0", "said"),
    [
        (torch.ones(2, dtype=torch.half), "float16.*rounding"),
        (torch.ones(2, dtype=torch.bfloat16), "bfloat16"),
        (torch.ones(2, dtype=torch.int64), r"int64; a state .*\.float\(\) or \.double\(\)\.$"),
        (torch.ones(2, dtype=torch.complex64), r"complex64.*real numbers.*\(y0.real, y0.imag\)"),
        (torch.ones(0), "no numbers"),
        ((torch.ones(2), torch.ones(2).double()), "differ in dtype"),
        ([torch.ones(2)], "is a list"),
        ((torch.ones(2), (torch.ones(2),)), "has a tuple as a part"),
        (Named(torch.ones(2), torch.ones(2)), r"is a Named.*plain tuple.*tuple\(y0\).*x, v = y"),
    ],
)
def test_bad_states_are_refused(y0: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        solve_decay(SolverSettings(), y0=y0)


@pytest.mark.parametrize(
    ("field", "settings", "said"),
    [
        (nn.Identity, SolverSettings(), "field is the class Identity"),
        (3.0, SolverSettings(), "field is float"),
        (lambda t, y: -y, {"method": "rk4"}, "settings is a dict"),
    ],
)
def test_what_is_no_field_or_no_settings_is_told(field: Any, settings: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        odeint(field, torch.ones(2), TIMES, settings)


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        ("rms", "norm is 'rms'; pass what is called as norm"),
        (Tensor.abs, r"norm returned shape \(2,\) for an error of shape \(2,\)"),
        (lambda error: None, "norm returned a NoneType"),
    ],
)
def test_a_norm_is_called_and_returns_one_number(norm: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        odeint(nn.Identity(), torch.ones(2), TIMES, SolverSettings(), norm=norm)


def test_a_field_that_is_called_otherwise_is_told_how_it_is_called() -> None:
    with pytest.raises(TypeError) as caught:
        odeint(nn.Linear(2, 2), torch.ones(2), TIMES, SolverSettings())
    assert "called as field(t, y)" in caught.value.__notes__[0]


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_a_layer_without_a_shape_is_refused_where_it_comes_too_late(gradient: str) -> None:
    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.LazyLinear(3)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.linear(y)

    field, settings = Field(), SolverSettings(backend="native", gradient=gradient)
    with pytest.raises(RuntimeError, match="gets its shape when it is first called"):
        odeint(field, torch.ones(2, 3), TIMES, settings)
    field(TIMES[0], torch.ones(2, 3))
    odeint(field, torch.ones(2, 3), TIMES, settings).ys.sum().backward()
    assert field.linear.weight.grad is not None


@pytest.mark.parametrize("y0", [torch.ones(2, 3).double(), (torch.ones(2, 3).double(),)])
def test_an_error_tells_where_state_and_weights_are_of_two_kinds(y0: State) -> None:
    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, t: Tensor, y: State) -> State:
            return self.linear(y) if isinstance(y, Tensor) else (self.linear(y[0]),)

    for gradient in ("direct", "checkpoint", "adjoint"):
        settings = SolverSettings(backend="native", gradient=gradient)
        with pytest.raises(RuntimeError) as caught:
            odeint(Field(), y0, torch.tensor([0.0, 1.0]), settings)
        (said,) = caught.value.__notes__
        assert said.startswith("y0 is torch.float64 on cpu, parameters of the field are torch.fl")


def test_a_derivative_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shape \\(4, 1\\) for a state of shape \\(4,\\)"):
        odeint(lambda t, y: y[:, None], torch.ones(4), TIMES, SolverSettings())
    with pytest.raises(ValueError, match="tuple of 2 tensors"):
        odeint(lambda t, y: y[0], (torch.ones(4), torch.ones(1)), TIMES, SolverSettings())


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4, 3)])
@pytest.mark.parametrize("gradient", ["direct", "adjoint"])
def test_states_of_any_shape_keep_it(shape: tuple[int, ...], gradient: str) -> None:
    settings = SolverSettings(gradient=gradient)  # type: ignore[arg-type]
    y0 = torch.ones(shape, requires_grad=True)
    ys = solve_decay(settings, y0=y0, times=torch.linspace(0, 1, 5))
    assert ys.shape == (5, *shape)
    assert ys.dtype == torch.float32
    ys[-1].sum().backward()
    torch.testing.assert_close(y0.grad, torch.full(shape, 0.3679), atol=3e-3, rtol=0)


def coupled(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, v = state
    return v, -9 * x


START = (torch.tensor([[1.0, 0.5]]).double(), torch.tensor([[0.0, 40.0]]).double())


@pytest.mark.parametrize("backend", ["torchdiffeq", "native"])
@pytest.mark.parametrize("direction", [1, -1])
def test_tuple_states_take_the_steps_of_torchdiffeq(direction: int, backend: str) -> None:
    times = torch.linspace(0, 2.0 * direction, 4).double()
    ours = odeint(coupled, START, times, SolverSettings(backend=backend))
    evaluations = []

    def counted(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        evaluations.append(float(t))
        return coupled(t, state)

    theirs = torchdiffeq.odeint(counted, START, times, rtol=1e-3, atol=1e-3)
    assert ours.stats.nfe_forward == len(evaluations) > 14
    slack = 0 if backend == "torchdiffeq" else 1e-12
    for our_part, their_part, part in zip(ours.ys, theirs, START, strict=True):
        assert our_part.shape == (4, *part.shape)
        torch.testing.assert_close(our_part, their_part, rtol=slack, atol=slack)


def test_tuple_states_equal_concatenated_ones() -> None:
    def joined(t: Tensor, y: Tensor) -> Tensor:
        return torch.cat(coupled(t, (y[:1], y[1:])))

    settings = SolverSettings(method="rk4_38", step_size=0.1)
    times = torch.linspace(0, 1, 3).double()
    parts = odeint(coupled, START, times, settings).ys
    whole = odeint(joined, torch.cat(START), times, settings).ys
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=0)


def test_statistics_are_gathered_through_a_sequential() -> None:
    model = nn.Sequential(Block(SolverSettings()), nn.ReLU(), Block(SolverSettings(rtol=1e-6)))
    model(torch.randn(4, 3))  # an evaluation outside is not counted
    with collect_stats() as outer:
        model(torch.randn(4, 3))
        with collect_stats() as inner:
            model(torch.randn(4, 3))
    model(torch.randn(4, 3))
    assert (len(outer), len(inner)) == (4, 2)
    assert outer[2:] == inner
    assert all(stats.nfe_forward == 2 + 6 * stats.steps for stats in outer)


def test_backward_counts_arrive_after_the_context_has_closed() -> None:
    model = nn.Sequential(Block(SolverSettings(gradient="adjoint")), Block(SolverSettings()))
    with collect_stats() as gathered:
        loss = model(torch.randn(4, 3)).sum()
    assert [stats.nfe_backward for stats in gathered] == [0, 0]
    loss.backward()
    adjoint, direct = gathered
    steps = adjoint.steps_accepted_backward + adjoint.steps_rejected_backward
    assert adjoint.nfe_backward == 2 + 6 * steps > 2
    assert (direct.nfe_backward, direct.steps_accepted_backward) == (0, 0)


def test_collectors_open_and_close_in_any_order() -> None:
    first, second = StatsCollector(), StatsCollector()
    first.start()
    second.start()
    solve_decay(SolverSettings())
    assert len(first.stop()) == 1
    solve_decay(SolverSettings())
    assert len(second.stop()) == 2
    solve_decay(SolverSettings())
    assert (len(first.stats), len(second.stop())) == (1, 2)
    assert first.start() == []
    first.stop()


def test_a_context_closes_when_a_solve_fails_in_it() -> None:
    def nan(t: Tensor, y: Tensor) -> Tensor:
        return y * torch.nan

    with pytest.raises(SolverFailed), collect_stats() as gathered:
        odeint(nan, torch.ones(1), TIMES, SolverSettings())
    solve_decay(SolverSettings())
    assert len(gathered) == 1


def test_two_solves_have_statistics_of_their_own() -> None:
    problem = PROBLEMS[1]
    loose, tight = (
        odeint(problem.field, problem.y0, problem.times(2), SolverSettings(rtol=tol, atol=tol))
        for tol in (1e-2, 1e-8)
    )
    assert loose.stats.nfe_forward < tight.stats.nfe_forward
    assert loose.stats is not tight.stats


def test_failures_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(SolverFailed("stopped", 0.5, 1e-9, 12)))
    assert (str(error), error.time, error.step_size, error.steps) == ("stopped", 0.5, 1e-9, 12)


def euler(
    field: TensorField,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Norm,
    stats: SolveStats,
) -> Tensor:
    ys = [y0]
    for start, end in pairwise(times):
        ys.append(ys[-1] + (end - start) * field(start, ys[-1]))
        stats.steps_accepted += 1
    return torch.stack(ys)


@pytest.fixture
def plain_euler() -> Iterator[Backend]:
    backend = Backend("plain", euler, lambda: {"euler": "fixed"}, gradients=("adjoint",))
    register_backend(backend)
    yield backend
    unregister_backend("plain")


def test_a_backend_of_the_user_works_with_the_adjoint(plain_euler: Backend) -> None:
    field = TanhField(nn.Linear(3, 3))
    times, y0 = torch.linspace(0, 1, 6), torch.randn(2, 3)
    gradients = []
    for backend in ("plain", "torchdiffeq"):
        settings = SolverSettings(backend=backend, method="euler", gradient="adjoint")
        solution = odeint(field, y0, times, settings)
        gradients.append(torch.autograd.grad(solution.ys.sum(), tuple(field.parameters())))
        assert solution.stats == SolveStats(5, 5, 5, 0, 5, 0)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("returned", "said"),
    [(lambda ys: ys[-1], r"shape \(2, 2\); .* \(3, 2, 2\)"), (list, "returned a list")],
)
def test_a_backend_of_the_user_must_return_a_state_for_each_time(
    returned: Callable[[Tensor], Any], said: str
) -> None:
    backend = Backend(
        "short",
        lambda *given: returned(euler(*given)),
        lambda: {"euler": "fixed"},
        gradients=("direct",),
    )
    register_backend(backend)
    try:
        with pytest.raises(ValueError, match=said):
            odeint(
                lambda t, y: -y,
                torch.ones(2, 2),
                torch.tensor([0.0, 0.5, 1.0]),
                SolverSettings(backend="short", method="euler"),
            )
    finally:
        unregister_backend("short")


def test_a_gradient_that_a_backend_lacks_is_refused(plain_euler: Backend) -> None:
    assert gradient_table()["plain"] == ("adjoint",)
    with pytest.raises(ValueError, match=r"only adjoint\. Backends that do: torchdiffeq"):
        solve_decay(SolverSettings(backend="plain", method="euler"))


def test_a_name_is_not_taken_twice(plain_euler: Backend) -> None:
    register_backend(plain_euler)
    with pytest.raises(ValueError, match="registered already"):
        register_backend(Backend("plain", euler, dict, gradients=("adjoint",)))
    assert backends()["plain"] is plain_euler


def test_the_user_backend_is_gone_after_its_test() -> None:
    assert "plain" not in backends()


@pytest.mark.parametrize("backend", ["torchdiffeq", "native"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rtol": 1e-9, "atol": 1e-9}, "rtol=1e-09"),
        ({"adjoint_rtol": 0.0, "adjoint_atol": 1e-10, "gradient": "adjoint"}, "adjoint_rtol=0"),
    ],
)
def test_tolerances_below_the_rounding_of_the_state_are_refused(
    backend: str, change: dict[str, Any], named: str
) -> None:
    settings = SolverSettings(backend=backend, **change)
    with pytest.raises(ValueError, match=rf"{named}.*float32.*Loosen them or pass a float64"):
        solve_decay(settings, y0=torch.ones(3))
    solve_decay(settings, y0=torch.ones(3, dtype=torch.float64), times=torch.linspace(0, 1, 3))


def test_tolerances_of_a_fixed_step_are_not_read() -> None:
    settings = SolverSettings(method="rk4_38", rtol=1e-12, atol=1e-12)
    solve_decay(settings, y0=torch.ones(3))
