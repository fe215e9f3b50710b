"""What cannot be compiled is solved natively, and what is no loop step by step."""

import warnings
from typing import Any

import pytest
import torch
from against_native import GRIDS, UNIT, gradients, same, settings, start
from problems import Net
from torch import Tensor, nn
from uncompiled import traced

from lightning_modules.solvers import odeint
from lightning_modules.solvers.compiled import inductor, looped
from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.recorded import plans

__all__ = ["traced"]


def test_without_a_compiler_it_is_native_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*_: Any) -> None:
        raise RuntimeError("No working C++ compiler found\nin 3 places")

    monkeypatch.setattr(torch._inductor, "compile", absent)
    net, y0 = Net(), start()
    expected = gradients(net, y0, settings("native", gradient="checkpoint"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(4):
            found = gradients(net, y0, settings("compiled", gradient="checkpoint"))
            assert found[1] == expected[1]
            same(found[0], expected[0])
    (warning,) = told
    assert "No working C++ compiler found" in str(warning.message)
    assert "in 3 places" not in str(warning.message)


def test_a_field_that_draws_random_numbers_is_solved_natively(
    traced: list[torch.fx.GraphModule],
) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net.double()

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y)

    field = Noisy()
    chosen = settings("compiled", method="rk4", gradient="checkpoint")
    odeint(field, start(), UNIT, chosen)
    with pytest.warns(UserWarning, match="random numbers"):
        odeint(field, start(), UNIT, chosen)
    assert not traced


class Reader(nn.Module):
    """Reads numbers of its state past torch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layer(y) * torch.from_numpy(y.detach().numpy()).abs().neg().exp()


class Selective(nn.Module):
    """Its gradient decides by a number, its slopes are a column of a wider tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3).double()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        found: Tensor = _Decides.apply(self.layer(y))
        return found[:, :1]


class _Decides(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * x.cos() * (2.0 if float(x.sum()) > 1e9 else 1.0)


@pytest.mark.parametrize("field", [Reader(), Selective()], ids=["numpy", "backward"])
def test_what_depends_on_numbers_is_solved_natively(
    field: nn.Module, traced: list[torch.fx.GraphModule]
) -> None:
    y0 = start() if isinstance(field, Reader) else start(3)[:, :1].detach().requires_grad_()
    expected = gradients(field, y0, settings("native", gradient="checkpoint"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            found = gradients(field, y0, settings("compiled", gradient="checkpoint"))
            assert found[1] == expected[1]
            same(found[0], expected[0])
    assert "step by step" in str(told[0].message)


def test_who_needs_ever_new_plans_is_solved_natively(
    traced: list[torch.fx.GraphModule],
) -> None:
    """Weights that are replaced at every update would be compiled at every second one."""
    net, chosen = Net(), settings("compiled", method="euler", gradient="checkpoint")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for size in range(1, plans.MOST_MADE + 3):
            for _ in range(2):
                found = gradients(net, start(size), chosen)
            same(found[0], gradients(net, start(size), settings("native", "euler"))[0])
    (warning,) = told
    assert "pad batches" in str(warning.message)
    assert len(traced) == 2 * plans.MOST_MADE  # a step, and its way back


def test_a_loop_that_cannot_go_on_is_solved_natively(
    traced: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the compiler is gone when a solve needs more steps than the loop has room for."""
    monkeypatch.setattr(looped, "MOST_ROWS", 2)
    loose: dict[str, Any] = {"gradient": "checkpoint", "rtol": 1e-2, "atol": 1e-2}
    tight: dict[str, Any] = {"gradient": "checkpoint", "rtol": 1e-8, "atol": 1e-8}
    net, y0 = Net(), start()
    for _ in range(2):
        gradients(net, y0, settings("compiled", **loose))
    assert traced

    def gone(*_: Any, **__: Any) -> None:
        raise Unrecordable("No working C++ compiler found")

    monkeypatch.setattr(looped, "compiled_loop", gone)
    expected = gradients(net, y0, settings("native", **tight))
    with pytest.warns(UserWarning, match="No working"):
        found = gradients(net, y0, settings("compiled", **tight))
    assert found[1] == expected[1]
    same(found[0], expected[0])


@pytest.mark.parametrize("loops", [0, 1], ids=["forward", "back"])
def test_what_is_no_loop_is_done_step_by_step(
    loops: int, traced: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By compiled steps where the solve is no loop, natively where the way back is none."""
    made = []

    def sometimes(*arguments: Any, **more: Any) -> Any:
        made.append(arguments)
        if len(made) > loops:
            raise Unrecordable("its inputs share memory")
        return inductor.compiled_loop(*arguments, **more)

    monkeypatch.setattr(looped, "compiled_loop", sometimes)
    net, y0, times = Net(), start(), torch.tensor(GRIDS[-1]).double()
    expected = gradients(net, y0, settings("native", gradient="checkpoint"), times)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            found = gradients(net, y0, settings("compiled", gradient="checkpoint"), times)
            assert found[1] == expected[1]
            same(found[0], expected[0])
    assert len(told) == loops
    assert traced


def test_a_large_state_is_solved_step_by_step() -> None:
    """What a loop copies would cost more than Python between the steps."""
    chosen, large = settings("compiled"), looped.STATE_BYTES // 8 + 1
    assert looped.loops(torch.zeros(large - 1).double(), chosen, 1)
    assert not looped.loops(torch.zeros(large).double(), chosen, 1)
    assert not looped.loops(torch.zeros(large - 1).double(), chosen, 1024)
    assert not looped.loops(torch.zeros(1).double(), settings("compiled", method="rk4"), 1)
    assert not looped.loops(torch.zeros(1).double(), settings("compiled", method="bosh3"), 1)
