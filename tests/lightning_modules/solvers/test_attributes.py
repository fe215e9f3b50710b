"""What a field reads beside its tensors is in backward, and in a plan, what it was, or is told."""

import functools
import random
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from against_native import UNIT
from torch import Tensor, nn
from uncompiled import traced

from lightning_modules.solvers import SolverSettings, odeint
from lightning_modules.solvers.attributes import kind_of, reads_mode

__all__ = ["traced"]


class Decay(nn.Module):
    """dy/dt = -w k y, where k is found in a way of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones((), dtype=torch.float64))

    def rate(self) -> Any:
        return 1.0

    def change(self) -> None: ...

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -y * self.w * self.rate()


class ByMode(Decay):
    def rate(self) -> Any:
        return 2.0 if self.training else 1.0

    def change(self) -> None:
        self.eval()


class ByNumPy(Decay):
    def __init__(self) -> None:
        super().__init__()
        self.k = np.sqrt(4.0)

    def rate(self) -> Any:
        return self.k

    def change(self) -> None:
        self.k = np.sqrt(1.0)


class ByClass(Decay):
    k = 2.0

    def rate(self) -> Any:
        return self.k

    def change(self) -> None:
        type(self).k = 1.0


class ByMethod(Decay):
    def change(self) -> None:
        type(self).rate = Decay.rate  # type: ignore[method-assign]


class ByCode(Decay):
    """As IPython's autoreload changes the methods of a class that was edited."""

    def change(self) -> None:
        type(self).rate.__code__ = Decay.rate.__code__


class ByDefault(Decay):
    """As autoreload changes them too."""

    def rate(self, k: float = 2.0) -> Any:
        return k

    def change(self) -> None:
        type(self).rate.__defaults__ = (1.0,)


def _constant(k: float) -> Callable[[Any], float]:
    return lambda self: k


class ByCell(Decay):
    """A method made anew by the same function."""

    rate = _constant(2.0)

    def change(self) -> None:
        type(self).rate = _constant(1.0)


def _times(factor: float) -> Callable[[Any], Any]:
    def decorate(method: Any) -> Any:
        @functools.wraps(method)
        def wrapped(self: Any) -> Any:
            return factor * method(self)

        return wrapped

    return decorate


class ByDecorator(Decay):
    rate = _times(2.0)(Decay.rate)

    def change(self) -> None:
        type(self).rate = _times(1.0)(Decay.rate)


class ByPartial(ByClass):
    k: Any = functools.partial(float, 2.0)

    def rate(self) -> Any:
        return self.k()

    def change(self) -> None:
        type(self).k = functools.partial(float, 1.0)


class ByOperator(ByClass):
    k: Any = torch.square

    def rate(self) -> Any:
        return self.k(self.w) + 1.0

    def change(self) -> None:
        type(self).k = torch.exp


class BoundByHand(Decay):
    """A function of this field alone, whose code is changed."""

    def __init__(self) -> None:
        super().__init__()

        def k(self: Any) -> float:
            return 2.0

        self.k = types.MethodType(k, self)

    def rate(self) -> Any:
        return self.k()

    def change(self) -> None:
        self.k.__func__.__code__ = (lambda self: 1.0).__code__


class BySlot(ByNumPy):
    __slots__ = ("k",)


class ByFunction(Decay):
    def __init__(self) -> None:
        super().__init__()
        k = 2.0

        def rate() -> float:
            return k

        def change() -> None:
            nonlocal k
            k = 1.0

        self.rate, self.change = rate, change  # type: ignore[method-assign]


def _as_is(method: Any) -> Any:
    @functools.wraps(method)
    def wrapped(*arguments: Any) -> Any:
        return method(*arguments)

    return wrapped


class ByWrappedMode(ByMode):
    rate = _as_is(ByMode.rate)


EDITED: list[Any] = [ByMethod, ByCode, ByDefault, ByCell, ByDecorator, ByPartial, ByOperator]
FIELDS = [ByMode, ByWrappedMode, ByNumPy, ByClass, *EDITED, BySlot, ByFunction]


@pytest.fixture(autouse=True)
def _same_classes() -> None:
    ByClass.k = 2.0
    for kind in (ByMethod, ByCode):
        kind.rate = lambda self: 2.0  # type: ignore[method-assign]
    ByDefault.rate.__defaults__ = (2.0,)
    ByCell.rate = _constant(2.0)
    ByDecorator.rate = _times(2.0)(Decay.rate)
    ByPartial.k, ByOperator.k = functools.partial(float, 2.0), torch.square


def _settings(backend: str, gradient: str) -> SolverSettings:
    return SolverSettings(backend, "rk4", step_size=0.25, gradient=gradient)  # type: ignore[arg-type]


