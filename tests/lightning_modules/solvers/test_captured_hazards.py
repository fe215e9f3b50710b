"""Fields that cannot be recorded are solved as natively; nothing recorded goes stale."""

import copy
import gc
import pickle
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from host_recorder import HostRecorder, recorders
from problems import Net
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from uncompiled import traced

from lightning_modules.solvers import SolverSettings, odeint, watch_steps
from lightning_modules.solvers.identity import Unrecordable, fingerprint
from lightning_modules.solvers.recorded import plans
from lightning_modules.solvers.recorded.inspection import rehearse

__all__ = ["recorders", "traced"]
UNIT = torch.tensor([0.0, 1.0]).double()
CAPTURED = SolverSettings("captured", gradient="checkpoint")
NATIVE = SolverSettings("native", gradient="checkpoint")
CPU = torch.device("cpu")


class Field(nn.Module):
    """A linear field with something beside."""

    def __init__(self, beside: Callable[["Field", Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2).double()
        nn.init.constant_(self.linear.weight, -0.3)
        nn.init.constant_(self.linear.bias, 0.1)
        self.register_buffer("scale", torch.ones(2).double())
        self.beside = beside or (lambda field, t, y: y)
        self.factor = 1.0
        self.calls = 0

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.linear(self.beside(self, t, y)) * self.scale * self.factor


def solved(field: nn.Module, settings: SolverSettings = CAPTURED, size: int = 3) -> list[Tensor]:
    y0 = torch.linspace(-1, 1, 2 * size, dtype=torch.float64).view(size, 2).requires_grad_()
    ys = odeint(field, y0, UNIT, settings).ys
    return [ys.detach(), *torch.autograd.grad(ys[-1].square().sum(), y0)]


@torch.no_grad()
def unrecorded(field: nn.Module, size: int = 3) -> list[Tensor]:
    """Solve without a backward pass, which no field survives that writes to its buffers."""
    return [odeint(field, torch.ones(size, 2).double(), UNIT, CAPTURED).ys]


def same(field: nn.Module) -> None:
    found, expected = solved(field), solved(field, NATIVE)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def reads(field: Field, t: Tensor, y: Tensor) -> Tensor:
    return y * float(y.detach().abs().max())


def decides(field: Field, t: Tensor, y: Tensor) -> Tensor:
    return -y if y.sum() > 100 else y


def masks(field: Field, t: Tensor, y: Tensor) -> Tensor:
    return torch.zeros_like(y).index_put((y > 0,), y[y > 0])


def draws(field: Field, t: Tensor, y: Tensor) -> Tensor:
    return y + 0 * torch.randn_like(y)


def writes(field: Field, t: Tensor, y: Tensor) -> Tensor:
    field.scale.add_(0.0)
    return y


def fails(field: Field, t: Tensor, y: Tensor) -> Tensor:
    if getattr(torch.utils._python_dispatch, "_len_torch_dispatch_stack")():  # noqa: B009
        raise OSError("not under a mode")
    return y


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (reads, "depends on the values of a tensor"),
        (decides, "depends on the values of a tensor"),
        (masks, "depends on the values of a tensor"),
        (draws, "draws random numbers"),
        (writes, "writes to its buffers"),
        (fails, "OSError: not under a mode"),
    ],
)
def test_a_field_that_cannot_be_recorded_is_solved_natively_with_one_warning(
    beside: Any, said: str, recorders: list[HostRecorder]
) -> None:
    field, solve = Field(beside), unrecorded if beside is writes else solved
    solve(field)
    with pytest.warns(UserWarning, match=f"Field is solved step by step.*{said}") as caught:
        found = solve(field)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (4, 4, 3):
            again = solve(field, size=size)
    torch.testing.assert_close(again, found, rtol=0, atol=0)
    assert sum(recorder.recorded + recorder.replays for recorder in recorders) == 0
    healthy = Field()
    for _ in range(3):
        same(healthy)
    assert recorders[-1].replays  # the others of this process go on


def test_a_dropout_is_recorded_where_it_is_off(recorders: list[HostRecorder]) -> None:
    dropout = nn.Dropout(0.5)
    field = Field(lambda self, t, y: dropout(y))
    field.dropout = dropout
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solved(field)
    field.eval()
    for _ in range(3):
        same(field)
    assert recorders[-1].replays


