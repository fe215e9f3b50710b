"""Compiled solves, their gradients and their failures are the native backend's."""

import re
from typing import Any

import pytest
import torch
from against_native import GRIDS, UNIT, gradients, same, settings, start
from problems import Net, Of
from torch import Tensor, nn
from uncompiled import traced

from lightning_modules.solvers import SolverFailed, odeint
from lightning_modules.solvers.compiled import looped
from lightning_modules.solvers.native_backend import methods

__all__ = ["traced"]


PADDED = ([0.0, 0.3, 0.5, 1.2], [1.0, 0.9, 0.4, 0.1, -0.2, -1.0])  # fewer than a power of two


CASES = [
    *(("dopri5", "checkpoint", grid) for grid in PADDED),
    *((method, "checkpoint", GRIDS[-1]) for method in methods()),
    *(("dopri5", "checkpoint", grid) for grid in GRIDS[:-1]),
    *((method, "adjoint", GRIDS[1]) for method in ("bosh3", "dopri5")),
]


@pytest.mark.parametrize(("method", "gradient", "grid"), CASES)
def test_traced_solves_and_their_cost_are_the_native_ones(
    method: str, gradient: str, grid: list[float], traced: list[torch.fx.GraphModule]
) -> None:
    net, y0, times = Net(), start(), torch.tensor(grid).double()
    expected = gradients(net, y0, settings("native", method, gradient=gradient), times)
    for _ in range(3):  # natively, compiled, and so again
        found = gradients(net, y0, settings("compiled", method, gradient=gradient), times)
        assert found[1] == expected[1]
        same(found[0], expected[0])
    assert traced


def test_tolerances_and_times_may_change_from_solve_to_solve(
    traced: list[torch.fx.GraphModule],
) -> None:
    net, y0 = Net(), start()
    for tolerance, grid in [(1e-4, PADDED[0]), (1e-4, PADDED[0]), (1e-8, PADDED[0]),
                            (1e-8, [0.0, 0.1, 0.2, 0.7]), (1e-4, PADDED[0])]:  # fmt: skip
        given: dict[str, Any] = {"gradient": "checkpoint", "rtol": tolerance, "atol": tolerance}
        times = torch.tensor(grid).double()
        expected = gradients(net, y0, settings("native", **given), times)
        found = gradients(net, y0, settings("compiled", **given), times)
        assert found[1] == expected[1]
        same(found[0], expected[0])
    assert len(traced) == 2  # a plan stands for all of them


@pytest.mark.parametrize("loss", [Tensor.sum, lambda ys: (ys[1:].transpose(0, -1).exp()).sum()])
def test_a_gradient_may_lie_in_memory_as_it_likes(
    loss: Any, traced: list[torch.fx.GraphModule]
) -> None:
    net, y0 = Net(), start()
    wanted = [y0, *(p for p in net.parameters() if p.requires_grad)]
    found = []
    for backend in ("native", *["compiled"] * 3):
        ys = odeint(net, y0, UNIT, settings(backend, gradient="checkpoint")).ys
        gradients = torch.autograd.grad(
            loss(ys), wanted, allow_unused=True, materialize_grads=True
        )
        found.append(list(gradients))
    for one in found[1:]:
        same(one, found[0])
    assert len(traced) == 2


def test_in_single_precision_it_is_native_up_to_rounding(
    traced: list[torch.fx.GraphModule],
) -> None:
    """With tanh in the field, which is another one there, also where its slope vanishes."""

    class Bent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.layer(y).tanh() + (1e4 * y).tanh() * t

    torch.manual_seed(0)
    field, y0 = Bent(), start().detach().float().requires_grad_()
    times = torch.tensor(PADDED[0])
    expected = gradients(field, y0, settings("native", gradient="checkpoint"), times)
    for _ in range(3):
        found = gradients(field, y0, settings("compiled", gradient="checkpoint"), times)
        assert found[1] == expected[1]
        torch.testing.assert_close(found[0], expected[0], rtol=2e-5, atol=2e-6)
    assert traced