def _solved(field: Any, backend: str = "native", gradient: str = "checkpoint") -> Tensor:
    y0 = torch.ones(1, dtype=torch.float64, requires_grad=True)
    return odeint(field, y0, UNIT, _settings(backend, gradient)).ys[-1].sum()


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_what_a_field_reads_must_be_in_backward_what_it_was(
    kind: type[Decay], gradient: str
) -> None:
    field = kind()
    loss = _solved(field, gradient=gradient)
    field.change()
    with pytest.raises(RuntimeError, match=r"'(training|k|methods)' was changed between forward"):
        loss.backward()


@pytest.mark.parametrize("kind", [*FIELDS, BoundByHand])
def test_a_plan_is_not_that_of_other_numbers(kind: type[Decay], traced: list[Any]) -> None:
    field = kind()
    for _ in range(2):
        _solved(field, "compiled").backward()
    assert traced
    field.change()
    found, wanted = _solved(field, "compiled"), _solved(field)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)


def test_layers_that_read_their_mode_are_told_from_those_that_do_not() -> None:
    reading = [nn.Dropout(), nn.BatchNorm1d(2), nn.MultiheadAttention(2, 1), nn.LSTM(2, 2)]
    assert all(reads_mode(x, kind_of(type(x))) for x in [*reading, ByMode()])
    others = [nn.Linear(2, 2), nn.GroupNorm(1, 2), nn.Tanh(), ByClass()]
    assert not any(reads_mode(x, kind_of(type(x))) for x in others)
    field = Decay()
    loss = _solved(field)
    field.eval()
    loss.backward()


def test_a_global_that_only_shares_a_methods_name_is_not_read() -> None:
    known: dict[str, Any] = {"mean": 1.0}
    exec("field = lambda t, y: y.mean() - y", known)
    loss = _solved(known["field"])
    known["mean"] = 2.0
    loss.backward()


def test_a_plan_is_not_made_where_a_tensor_of_the_class_is_written_to(traced: list[Any]) -> None:
    class Counts(Decay):
        calls = torch.zeros(())

        def rate(self) -> Any:
            self.calls.add_(1)
            return 1.0

    field = Counts()
    _solved(field, "compiled").backward()
    with pytest.warns(UserWarning, match="solved step by step"):
        _solved(field, "compiled").backward()


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
def test_what_a_function_closes_over_must_be_in_backward_what_it_was(gradient: str) -> None:
    k = torch.tensor(2.0, dtype=torch.float64)
    loss = _solved(lambda t, y: -k * y, gradient=gradient)
    k.fill_(1.0)
    with pytest.raises(RuntimeError, match="'k' was changed between forward"):
        loss.backward()


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_fields_that_draw_numbers_which_torch_does_not_know_are_solved_natively(
    draw: Callable[[], float], traced: list[Any]
) -> None:
    class Noisy(Decay):
        def rate(self) -> Any:
            return draw()

    field = Noisy()
    with pytest.warns(UserWarning, match="draws random numbers of Python or NumPy"):
        losses = [float(_solved(field, "compiled").detach()) for _ in range(3)]
    assert len(set(losses)) == 3


class InPlace(nn.Module):
    """A field that writes to what it is given.

    Args:
        name: ``t`` or ``y``.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        (t if self.name == "t" else y).mul_(2)
        return -y * t


@pytest.mark.parametrize("name", ["t", "y"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(
    "settings",
    [
        SolverSettings("native", "rk4", gradient="checkpoint"),
        SolverSettings("compiled", "rk4", gradient="checkpoint"),
        SolverSettings("torchdiffeq", "euler", gradient="adjoint"),
        SolverSettings("scipy", "lsoda", gradient="adjoint", adjoint_norm="rms"),
    ],
    ids=lambda settings: settings.backend,
)
def test_a_field_that_writes_to_what_it_is_given_is_refused(
    name: str, mode: Any, settings: SolverSettings
) -> None:
    what = {"t": "time", "y": "state"}[name]
    y0 = torch.ones(2, dtype=torch.float64)
    for _ in range(2):
        with mode(), pytest.raises(RuntimeError, match=rf"its {what} in place.*{name}\.clone"):
            odeint(InPlace(name), y0.clone(), UNIT.clone(), settings)


def test_inference_mode_solves_what_no_grad_does() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(2, 2), torch.randn(3, 2)
    times = torch.tensor([0.0, 1.0])
    with torch.no_grad():
        wanted = odeint(lambda t, y: torch.tanh(net(y)), x, times, SolverSettings()).ys
    with torch.inference_mode():
        found = odeint(lambda t, y: torch.tanh(net(y)), x + 0, times + 0, SolverSettings()).ys
    assert torch.equal(found, wanted)
