"""CUDA graphs give what the native backend gives on the same GPU, and go stale nowhere."""

import copy
from typing import Any

import pytest
import torch
from against_native import ADAPTIVE, settings
from problems import PROBLEMS, Net, Of, Problem
from torch import Tensor, nn

from lightning_modules.nets import ConvField
from lightning_modules.solvers import SolverSettings, SolveStats, odeint
from lightning_modules.solvers.recorded import plans

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = "cuda"
GRADIENTS = ("checkpoint", "adjoint")


def times(*ticks: float) -> Tensor:
    return torch.tensor(ticks or (0.0, 1.0), dtype=torch.float64, device=DEVICE)


def start(size: int = 5, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(size, 2, dtype=torch.float64, generator=generator)
    return noise.to(DEVICE).requires_grad_()


def solved(
    net: nn.Module, y0: Tensor, chosen: SolverSettings, at: Tensor | None = None
) -> tuple[list[Tensor], SolveStats]:
    solution = odeint(net, y0, times() if at is None else at, chosen)
    wanted = [y0, *(p for p in net.parameters() if p.requires_grad)]
    loss = solution.ys.square().sum()
    found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    return [solution.ys.detach(), *found], solution.stats


def plans_of(net: nn.Module) -> int:
    return len(plans._FIELDS[net].plans)


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("method", ADAPTIVE)
@torch.no_grad()
def test_recorded_steps_on_a_gpu_are_the_native_ones(
    method: str, problem: Problem, direction: int
) -> None:
    function = {
        "decay": lambda t, y: -y,
        "rotation": lambda t, y: torch.stack([y[..., 1], -y[..., 0]], dim=-1),
        "logistic": lambda t, y: y * (1 - y),
        "time_dependent": lambda t, y: t * y,
    }[problem.name]
    field, y0 = Of(function), problem.y0.to(DEVICE)
    at = problem.times(9, direction).to(DEVICE)
    native = odeint(field, y0, at, settings("native", method, rtol=1e-6, atol=1e-6))
    for _ in range(3):
        captured = odeint(field, y0, at, settings("captured", method, rtol=1e-6, atol=1e-6))
        assert captured.stats == native.stats
        same(captured.ys, native.ys)
    assert plans_of(field) == 1


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "rk4"])
def test_recorded_gradients_on_a_gpu_are_the_native_ones(method: str, gradient: str) -> None:
    net, y0, at = Net().to(DEVICE), start(), times(0.0, 0.3, 0.8, 1.0)
    expected = solved(net, y0, settings("native", method, gradient=gradient), at)
    for _ in range(3):
        found = solved(net, y0, settings("captured", method, gradient=gradient), at)
        assert found[1] == expected[1]
        same(found[0], expected[0])
    assert plans_of(net) == {"checkpoint": 1, "adjoint": 2}[gradient]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_the_field_of_the_ode_net_is_recorded(gradient: str) -> None:
    """In float64: rounding alone changes the steps of its rough adjoint in float32."""
    torch.manual_seed(0)
    net, y0 = ConvField(16, 4).double().to(DEVICE), torch.rand(8, 16, 7, 7).double().to(DEVICE)
    y0.requires_grad_()
    expected = solved(net, y0, settings("native", gradient=gradient))
    for _ in range(3):
        found = solved(net, y0, settings("captured", gradient=gradient))
        assert found[1] == expected[1]
        torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-7)
    assert plans_of(net)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_forward_passes_before_their_backward_passes_on_a_gpu(gradient: str) -> None:
    net, starts = Net().to(DEVICE), [start(seed=seed) for seed in (1, 2, 3)]
    for _ in range(2):
        solved(net, starts[0], settings("captured", gradient=gradient))
    found = []
    for backend in ("native", "captured"):
        solutions = [
            odeint(net, y0, times(), settings(backend, gradient=gradient)).ys for y0 in starts
        ]
        pairs = zip(solutions, starts, strict=True)
        found.append([torch.autograd.grad(ys.square().sum(), y0)[0] for ys, y0 in pairs])
    same(*found)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_graphs_that_live_elsewhere_end_no_recording(gradient: str) -> None:
    """As that of a loss that somebody keeps, or the nodes that DistributedDataParallel holds."""
    net, y0 = Net().to(DEVICE), start()
    kept = [p.view_as(p) for p in net.parameters()]
    expected = solved(net, y0, settings("native", gradient=gradient))
    for _ in range(3):
        same(solved(net, y0, settings("captured", gradient=gradient))[0], expected[0])
    assert plans_of(net) == {"checkpoint": 1, "adjoint": 2}[gradient]
    assert all(p.grad_fn for p in kept if p.requires_grad)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_training_on_a_gpu_is_that_of_the_native_backend(gradient: str) -> None:
    weights = []
    for backend in ("native", "captured"):
        net, chosen = Net().to(DEVICE), settings(backend, gradient=gradient)
        optimizer = torch.optim.Adam((p for p in net.parameters() if p.requires_grad), lr=0.05)
        early = copy.deepcopy(net.state_dict())
        for step in range(8):
            if step == 5:
                net.load_state_dict(early)
            optimizer.zero_grad()
            size = 3 if step == 6 else 5  # a smaller batch in between
            odeint(net, start(size, step), times(), chosen).ys[-1].square().mean().backward()
            optimizer.step()
            with torch.inference_mode():
                odeint(net, start(seed=step).detach(), times(), chosen)
        weights.append([p.detach() for p in net.parameters()])
    same(*weights)