def test_a_batch_norm_is_recorded_where_its_buffers_rest(recorders: list[HostRecorder]) -> None:
    norm = nn.BatchNorm1d(2).double()
    field = Field(lambda self, t, y: norm(y))
    field.norm = norm
    solved(field)
    counted = int(norm.num_batches_tracked)
    evaluations = counted
    with pytest.warns(UserWarning, match="batch norms in training"):
        solved(field)
    assert int(norm.num_batches_tracked) == counted + evaluations  # the rehearsal left no trace
    field.eval()
    for _ in range(3):
        same(field)
    norm.running_mean.add_(0.5)
    same(field)
    assert recorders[-1].replays


class Averaging(nn.Module):
    """Normalises by a batch and keeps averages, whose writing nothing counts."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.25, -3.0]).double())
        self.register_buffer("variance", torch.tensor([1.0, 2.0]).double())

    def forward(self, y: Tensor) -> Tensor:
        return nn.functional.batch_norm(y, self.mean, self.variance, training=True)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2).double(), Averaging()])
def test_a_rehearsal_leaves_averages_as_they_were(norm: nn.Module) -> None:
    y = torch.randn(5, 2).double()
    before = {name: (x.clone(), x._version) for name, x in norm.named_buffers()}
    with pytest.raises(Unrecordable, match="writes to its buffers"):
        rehearse(lambda: norm(y), norm, CPU)
    for name, x in norm.named_buffers():
        torch.testing.assert_close((x, x._version), before[name], rtol=0, atol=0)


def test_buffers_of_any_kind_are_no_reason_to_refuse() -> None:
    field = Field()
    field.register_buffer("nothing", torch.tensor([float("nan"), 1.0]))
    field.register_buffer("mask", torch.tensor([True, False]))
    field.register_buffer("wide", torch.ones(1).expand(3))
    field.register_buffer("unused", torch.empty(2, device="meta"))
    rehearse(lambda: field(torch.tensor(0.0), torch.ones(3, 2).double()), field, CPU)


def test_a_buffer_that_gets_other_memory_is_refused_and_put_back() -> None:
    def caches(field: Field, t: Tensor, y: Tensor) -> Tensor:
        field.scale.data = torch.ones(3, 2).double()
        return y

    field = Field(caches)
    memory = field.scale.data_ptr()
    with pytest.raises(Unrecordable, match="changes its attributes"):
        rehearse(lambda: field(torch.tensor(0.0), torch.ones(3, 2).double()), field, CPU)
    assert (field.scale.data_ptr(), field.scale.shape) == (memory, (2,))


def test_a_field_with_a_sparse_buffer_is_solved_natively(recorders: list[HostRecorder]) -> None:
    field = Field()
    field.register_buffer("few", torch.eye(2).to_sparse())
    with pytest.warns(UserWarning, match="step by step.*sparse"):
        solved(field)
    same(field)
    assert not any(recorder.replays for recorder in recorders)


def test_a_field_that_counts_its_calls_goes_on_counting(recorders: list[HostRecorder]) -> None:
    def count(field: Field, t: Tensor, y: Tensor) -> Tensor:
        field.calls += 1
        return y

    field, counts = Field(count), []
    for _ in range(4):
        before = field.calls
        solved(field)
        counts.append(field.calls - before)
    assert len(set(counts)) == 1
    assert not any(recorder.replays for recorder in recorders)


def test_hooks_are_called(recorders: list[HostRecorder]) -> None:
    field, calls = Field(), []
    field.linear.register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="a Linear has hooks"):
        counts = [(solved(field), len(calls))[1] for _ in range(4)]
    assert counts == [counts[0] * n for n in (1, 2, 3, 4)]


def test_attributes_that_change_are_another_field(recorders: list[HostRecorder]) -> None:
    field = Field()
    for factor in (1.0, 2.0, 1.0, 2.0, 1.0):
        field.factor = factor
        same(field)
    field.beside = lambda self, t, y: 2 * y
    for _ in range(3):
        same(field)
    field.scale = torch.full((2,), 0.5).double()
    same(field)
    field.scale.mul_(0.5)
    same(field)
    field.half()
    field.double()
    same(field)


def test_those_who_look_on_see_every_step(recorders: list[HostRecorder]) -> None:
    field, seen = Field(), []
    for _ in range(3):
        unrecorded(field)
    replayed = recorders[0].replays
    with watch_steps(seen.append):
        unrecorded(field)
    with FlopCounterMode(display=False) as flops:
        unrecorded(field)
    assert seen
    assert flops.get_total_flops()
    assert recorders[0].replays == replayed


def test_a_block_whose_activations_are_checkpointed_is_solved_natively(
    recorders: list[HostRecorder],
) -> None:
    """Hooks on saved tensors would reach the graphs that a recording makes, and make them anew."""
    field, y0 = Field(), torch.ones(3, 2).double().requires_grad_()
    expected = torch.autograd.grad(odeint(field, y0, UNIT, NATIVE).ys[-1].sum(), y0)
    for _ in range(3):
        end = checkpoint(
            lambda y: odeint(field, y, UNIT, CAPTURED).ys[-1], y0, use_reentrant=False
        )
        torch.testing.assert_close(torch.autograd.grad(end.sum(), y0), expected)
    assert not recorders


def test_a_scripted_part_is_solved_natively(recorders: list[HostRecorder]) -> None:
    scripted = torch.jit.script(nn.Linear(2, 2).double())
    field = Field(lambda self, t, y: scripted(y))
    field.scripted = scripted
    with pytest.warns(UserWarning, match="keeps its attributes out of sight"):
        solved(field)
    same(field)
    assert not recorders


def test_a_way_back_that_outgrows_the_memory_is_gone_natively(
    recorders: list[HostRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field()
    for _ in range(2):
        solved(field)
    (plan,) = plans._FIELDS[field].plans.values()
    plan._sweep._works.popitem()  # as before a solve whose steps are of another kind

    def record(*_: Any) -> None:
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(recorders[0], "record", record)
    with pytest.warns(UserWarning, match="does not fit into memory"):
        same(field)


def test_the_states_of_a_solve_go_with_it(recorders: list[HostRecorder]) -> None:
    field = Field()
    for _ in range(3):
        solved(field)
    (plan,) = plans._FIELDS[field].plans.values()
    assert not plan._sweep._starts
    assert not plan._sweep._clocks


def test_functions_are_not_recorded(recorders: list[HostRecorder]) -> None:
    def field(t: Tensor, y: Tensor) -> Tensor:
        return -y

    for _ in range(3):
        odeint(field, torch.ones(2).double(), UNIT, CAPTURED)
    assert not recorders


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_validation_amid_training_is_a_solve_like_any_other(
    mode: Any, recorders: list[HostRecorder]
) -> None:
    """Recorded first inside the mode: what it writes to must be writable outside too."""
    field = Field()
    y0 = torch.ones(3, 2).double()
    expected = odeint(field, y0, UNIT, NATIVE).ys.detach()
    for _ in range(3):
        with mode():
            torch.testing.assert_close(odeint(field, y0, UNIT, CAPTURED).ys, expected)
        same(field)
    with torch.no_grad():
        torch.testing.assert_close(odeint(field, y0, UNIT, CAPTURED).ys, expected)
    assert len(recorders) == 2  # with and without a backward pass
    assert all(recorder.replays for recorder in recorders)


def test_another_rounding_is_another_recording(recorders: list[HostRecorder]) -> None:
    """Set as PyTorch advises today, after which its older getters raise."""
    field, product = Field(), torch.backends.cuda.matmul
    before = product.fp32_precision
    try:
        for rounding in ("ieee", "tf32"):
            product.fp32_precision = rounding
            for _ in range(2):
                same(field)
    finally:
        product.fp32_precision = before
    assert len(recorders) == 2


def test_another_default_precision_is_another_recording(recorders: list[HostRecorder]) -> None:
    """A third that a field makes itself is another number then."""
    field = Field(lambda self, t, y: self.linear(y) * torch.full((2,), 1 / 3))
    try:
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            for _ in range(3):
                same(field)
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(recorders) == 2


def test_autocast_is_recorded_as_it_is_set(recorders: list[HostRecorder]) -> None:
    field = Field().float()
    y0 = torch.linspace(-1, 1, 6).view(3, 2)
    for dtype in (torch.bfloat16, None, torch.bfloat16, None, torch.bfloat16):
        found = []
        for settings in (NATIVE, CAPTURED):
            start = y0.clone().requires_grad_()
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                field.linear(y0)  # fills the cache of casts, which must not be recorded
                ys = odeint(field, start, UNIT.float(), settings).ys
                ys[-1].square().sum().backward()
            found.append((ys.detach(), start.grad))
        torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            field.linear.weight.mul_(1.1)
    assert len(recorders) == 2


def test_few_recordings_are_kept_and_none_longer_than_their_field(
    recorders: list[HostRecorder],
) -> None:
    field = Field()
    for size in range(1, plans.MOST_PLANS + 3):
        solved(field, size=size)
        solved(field, size=size)
    assert len(plans._FIELDS[field].plans) == plans.MOST_PLANS
    kept = [weakref.ref(plan) for plan in plans._FIELDS[field].plans.values()]
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None
    assert not any(reference() for reference in kept)


class Parametrized(nn.Module):
    """A linear field with a positive weight, whose class is made for it and refers to it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.1, -0.3], [0.2, 0.4]]).double())
        parametrize.register_parametrization(self, "weight", nn.Softplus())
        self.kind = type(self)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.weight


