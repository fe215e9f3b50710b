"""What cannot be compiled is solved natively, and what is no loop step by step."""

import warnings
from typing import Any

import pytest
import torch
from against_native import GRIDS, UNIT, gradients, same, settings, start
from problems import Net
from torch import Tensor, nn
from uncompiled import traced

from lightning_modules.nets import PlanarField
from lightning_modules.solvers import odeint
from lightning_modules.solvers.compiled import inductor, looped
from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.recorded import plans

__all__ = ["traced"]


def told_once(net: nn.Module, y0: Tensor) -> str:
    """Return the one warning of several solves, which are the native ones."""
    expected = gradients(net, y0, settings("native", gradient="checkpoint"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(4):
            found = gradients(net, y0, settings("compiled", gradient="checkpoint"))
            assert found[1] == expected[1]
            same(found[0], expected[0])
    (warning,) = told
    return str(warning.message)


def test_without_a_compiler_it_is_native_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*_: Any) -> None:
        raise RuntimeError("No working C++ compiler found\nin 3 places")

    monkeypatch.setattr(torch._inductor, "compile", absent)
    net, y0 = Net(), start()
    said = told_once(net, y0)
    assert "No working C++ compiler found" in said
    assert "in 3 places" not in said


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


class Attentive(nn.Module):
    """States of three particles that look at one another."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, dropout=0.5, batch_first=True).double().eval()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.attention(y, y, y, need_weights=False)[0]
        return found


class Recurrent(nn.Module):
    """States of three places, read one after another."""

    def __init__(self, kind: type[nn.RNNBase], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.layers = kind(2, 2, batch_first=True, dtype=dtype)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        found: Tensor = self.layers(y)[0]
        return found


@pytest.mark.parametrize(
    "field", [Attentive(), Recurrent(nn.GRU), Recurrent(nn.RNN)], ids=["attention", "gru", "rnn"]
)
def test_layers_that_could_drop_out_and_do_not_are_compiled(
    field: nn.Module, traced: list[torch.fx.GraphModule]
) -> None:
    y0 = start(6).detach().view(2, 3, 2).requires_grad_()
    chosen: dict[str, Any] = {"method": "euler", "gradient": "checkpoint"}
    expected = gradients(field, y0, settings("native", **chosen))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            found = gradients(field, y0, settings("compiled", **chosen))
            assert found[1] == expected[1]
            same(found[0], expected[0])
    assert traced


def test_attention_that_drops_out_is_solved_natively(traced: list[torch.fx.GraphModule]) -> None:
    field, y0 = Attentive().train(), start(6).detach().view(2, 3, 2)
    chosen = settings("compiled", method="rk4", gradient="checkpoint")
    odeint(field, y0, UNIT, chosen)
    with pytest.warns(UserWarning, match="random numbers"):
        odeint(field, y0, UNIT, chosen)
    assert not traced


def test_a_gradient_that_the_compiler_gets_wrong_is_made_natively(
    traced: list[torch.fx.GraphModule],
) -> None:
    field, y0 = Recurrent(nn.LSTM, torch.float32), start(6).detach().float().view(2, 3, 2)
    chosen: dict[str, Any] = {"method": "euler", "gradient": "checkpoint"}
    y0.requires_grad_()
    expected = gradients(field, y0, settings("native", **chosen))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            found = gradients(field, y0, settings("compiled", **chosen))
            assert found[1] == expected[1]
            torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert [w for w in told if "the gradient of an LSTM" in str(w.message)] == told != []
    assert traced  # the forward solve


def test_what_would_compile_for_long_is_solved_natively(
    traced: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inductor, "MOST_OPERATORS", 30)
    net, y0 = Net(), start()
    assert "operators, and those of more than 30" in told_once(net, y0)
    assert not traced


@pytest.mark.stress  # half a minute of tracing
def test_the_flow_of_the_benchmark_does_not_compile_for_too_long(
    traced: list[torch.fx.GraphModule],
) -> None:
    field, y0 = PlanarField(2, 4, 3, [0]), torch.zeros(1, 3, 5).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            found = gradients(field, y0, settings("compiled", gradient="checkpoint"))
    assert len(traced) == 2
    torch.testing.assert_close(
        found[0], gradients(field, y0, settings("native", gradient="checkpoint"))[0]
    )


def test_a_large_state_is_solved_step_by_step() -> None:
    """What a loop copies would cost more than Python between the steps."""
    chosen, large = settings("compiled"), looped.STATE_BYTES // 8 + 1
    assert looped.loops(torch.zeros(large - 1).double(), chosen, 1)
    assert not looped.loops(torch.zeros(large).double(), chosen, 1)
    assert not looped.loops(torch.zeros(large - 1).double(), chosen, 1024)
    assert not looped.loops(torch.zeros(1).double(), settings("compiled", method="rk4"), 1)
    assert not looped.loops(torch.zeros(1).double(), settings("compiled", method="bosh3"), 1)
