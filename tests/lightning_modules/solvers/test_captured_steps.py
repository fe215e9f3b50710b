"""Recorded solves take the native backend's steps; the host only looks on, and seldom."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from against_native import ADAPTIVE, FIXED
from host_recorder import HostRecorder, recorders
from problems import PROBLEMS, Net, Of, Problem
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_modules.nets import ConvField, PerceptronField, PlanarField, TanhField
from lightning_modules.solvers import (
    Solution,
    SolverFailed,
    SolverSettings,
    SolveStats,
    odeint,
    stepping,
)
from lightning_modules.solvers.augmented import Augmented
from lightning_modules.solvers.captured import adaptive
from lightning_modules.solvers.captured.adaptive import AdaptiveWalk
from lightning_modules.solvers.captured.back import RecordedSweep
from lightning_modules.solvers.captured.grid import FixedWalk
from lightning_modules.solvers.controller import Controller
from lightning_modules.solvers.fields import Counted, OnTensors
from lightning_modules.solvers.recorded.control import DeviceController
from lightning_modules.solvers.recorded.engine import Task
from lightning_modules.solvers.recorded.inspection import Inspector
from lightning_modules.solvers.state import rms

__all__ = ["recorders"]
META = torch.device("meta")


def pair(method: str = "dopri5", **more: Any) -> tuple[SolverSettings, SolverSettings]:
    native, captured = (SolverSettings(name, method, **more) for name in ("native", "captured"))
    return native, captured


@torch.no_grad()
def both(field: nn.Module, y0: Any, times: Tensor, **more: Any) -> list[Solution[Any]]:
    """Return the native solution, and that of the second recorded solve."""
    native, captured = pair(**more)
    odeint(field, y0, times, captured)
    odeint(field, y0, times, captured)
    return [odeint(field, y0, times, settings) for settings in (native, captured)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_every_step_is_that_of_the_native_backend(
    method: str,
    problem: Problem,
    direction: int,
    dtype: torch.dtype,
    recorders: list[HostRecorder],
) -> None:
    """With 2 and 9 output times: those between lie inside steps, or steps land on them.

    In float32 the error estimate is rounded otherwise, and with it the sizes of the steps.
    """
    field = Of(lambda t, y: problem.field(t.double(), y.double()).to(y.dtype))
    tolerance = 1e-5 if dtype == torch.float64 else 1e-4
    close = 1e-12 if dtype == torch.float64 else tolerance
    for count in (2, 9):
        times, y0 = problem.times(count, direction).to(dtype), problem.y0.to(dtype)
        native, captured = both(field, y0, times, method=method, rtol=tolerance, atol=tolerance)
        assert captured.stats == native.stats
        torch.testing.assert_close(captured.ys, native.ys, rtol=close, atol=close)
    assert len(recorders) == 2
    assert all(recorder.replays for recorder in recorders)


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.5, 0.2, -1.3]], ids=["on", "back"])
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_are_those_of_the_native_backend_and_nobody_looks(
    method: str, times: list[float], recorders: list[HostRecorder], monkeypatch: Any
) -> None:
    monkeypatch.setattr("lightning_modules.solvers.captured.walk.CHUNK_BYTES", 0)
    y0, field = torch.randn(3, 2).double(), Net()
    ticks = torch.tensor(times).double()
    native, captured = both(field, y0, ticks, method=method, step_size=0.07)
    assert captured.stats == native.stats
    torch.testing.assert_close(captured.ys, native.ys, rtol=1e-12, atol=1e-12)
    assert [(r.reads, r.replays) for r in recorders] == [(0, 2 * captured.stats.steps)]
    with pytest.raises(SolverFailed, match=r"needs .* more than max_steps=5"):
        odeint(field, y0, ticks, pair(method, step_size=0.07, max_steps=5)[1])


def test_parts_of_a_tuple_have_norms_of_their_own(recorders: list[HostRecorder]) -> None:
    field = Of(lambda t, parts: (parts[1], -9 * parts[0]))
    y0 = (torch.tensor([[1.0, 0.5]]).double(), torch.tensor([[0.0, 40.0]]).double())
    native, captured = both(field, y0, torch.linspace(0, 2, 4).double(), rtol=1e-5)
    assert captured.stats == native.stats
    torch.testing.assert_close(captured.ys, native.ys, rtol=1e-12, atol=1e-12)
    assert recorders[0].replays


@pytest.mark.parametrize("shape", [(), (1,), (2, 3, 4, 1)], ids=str)
def test_states_of_any_shape_are_recorded(shape: Any, recorders: list[HostRecorder]) -> None:
    y0 = torch.full(shape, 1.5)
    native, captured = both(Of(lambda t, y: -y * t), y0, torch.tensor([0.0, 1.0]))
    assert captured.ys.shape == (2, *shape)
    torch.testing.assert_close(captured.ys, native.ys)
    assert recorders[0].replays


def test_the_host_looks_once_where_a_solve_is_like_the_last(
    recorders: list[HostRecorder],
) -> None:
    field, y0, times = Net(), torch.randn(4, 2).double(), torch.tensor([0.0, 1.0]).double()
    _, tight = pair(rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        steps = [odeint(field, 20 * y0, times, tight).stats.steps for _ in range(2)][-1]
        (recorder,) = recorders
        assert recorder.reads == steps
        looked, replayed = recorder.reads, recorder.replays
        odeint(field, 20 * y0, times, tight)
        assert recorder.reads == looked + 1
        # The opening and every trial, none too many.
        assert recorder.replays == replayed + 1 + steps
        looked, replayed = recorder.reads, recorder.replays
        more = odeint(field, y0, times, tight).stats.steps
    assert more > steps
    assert recorder.reads == looked + 1 + more - steps
    assert recorder.replays == replayed + 1 + more


def test_a_solve_that_outgrows_its_chunk_keeps_every_step(
    recorders: list[HostRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_modules.solvers.captured.walk.CHUNK_BYTES", 0)
    field, times = Net(), torch.tensor([0.0, 0.4, 1.0]).double()
    found = []
    for settings in pair(rtol=1e-11, atol=1e-11, gradient="checkpoint"):
        for _ in range(3):
            y0 = torch.ones(4, 2).double().requires_grad_()
            solution = odeint(field, y0, times, settings)
            solution.ys.square().sum().backward()
        assert y0.grad is not None
        found.append((solution.ys.detach(), y0.grad))
    assert solution.stats.steps > 8
    assert recorders[0].reads > 2
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


def walk(field: nn.Module, y0: Tensor, ticks: list[float], **more: Any) -> tuple[Any, Task]:
    settings, stats = pair(**more)[1], SolveStats()
    counted = Counted(OnTensors(field, None), stats)
    task = Task(y0, ticks, settings, stats, counted, torch.tensor(ticks))
    made = AdaptiveWalk(counted.field, y0, settings, rms, outputs=4, keep=True)
    made._set(task)
    return made, task


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
@pytest.mark.parametrize("max_steps", [10_000, 2], ids=["done", "failed"])
@torch.no_grad()
def test_trials_after_the_end_change_nothing(method: str, max_steps: int) -> None:
    """Neither after the last output time nor after a failure."""
    made, _ = walk(
        Net(), torch.ones(3, 2).double(), [0.0, 0.3, 2.0], method=method, max_steps=max_steps
    )
    made._opening()
    for _ in range(40):
        made._trial()
    parts = (made.y, made.out[:-1], made.starts[:-1], made._ledger.numbers[:-3], made._slot)
    before = [part.clone() for part in parts]
    assert float(made._standing.status) == (adaptive.DONE if max_steps > 2 else adaptive.AT_LIMIT)
    for _ in range(3):
        made._trial()
    for part, old in zip(parts, before, strict=True):
        torch.testing.assert_close(part, old, rtol=0, atol=0, equal_nan=True)


def jump(t: Tensor, y: Tensor) -> Tensor:
    return torch.where(t > 0.5, torch.nan, y)


def explode(t: Tensor, y: Tensor) -> Tensor:
    return y * y


@pytest.mark.parametrize(
    ("function", "more"),
    [
        (jump, {}),
        (jump, {"method": "bosh3"}),
        (explode, {"max_steps": 30}),
        (explode, {"method": "tsit5"}),
        (lambda t, y: y * torch.nan, {}),
        (lambda t, y: -(10**4) * y, {"max_steps": 7, "method": "bosh3"}),
    ],
    ids=["jump", "jump_landing", "limit", "explode", "nan", "stiff"],
)
@torch.no_grad()
def test_failures_are_those_of_the_native_backend(
    function: Any, more: dict[str, Any], recorders: list[HostRecorder]
) -> None:
    field, y0, times = Of(function), torch.ones(2).double(), torch.tensor([0.0, 0.7, 1.5]).double()
    said = []
    for settings in (pair(**more)[1], *pair(**more)):
        with pytest.raises(SolverFailed) as caught:
            odeint(field, y0, times, settings)
        said.append((str(caught.value), caught.value.steps))
    assert said[0] == said[1] == said[2]
    assert recorders[0].replays


def test_sizes_follow_the_controller_of_the_host() -> None:
    settings, like = SolverSettings("native"), torch.zeros(1).double()
    ratios = [0.0, 1e-300, 1e-9, 0.3, 0.59, 0.9999, 1.0, 1.0001, 1.7, 1e5, 1e300, math.inf]
    for order in (2, 3, 5, 8):
        host = Controller(order, settings, rms, like.shape)
        device = DeviceController(order, settings.rtol, settings.atol, rms, like)
        for ratio in [*ratios, math.nan]:
            for dt in (0.1, -3e-7):
                given = torch.tensor(dt).double(), torch.tensor(ratio).double()
                expected = host.next_size(float(given[0]), float(given[1]))
                assert float(device.next_size(*given)) == pytest.approx(expected, rel=1e-14)


@pytest.fixture
def no_fake_rows() -> Iterator[None]:
    """Forget the coefficients that were made as fake tensors, which a GPU's solve would meet."""
    yield
    stepping._rows.cache_clear()


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "rk4"])
def test_nothing_of_a_step_is_on_the_host(method: str, no_fake_rows: None) -> None:
    """Fake tensors on a GPU that is not there: a scalar of the CPU, or a look, would raise."""
    device = torch.device("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        net = nn.Linear(6, 6, device=device)
        y0, field = torch.empty(3, 6, device=device), OnTensors(Of(lambda t, y: net(y) * t), None)
        settings = pair(method)[1]
        if method == "rk4":
            fixed = FixedWalk(field, y0, settings, 2, True)
            works = [fixed._step]
        else:
            made = AdaptiveWalk(field, y0, settings, rms, 2, True)
            works = [made._opening, made._trial]
        for work in works:
            with torch.autocast("cuda", torch.bfloat16), Inspector(device):
                work()


FIELDS = {
    "net": lambda: (Net(), (3, 2)),
    "convolutions": lambda: (ConvField(8, 4), (2, 8, 5, 5)),
    "tanh": lambda: (TanhField(), (3, 2)),
    "perceptron": lambda: (PerceptronField(4, 6), (3, 4)),
    "planar": lambda: (PlanarField(2, 5, 8, [0]), (1, 3, 4)),
}


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4"])
@pytest.mark.parametrize("name", FIELDS)
def test_nothing_of_the_way_back_is_on_the_host(name: str, method: str) -> None:
    """On the device without numbers, where autograd works too: to look or to mix would raise."""
    module, shape = FIELDS[name]()
    module.to(META)
    parameters = [p for p in module.parameters() if p.requires_grad]
    y0 = torch.empty(shape, device=META, dtype=parameters[0].dtype)
    field, (_, settings) = OnTensors(module, None), pair(method)
    augmented = Augmented(field, rms, "per_tensor", y0.shape, parameters)
    state = augmented.layout.pack([y0, y0, *(p.detach() for p in parameters)])
    with torch.no_grad():
        sweep = RecordedSweep(field, method, y0, parameters)
        stages = sweep._tableau.stages
        works = [sweep._work((count, x)) for count in (stages - 1, stages) for x in (False, True)]
        if method == "rk4":
            works.append(FixedWalk(augmented, state, settings, 2, False)._step)
        else:
            walks = AdaptiveWalk(augmented, state, settings, augmented.norm, 2, False)
            works += [walks._opening, walks._trial]
        for work in works:
            with Inspector(META):
                work()