def test_a_compiled_training_is_that_of_the_native_backend() -> None:
    """Weights change in place between solves, and two solves come before their backward."""
    weights = []
    for backend in ("native", "compiled"):
        net, chosen = Net(), settings(backend, gradient="checkpoint")
        optimizer = torch.optim.Adam((p for p in net.parameters() if p.requires_grad), lr=0.05)
        for step in range(4):
            optimizer.zero_grad()
            ends = [odeint(net, start(seed=s), UNIT, chosen).ys[-1] for s in (step, step + 1)]
            (ends[0].square().mean() + 2 * ends[1].square().mean()).backward()
            optimizer.step()
        weights.append([p.detach() for p in net.parameters()])
    same(*weights)


def test_a_state_may_lie_in_memory_as_it_likes(traced: list[torch.fx.GraphModule]) -> None:
    layer = nn.Linear(1, 1).double()

    class Column(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return torch.cat([self.layer(y), y], dim=1)[:, :1]

    field, y0 = Column(), torch.arange(12.0).double().view(4, 3)[:, :1]
    expected = odeint(field, y0, UNIT, settings("native")).ys
    for _ in range(3):
        with torch.no_grad():
            same([odeint(field, y0, UNIT, settings("compiled")).ys], [expected.detach()])
    assert traced


def test_a_solve_of_any_length_goes_on_from_loop_to_loop(
    traced: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looped, "MOST_ROWS", 2)
    tight: dict[str, Any] = {"gradient": "checkpoint", "rtol": 1e-8, "atol": 1e-8}
    net, y0, times = Net(), start(), torch.tensor(GRIDS[-1]).double()
    expected = gradients(net, y0, settings("native", **tight), times)
    assert expected[1].steps_accepted > 4
    for _ in range(3):
        found = gradients(net, y0, settings("compiled", **tight), times)
        assert found[1] == expected[1]
        same(found[0], expected[0])
    assert len(traced) == 4  # the solve and its way back, each from the end and on the way


FAILURES: list[tuple[Any, dict[str, Any], bool]] = [
    (lambda t, y: torch.where(t < 0.5, y, y / 0.0), {}, False),
    (lambda t, y: y.sin() * 10, {"max_steps": 3}, True),
    (lambda t, y: y.square() * 2, {}, False),
    (lambda t, y: y + torch.nan, {}, True),
]


@pytest.mark.parametrize(
    ("function", "more", "exact"), FAILURES, ids=["jump", "limit", "explode", "nan"]
)
def test_a_loop_fails_as_the_native_backend_does(
    function: Any, more: dict[str, Any], exact: bool, traced: list[torch.fx.GraphModule]
) -> None:
    field, y0, said = Of(function), torch.ones(2).double(), []
    for chosen in (settings("native", **more), *[settings("compiled", **more)] * 3):
        with pytest.raises(SolverFailed) as caught, torch.no_grad():
            odeint(field, y0, torch.tensor([0.0, 0.7, 1.5]).double(), chosen)
        said.append(str(caught.value))
    if exact:
        assert said[1:] == said[:1] * 3
    else:  # steps within rounding of a jump, or of infinity, are as many as rounding makes them
        assert len({re.sub(r"after .* steps \(dt=.*\)", "", text) for text in said}) == 1
    assert traced


def test_a_compiled_adjoint_goes_back_to_python_for_no_operator(
    traced: list[torch.fx.GraphModule],
) -> None:
    """The compiler has no loops for those over lists of tensors, and says so at each of them."""
    net = Net()
    for _ in range(3):
        gradients(net, start(), settings("compiled", method="bosh3", gradient="adjoint"))
    parts = [m for g in traced for m in g.modules() if isinstance(m, torch.fx.GraphModule)]
    operators = {str(node.target) for part in parts for node in part.graph.nodes}
    assert "aten.linalg_vector_norm.default" in operators
    assert not [operator for operator in operators if "_foreach" in operator]
