"""What happens to a field between a solve by a plan and its way back is noticed, or harmless."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from against_native import UNIT, same, start
from host_recorder import HostRecorder, recorders
from torch import Tensor, nn
from uncompiled import traced

from lightning_modules.solvers import SolverSettings, odeint
from lightning_modules.solvers.recorded import plans
from lightning_modules.solvers.tree import modules_of, parameters_of

__all__ = ["recorders", "traced"]
BACKENDS = ("native", "compiled", "captured")


class Field(nn.Module):
    """dy/dt = W tanh(…) with a frozen weight, a buffer and tensors that are attributes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(2, 2).double()
        self.frozen = nn.Parameter(torch.ones(2).double(), requires_grad=False)
        self.register_buffer("buffer", torch.ones(2).double())
        self.attribute = torch.ones(2).double()
        self.detached = 1.0 * self.linear.weight.diagonal()  # of a graph that it is used without

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        scale = self.frozen * self.buffer * self.attribute * self.detached.detach()
        return self.linear(torch.tanh(scale * y))


def _settings(backend: str) -> SolverSettings:
    return SolverSettings(backend, rtol=1e-6, atol=1e-6, gradient="checkpoint")


def _loss(field: nn.Module, backend: str) -> Tensor:
    loss: Tensor = odeint(field, start(), UNIT, _settings(backend)).ys.square().sum()
    return loss


def _planned(field: nn.Module, backend: str) -> Tensor:
    """Solve until there is a plan, by which the last of the solves has gone."""
    for _ in range(2):
        _loss(field, backend).backward()
    field.zero_grad()
    loss = _loss(field, backend)
    assert backend == "native" or len(plans._FIELDS[field].plans) == 1
    return loss


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["frozen", "buffer", "attribute", "detached"])
def test_a_tensor_that_backward_reads_again_and_that_was_written_to_is_noticed(
    name: str, backend: str, traced: list[Any], recorders: list[HostRecorder]
) -> None:
    field = Field()
    loss = _planned(field, backend)
    with torch.no_grad():
        getattr(field, name).mul_(2.0)
    with pytest.raises(RuntimeError, match=r"between forward and backward|modified by an inplace"):
        loss.backward()
    _loss(field, backend).backward()  # the next pair is none the wiser


def _weight(field: Field) -> None:
    field.linear.weight = nn.Parameter(2 * field.linear.weight.detach())


def _buffer(field: Field) -> None:
    field.buffer = 2 * field.buffer


def _freeze(field: Field) -> None:
    field.linear.bias.requires_grad_(False)


@pytest.mark.parametrize("change", [_weight, _buffer, _freeze])
def test_a_plan_goes_back_through_the_tensors_that_it_came_by(
    change: Callable[[Field], None], traced: list[Any]
) -> None:
    """As autograd does; who evaluates the field again would meet others and refuses them."""
    field = Field()
    (expected,) = torch.autograd.grad(_loss(field, "native"), field.linear.weight)
    loss, weight = _planned(field, "compiled"), field.linear.weight
    change(field)
    (found,) = torch.autograd.grad(loss, weight)
    same([found], [expected])

    field = Field()
    loss = _loss(field, "native")
    change(field)
    with pytest.raises(RuntimeError, match="between forward and backward"):
        loss.backward()


def test_averages_that_a_solve_by_a_plan_only_passes_by_are_no_change(traced: list[Any]) -> None:
    """As of an encoder that the field owns, beside which it is solved."""
    field = Field()
    field.norm = nn.BatchNorm1d(2).double()
    loss = _planned(field, "compiled")
    field.norm(torch.randn(4, 2).double())
    loss.backward()
    (expected,) = torch.autograd.grad(_loss(field, "native"), field.linear.weight)
    same([field.linear.weight.grad], [expected])  # type: ignore[list-item]


