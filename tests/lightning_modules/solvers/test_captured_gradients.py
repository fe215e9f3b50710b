"""Gradients of recorded solves are the native backend's, whatever happens between the passes."""

import copy
import warnings

import pytest
import torch
from against_native import GRIDS, UNIT, gradients, same, settings, start
from host_recorder import HostRecorder, recorders
from problems import Net
from torch import Tensor, nn

from lightning_modules.solvers import SolverSettings, odeint
from lightning_modules.solvers.native_backend import methods

__all__ = ["recorders"]
GRADIENTS = ("checkpoint", "adjoint")


def recorded(net: nn.Module, y0: Tensor, chosen: SolverSettings, times: Tensor = UNIT) -> None:
    """Solve twice: the second solve of a kind is recorded."""
    for _ in range(2):
        gradients(net, y0, chosen, times)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda grid: f"{len(grid)}_times")
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("method", methods())
def test_gradients_and_their_cost_are_the_native_ones(
    method: str, gradient: str, grid: list[float], recorders: list[HostRecorder]
) -> None:
    net, y0, times = Net(), start(), torch.tensor(grid).double()
    expected = gradients(net, y0, settings("native", method, gradient=gradient), times)
    chosen = settings("captured", method, gradient=gradient)
    recorded(net, y0, chosen, times)
    found = gradients(net, y0, chosen, times)
    assert found[1] == expected[1]
    same(found[0], expected[0])
    assert len(recorders) == {"checkpoint": 1, "adjoint": 2}[gradient]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_two_forward_passes_may_come_before_their_backward_passes(
    gradient: str, recorders: list[HostRecorder]
) -> None:
    """What a graph leaves in its static memory must not be what backward reads."""
    net, starts = Net(), [start(seed=seed) for seed in (1, 2, 3)]
    recorded(net, starts[0], settings("captured", gradient=gradient))
    found = []
    for backend in ("native", "captured"):
        solutions = [odeint(net, y0, UNIT, settings(backend, gradient=gradient)) for y0 in starts]
        losses = [solution.ys.pow(2).sum() for solution in solutions]
        pairs = zip(losses, starts, strict=True)
        found.append([torch.autograd.grad(loss, y0)[0] for loss, y0 in pairs])
        found[-1] += [solution.ys.detach() for solution in solutions]
    same(*found)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_training_is_that_of_the_native_backend(
    gradient: str, recorders: list[HostRecorder]
) -> None:
    """Weights change in place between solves, and are loaded in place in the middle."""
    weights = []
    for backend in ("native", "captured"):
        net, chosen = Net(), settings(backend, gradient=gradient)
        optimizer = torch.optim.Adam((p for p in net.parameters() if p.requires_grad), lr=0.05)
        early = copy.deepcopy(net.state_dict())
        for step in range(6):
            if step == 4:
                net.load_state_dict(early)
            optimizer.zero_grad()
            odeint(net, start(seed=step), UNIT, chosen).ys[-1].square().mean().backward()
            optimizer.step()
        weights.append([p.detach() for p in net.parameters()])
    same(*weights)
    assert len(recorders) == {"checkpoint": 1, "adjoint": 2}[gradient]


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_replaced_weights_are_recorded_anew(gradient: str, recorders: list[HostRecorder]) -> None:
    net, y0, chosen = Net(), start(), settings("captured", gradient=gradient)
    recorded(net, y0, chosen)
    made = len(recorders)
    other = {name: value + 0.1 for name, value in net.state_dict().items()}
    net.load_state_dict(other, assign=True)
    for p in net.parameters():
        p.requires_grad_(p is not net.frozen)
    expected = gradients(net, y0, settings("native", gradient=gradient))
    for _ in range(3):
        found = gradients(net, y0, chosen)
        same(found[0], expected[0])
    assert len(recorders) == 2 * made


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_freezing_a_weight_is_another_gradient(
    gradient: str, recorders: list[HostRecorder]
) -> None:
    net, y0, chosen = Net(), start(), settings("captured", gradient=gradient)
    recorded(net, y0, chosen)
    net.first.weight.requires_grad_(False)
    expected = gradients(net, y0, settings("native", gradient=gradient))
    for _ in range(3):
        same(gradients(net, y0, chosen)[0], expected[0])