def test_a_field_whose_own_weight_is_parametrized_is_freed(recorders: list[HostRecorder]) -> None:
    field = Parametrized()
    for _ in range(2):
        solved(field)
    assert recorders
    gone = weakref.ref(field)
    del field
    gc.collect()
    assert gone() is None


class Conditioned(Field):
    """Looks at a tensor that is set anew before each solve."""

    context: Tensor


def test_a_tensor_that_is_set_anew_costs_no_plans_and_is_named(
    recorders: list[HostRecorder],
) -> None:
    field = Conditioned(lambda field, t, y: y + field.context)  # type: ignore[attr-defined]
    memory = torch.zeros(3, 2).double()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for i in range(3 * plans.MOST_CHANCES):
            memory.fill_(0.1 * i)
            field.context = memory[:]  # where the last one lay, as allocators are wont to place it
            same(field)
    (warning,) = told
    assert "another one again and again" in str(warning.message)
    assert not recorders
    field.context = memory
    for i in range(3):
        memory.fill_(0.1 * i)
        same(field)
    assert recorders[-1].replays


class Twice(nn.Module):
    """Two weights in the same memory, which may be one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([[0.1, -0.3], [0.2, 0.4]]).double())
        self.second = nn.Parameter(self.first.data)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(y @ self.first) @ self.second


@pytest.mark.parametrize("backend", ["captured", "compiled"])
def test_weights_in_the_same_memory_may_be_tied_and_untied(
    backend: str, recorders: list[HostRecorder], traced: list[torch.fx.GraphModule]
) -> None:
    field = Twice()

    def gradients(chosen: str) -> list[Tensor]:
        y0 = torch.tensor([[0.5, -1.0]]).double()
        settings = SolverSettings(chosen, "bosh3", gradient="checkpoint")
        loss = odeint(field, y0, UNIT, settings).ys[-1].sum()
        return list(torch.autograd.grad(loss, [*field.parameters()]))

    for second in (field.second, field.first, nn.Parameter(field.first.data)):
        field.second = second
        for _ in range(3):
            torch.testing.assert_close(gradients(backend), gradients("native"), rtol=1e-11, atol=0)
    assert recorders or traced


def test_a_tensor_is_known_in_a_list_of_modules_too(traced: list[torch.fx.GraphModule]) -> None:
    field = Field(lambda field, t, y: field.hidden[0](y))  # type: ignore[operator,index]
    field.hidden = [nn.Linear(2, 2).double()]  # type: ignore[assignment]
    tied: Any = field.hidden[0]
    tied.weight, tied.bias = field.linear.weight, field.linear.bias
    settings = SolverSettings("compiled", "euler", gradient="checkpoint")
    for _ in range(2):
        solved(field, settings)
    tied.weight = nn.Parameter(field.linear.weight.data)
    with pytest.raises(RuntimeError, match="is no parameter of it"):
        solved(field, settings)


class Child(nn.Module):
    """Knows its parent without keeping it alive."""

    def __init__(self, parent: Field) -> None:
        super().__init__()
        self.parent = weakref.ref(parent)

    def forward(self, y: Tensor) -> Tensor:
        parent = self.parent()
        assert parent is not None
        return y * parent.scale


def test_a_part_that_refers_to_the_whole_is_solved_natively(recorders: list[HostRecorder]) -> None:
    field = Field(lambda field, t, y: field.child(y))  # type: ignore[operator]
    field.child = Child(field)
    with pytest.warns(UserWarning, match="ReferenceType, of which changes would go unseen"):
        solved(field)
    same(field)
    assert not recorders


def closed_over() -> Field:
    """Return a field, solved, to which its own function and two norms refer."""
    field, norms = Field(), Weighted()
    before = field.forward

    def forward(self: Field, t: Tensor, y: Tensor) -> Tensor:
        return before(t, y)

    def measure(self: Weighted, error: Tensor) -> Tensor:
        return self.measure(error) * field.scale[0]

    def measured(error: Tensor) -> Tensor:
        return error.square().mean().sqrt()

    field.forward = types.MethodType(forward, field)  # type: ignore[method-assign]
    measured.field = field  # type: ignore[attr-defined]
    for norm in (types.MethodType(measure, norms), measured):
        for _ in range(3):
            odeint(field, torch.ones(2, 2).double().requires_grad_(), UNIT, CAPTURED, norm)
    return field


def test_a_field_is_freed_whose_function_closes_over_it(recorders: list[HostRecorder]) -> None:
    gone = weakref.ref(closed_over())
    assert recorders[-1].replays
    gc.collect()
    assert gone() is None


class Weighted(Field):
    """Has an error norm of its own."""

    def measure(self, error: Tensor) -> Tensor:
        return self.scale[0] * error.square().mean().sqrt()


def method_of(field: Weighted) -> Callable[[Tensor], Tensor]:
    return field.measure


def with_field(field: Weighted) -> Callable[[Tensor], Tensor]:
    return partial(Weighted.measure, field)


def closing_over(field: Weighted) -> Callable[[Tensor], Tensor]:
    return lambda error: field.measure(error)


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("backend", ["captured", "compiled"])
@pytest.mark.parametrize("made", [method_of, closing_over, with_field])
def test_a_field_is_freed_to_which_the_norm_refers(
    made: Callable[[Weighted], Callable[[Tensor], Tensor]],
    backend: str,
    gradient: Any,
    recorders: list[HostRecorder],
    traced: list[torch.fx.GraphModule],
) -> None:
    field = Weighted()
    norm, settings = made(field), SolverSettings(backend, "bosh3", gradient=gradient)
    for _ in range(3):
        y0 = torch.ones(2, 2).double().requires_grad_()
        odeint(field, y0, UNIT, settings, norm).ys.sum().backward()
    assert recorders or traced
    gone = weakref.ref(field)
    del field, norm
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("backend", ["captured", "compiled"])
def test_nothing_is_recorded_of_weights_that_are_cached(
    backend: str, recorders: list[HostRecorder]
) -> None:
    field = Parametrized()
    original = field.parametrizations.weight.original
    for _ in range(3):
        found = []
        for settings in (replace(CAPTURED, backend=backend), NATIVE):
            with parametrize.cached():
                ys = odeint(field, torch.ones(3, 2).double(), UNIT, settings).ys
            found.append([ys.detach(), *torch.autograd.grad(ys.sum(), original)])
        torch.testing.assert_close(*found)
        with torch.no_grad():
            original.mul_(1.5)
    holder = Field()
    holder.parts = [field]
    with parametrize.cached(), pytest.raises(Unrecordable, match="solve outside"):
        fingerprint(holder)


def test_a_recorded_field_is_copied_and_saved_as_any_other(recorders: list[HostRecorder]) -> None:
    net = Net()
    y0 = torch.ones(2, 2).double()
    for _ in range(3):
        odeint(net, y0, UNIT, CAPTURED)
    other = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    with torch.no_grad():
        other.first.weight.zero_()
    found = [odeint(other, y0, UNIT, settings).ys for settings in (NATIVE, CAPTURED, CAPTURED)]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_threads_take_turns(recorders: list[HostRecorder]) -> None:
    field = Field()
    expected = solved(field)
    solved(field)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(3):
            for found, right in zip(solved(field), expected, strict=True):
                if not torch.allclose(found, right, rtol=1e-9):
                    wrong.append("a solve met another's state")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_cpu_records_nothing() -> None:
    field = Field()
    for _ in range(3):
        torch.testing.assert_close(solved(field), solved(field, NATIVE), rtol=0, atol=0)
    assert not plans._FIELDS.get(field)


def test_a_field_that_keeps_what_it_made_is_refused() -> None:
    def keep(field: Field, t: Tensor, y: Tensor) -> Tensor:
        field.last = y * 2
        return y

    field, y = Field(keep), torch.ones(1, 2).double()

    def work() -> None:
        field(UNIT[0], y)

    with pytest.raises(Unrecordable, match="changes its attributes"):
        rehearse(work, field, CPU)
    assert not hasattr(field, "last")


def test_what_outlives_a_replay_is_poisoned(recorders: list[HostRecorder]) -> None:
    """The stand-in itself: a mistake of ours would show."""
    recorder, field = HostRecorder(CPU), Field()
    static, kept = torch.ones(2), []
    with recorder.turn():
        replay = recorder.record(lambda: kept.append(static * 2), field)
        replay()
    assert torch.isnan(kept[-1]).all()


def test_a_fingerprint_sees_where_tensors_lie_and_not_what_they_hold() -> None:
    field = Field()
    before = fingerprint(field)
    with torch.no_grad():
        field.linear.weight.add_(1.0)
    assert fingerprint(field) == before
    field.linear.weight.requires_grad_(False)
    assert fingerprint(field) != before
    field.linear.weight.requires_grad_(True)
    assert fingerprint(field) == before
    field.others = [torch.ones(2)]
    listed = fingerprint(field)
    field.others[0] = torch.ones(2)
    assert fingerprint(field) != listed
    field.odd = object()
    with pytest.raises(Unrecordable, match="changes would go unseen"):
        fingerprint(field)