class Acts(nn.Module):
    """A field whose layers have nothing but their kind to tell them apart."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(2, 2).double()
        self.acts = nn.Sequential(nn.Tanh(), nn.Sigmoid())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.acts(self.linear(y))


def _other(field: Acts) -> None:
    field.acts[0] = nn.SiLU()


def _in_its_place(field: Acts) -> None:
    del field.acts[0]  # whose place in memory the next one may get
    field.acts.insert(0, nn.SiLU())


def _equal(field: Acts) -> None:
    field.acts[0] = nn.Tanh()


def _turned(field: Acts) -> None:
    field.acts[0], field.acts[1] = field.acts[1], field.acts[0]


REPLACED = [_other, _in_its_place, _turned]


@pytest.mark.parametrize("backend", ["compiled", "captured"])
@pytest.mark.parametrize("replace", REPLACED)
def test_a_field_with_another_layer_is_another_field(
    replace: Callable[[Acts], None],
    backend: str,
    traced: list[Any],
    recorders: list[HostRecorder],
) -> None:
    field = Acts()
    _planned(field, backend)
    replace(field)
    with torch.no_grad():
        same([_loss(field, backend)], [_loss(field, "native")])


def test_a_field_with_a_new_layer_that_is_like_the_old_one_keeps_its_plan(
    traced: list[Any],
) -> None:
    field = Acts()
    _planned(field, "compiled")
    made = len(traced)
    for _ in range(3):
        _equal(field)
        _loss(field, "compiled").backward()
    assert len(plans._FIELDS[field].plans) == 1
    assert len(traced) == made


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("replace", REPLACED)
def test_a_layer_that_was_replaced_is_noticed(
    replace: Callable[[Acts], None], gradient: Any
) -> None:
    field, chosen = Acts(), SolverSettings("native", gradient=gradient)
    loss = odeint(field, start(), UNIT, chosen).ys.sum()
    replace(field)
    with pytest.raises(RuntimeError, match="modules were replaced between forward and backward"):
        loss.backward()


@pytest.mark.parametrize("changed", [False, True])
def test_where_the_recorded_way_back_is_gone_the_field_must_be_what_it_was(
    changed: bool, recorders: list[HostRecorder]
) -> None:
    field = Field()
    loss = _planned(field, "captured")
    (plan,) = plans._FIELDS[field].plans.values()
    plan._sweep = None  # as after another solve for whose recording there was no memory
    if changed:
        field.attribute = torch.ones(2).double()
        with pytest.raises(RuntimeError, match="field was changed between forward and backward"):
            loss.backward()
    else:
        loss.backward()
        (expected,) = torch.autograd.grad(_loss(field, "native"), field.linear.weight)
        same([field.linear.weight.grad], [expected])  # type: ignore[list-item]


@pytest.mark.parametrize("backend", ["compiled", "captured"])
def test_a_weak_proxy_of_a_field_is_solved_natively(
    backend: str, traced: list[Any], recorders: list[HostRecorder]
) -> None:
    field = Acts()
    for _ in range(3):
        with torch.no_grad():
            same([_loss(weakref.proxy(field), backend)], [_loss(field, "native")])
    assert not traced
    assert not recorders


class Shared(nn.Module):
    """Modules within modules, one of them twice, one not there."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2)))
        self.second, self.none = self.first[0], None
        self.register_module("missing", None)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_the_modules_of_a_field_are_those_that_torch_finds() -> None:
    for field in (Shared(), nn.Sequential(), torch.jit.script(nn.Linear(2, 2))):
        assert modules_of(field) == list(field.modules())
    shared = Shared()
    assert modules_of(weakref.proxy(shared)) == [*shared.modules()]
    assert modules_of(lambda t, y: y) == []


class Chosen(Shared):
    """A module that lists its parameters in its own way."""

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield those of one layer."""
        return self.second.parameters()


def _tied() -> nn.Module:
    layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    layers[1].weight = layers[0].weight
    return layers


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_the_parameters_of_a_field_are_those_that_torch_lists() -> None:
    shared = Shared()
    fields = (shared, Chosen(), _tied(), torch.jit.script(nn.Linear(2, 2)), weakref.proxy(shared))
    for field in fields:
        assert list(map(id, parameters_of(field))) == list(map(id, field.parameters()))
    assert list(parameters_of(lambda t, y: y)) == []