def test_a_smaller_batch_is_solved_step_by_step_until_it_comes_again(
    recorders: list[HostRecorder],
) -> None:
    net, chosen = Net(), settings("captured", gradient="checkpoint")
    recorded(net, start(8), chosen)
    for epoch in range(2):
        expected = gradients(net, start(3), settings("native", gradient="checkpoint"))
        found = gradients(net, start(3), chosen)
        assert len(recorders) == 1 + epoch
        same(found[0], expected[0])
        gradients(net, start(8), chosen)
    assert len(recorders) == 2


def test_what_changes_between_the_passes_is_noticed(recorders: list[HostRecorder]) -> None:
    net, y0, chosen = Net(), start(), settings("captured", gradient="checkpoint")
    recorded(net, y0, chosen)
    ys = odeint(net, y0, UNIT, chosen).ys
    with torch.no_grad():
        net.first.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ys.sum().backward()


def test_backward_twice_gives_the_gradient_twice(recorders: list[HostRecorder]) -> None:
    net, y0, chosen = Net(), start(), settings("captured", gradient="checkpoint")
    recorded(net, y0, chosen)
    solution = odeint(net, y0, UNIT, chosen)
    solution.ys[-1].sum().backward(retain_graph=True)
    assert y0.grad is not None
    once = y0.grad.clone()
    solution.ys[-1].sum().backward()
    torch.testing.assert_close(y0.grad, 2 * once)


def test_a_recorded_solution_may_be_changed_in_place(recorders: list[HostRecorder]) -> None:
    net, y0, chosen = Net(), start(), settings("captured", gradient="checkpoint")
    recorded(net, y0, chosen)
    plain, _ = gradients(net, y0, chosen)
    ys = odeint(net, y0, UNIT, chosen).ys
    ys.mul_(2.0)
    weights = torch.tensor([1.0, 2.0], dtype=torch.float64)
    loss = (weights * ys.div(2.0).pow(2).flatten(1).sum(dim=1)).sum()
    same(list(torch.autograd.grad(loss, y0)), plain[1:2])


def test_direct_gradients_may_be_differentiated_again(recorders: list[HostRecorder]) -> None:
    """They are those of autograd's own graph, which nothing recorded has."""
    net, y0 = Net(), start()
    for _ in range(3):
        ys = odeint(net, y0, UNIT, settings("captured", gradient="direct")).ys
        (first,) = torch.autograd.grad(ys[-1].square().sum(), y0, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), y0)
        assert float(second.abs().sum()) > 0
    assert not recorders


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_slope_may_be_a_weight_itself(gradient: str, recorders: list[HostRecorder]) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.linspace(1, 2, 10).view(5, 2).double())

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.slope

    field, y0, chosen = Constant(), start(), settings("captured", gradient=gradient)
    expected = gradients(field, y0, settings("native", gradient=gradient))
    for _ in range(3):
        same(gradients(field, y0, chosen)[0], expected[0])
    assert all(recorder.replays for recorder in recorders)


@pytest.mark.parametrize("backend", ["native", "captured"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_slope_that_is_a_hidden_weight_is_refused(
    gradient: str, backend: str, recorders: list[HostRecorder]
) -> None:
    hidden = torch.ones(5, 2, dtype=torch.float64, requires_grad=True)

    class Hiding(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return hidden

    loss = odeint(Hiding(), start(), UNIT, settings(backend, gradient=gradient)).ys.sum()
    with pytest.raises(RuntimeError, match="requires a gradient and is no parameter"):
        loss.backward()


def test_hidden_weights_are_refused_as_natively(recorders: list[HostRecorder]) -> None:
    hidden = torch.ones(2, dtype=torch.float64, requires_grad=True)

    class Hiding(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return -y * hidden

    field, chosen = Hiding(), settings("captured", gradient="checkpoint")
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the recording that was not to be
            loss = odeint(field, start(), UNIT, chosen).ys.sum()
        with pytest.raises(RuntimeError, match="requires a gradient and is no parameter"):
            loss.backward()