def waits(t: Tensor, y: Tensor) -> Tensor:
    torch.cuda.synchronize()  # no operator, so that the recording itself meets it
    return -y


@pytest.mark.parametrize(
    "function",
    [
        lambda t, y: -y * float(y.detach().abs().max()),
        lambda t, y: y + 0 * torch.randn_like(y),
        lambda t, y: y * torch.tensor(0.5, device=y.device),
        lambda t, y: torch.zeros_like(y).index_put((y > 0,), y[y > 0]),
        waits,
    ],
    ids=["reads", "draws", "uploads", "masks", "waits"],
)
def test_what_no_graph_holds_is_solved_natively_and_others_go_on(function: Any) -> None:
    field = Of(function)
    solved(field, start(), settings("captured", gradient="checkpoint"))
    with pytest.warns(UserWarning, match="solved step by step"):
        found = solved(field, start(), settings("captured", gradient="checkpoint"))
    same(found[0], solved(field, start(), settings("native", gradient="checkpoint"))[0])
    assert torch.isfinite(torch.randn(3, device=DEVICE)).all()  # generators are as they were
    net = Net().to(DEVICE)
    for _ in range(3):
        found = solved(net, start(), settings("captured", gradient="checkpoint"))
    same(found[0], solved(net, start(), settings("native", gradient="checkpoint"))[0])
    assert plans_of(net) == 1


def test_solves_on_several_streams_do_not_meet() -> None:
    net, y0s = Net().to(DEVICE), [start(2048, seed) for seed in range(4)]
    chosen = settings("captured", gradient="checkpoint")
    for _ in range(2):
        solved(net, y0s[0], chosen)
    expected = [solved(net, y0, settings("native", gradient="checkpoint"))[0] for y0 in y0s]
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream() for _ in y0s], []
    for stream, y0 in zip(streams, y0s, strict=True):
        with torch.cuda.stream(stream):
            found.append(solved(net, y0, chosen)[0])
    torch.cuda.synchronize()
    same(found, expected)


def test_recordings_outlive_others_on_their_stream() -> None:
    """PyTorch has 32 streams; with a graph goes the workspace that cuBLAS has on its stream."""
    net, chosen = Net(256).float().to(DEVICE), settings("captured", gradient="checkpoint")
    y0 = start(64).detach().float().requires_grad_()
    expected = solved(net, y0, settings("native", gradient="checkpoint"))[0]
    for _ in range(2):
        solved(net, y0, chosen)
    for _ in range(33):
        other = Net(256).float().to(DEVICE)
        for _ in range(2):
            odeint(other, y0.detach(), times(), settings("captured", gradient="adjoint"))
        assert plans_of(other) == 1
        del other
    kept = [torch.full((2**20,), torch.nan, device=DEVICE) for _ in range(64)]
    torch.testing.assert_close(solved(net, y0, chosen)[0], expected, rtol=1e-4, atol=1e-4)
    assert all(bool(x.isnan().all()) for x in kept)


def test_memory_does_not_grow_with_the_number_of_solves() -> None:
    net, chosen = Net().to(DEVICE), settings("captured", gradient="checkpoint")
    for _ in range(3):
        solved(net, start(), chosen)
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        solved(net, start(), chosen)
    assert torch.cuda.memory_allocated() == before


def test_autocast_on_a_gpu_is_recorded_as_it_is_set() -> None:
    net, at = Net().float().to(DEVICE), torch.tensor([0.0, 1.0], device=DEVICE)
    for enabled in (True, False, True, False, True):
        found = []
        for backend in ("native", "captured"):
            y0 = torch.linspace(-1, 1, 10, device=DEVICE).view(5, 2).requires_grad_()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=enabled):
                ys = odeint(net, y0, at, settings(backend, gradient="checkpoint")).ys
                ys[-1].square().sum().backward()
            found.append((ys.detach(), y0.grad))
        close = 2e-2 if enabled else 1e-5
        torch.testing.assert_close(*found, rtol=close, atol=close)
