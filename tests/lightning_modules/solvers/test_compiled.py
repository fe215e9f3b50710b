"""Compiled solves are the native backend's, and what cannot be compiled is solved natively."""

import math
import re
import warnings
from random import Random
from typing import Any

import pytest
import torch
from against_native import GRIDS, UNIT, gradients, same, start
from problems import Net
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache, run_and_get_code
from torch.fx.experimental.proxy_tensor import make_fx
from uncompiled import traced

from lightning_modules.solvers import SolverFailed, SolverSettings, odeint
from lightning_modules.solvers.compiled import inductor, looped, products, steady
from lightning_modules.solvers.compiled.hoisting import hoist
from lightning_modules.solvers.compiled.keeping import kept
from lightning_modules.solvers.compiled.products import LOOPS, SMALL
from lightning_modules.solvers.compiled.tangent import tanh
from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.native_backend import methods
from lightning_modules.solvers.recorded import plans

__all__ = ["traced"]


def settings(backend: str = "compiled", method: str = "dopri5", **more: Any) -> SolverSettings:
    fixed = methods()[method] == "fixed"
    return SolverSettings(backend, method, step_size=0.25 if fixed else None, **more)


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
        found = gradients(net, y0, settings(method=method, gradient=gradient), times)
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
        found = gradients(net, y0, settings(**given), times)
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
        found = gradients(field, y0, settings(gradient="checkpoint"), times)
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
            found = gradients(net, y0, settings(gradient="checkpoint"))
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
    chosen = settings(method="rk4", gradient="checkpoint")
    odeint(field, start(), UNIT, chosen)
    with pytest.warns(UserWarning, match="random numbers"):
        odeint(field, start(), UNIT, chosen)
    assert not traced


@pytest.mark.parametrize("operator", LOOPS)
def test_loops_are_the_products_they_stand_for(operator: Any) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    name, lead = str(operator), (3,) if "bmm" in str(operator) else ()
    given = [draw(*lead, 4, 5), draw(*lead, 5, 6)]
    weights: dict[str, float] = {}
    if "add" in name:
        given.insert(0, draw(*lead, 4, 6))
        weights = {"beta": 0.5, "alpha": 2.0}
    torch.testing.assert_close(LOOPS[operator](*given, **weights), operator(*given, **weights))


def test_a_large_product_stays_what_it_is() -> None:
    side = round(SMALL ** (1 / 3)) + 1
    large = torch.ones(side, side)
    assert LOOPS[torch.ops.aten.mm.default](large, large) is NotImplemented
    assert LOOPS[torch.ops.aten.addmm.default](large, large, large) is NotImplemented


def test_tensors_of_the_field_are_read_at_every_call(
    traced: list[torch.fx.GraphModule],
) -> None:
    """They are arguments, not constants that the compiler may fold."""
    layer = nn.Linear(3, 3).double()
    x = torch.ones(2, 3).double()
    with torch.no_grad():
        run = inductor.compiled_function(lambda y: (layer(y),), (x,), layer)
        torch.testing.assert_close(run(x)[0], layer(x))
        layer.weight.mul_(2)
        torch.testing.assert_close(run(x)[0], layer(x))
    assert not [node for node in traced[0].graph.nodes if node.op == "get_attr"]


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
            found = gradients(field, y0, settings(gradient="checkpoint"))
            assert found[1] == expected[1]
            same(found[0], expected[0])
    assert "step by step" in str(told[0].message)


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
            same([odeint(field, y0, UNIT, settings()).ys], [expected.detach()])
    assert traced


def test_who_needs_ever_new_plans_is_solved_natively(
    traced: list[torch.fx.GraphModule],
) -> None:
    """Weights that are replaced at every update would be compiled at every second one."""
    net, chosen = Net(), settings(method="euler", gradient="checkpoint")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for size in range(1, plans.MOST_MADE + 3):
            for _ in range(2):
                found = gradients(net, start(size), chosen)
            same(found[0], gradients(net, start(size), settings("native", "euler"))[0])
    (warning,) = told
    assert "pad batches" in str(warning.message)
    assert len(traced) == 2 * plans.MOST_MADE  # a step, and its way back


def test_a_solve_of_any_length_goes_on_from_loop_to_loop(
    traced: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looped, "MOST_ROWS", 2)
    tight: dict[str, Any] = {"gradient": "checkpoint", "rtol": 1e-8, "atol": 1e-8}
    net, y0, times = Net(), start(), torch.tensor(GRIDS[-1]).double()
    expected = gradients(net, y0, settings("native", **tight), times)
    assert expected[1].steps_accepted > 4
    for _ in range(3):
        found = gradients(net, y0, settings(**tight), times)
        assert found[1] == expected[1]
        same(found[0], expected[0])
    assert len(traced) == 4  # the solve and its way back, each from the end and on the way


def test_a_loop_that_cannot_go_on_is_solved_natively(
    traced: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the compiler is gone when a solve needs more steps than the loop has room for."""
    monkeypatch.setattr(looped, "MOST_ROWS", 2)
    loose: dict[str, Any] = {"gradient": "checkpoint", "rtol": 1e-2, "atol": 1e-2}
    tight: dict[str, Any] = {"gradient": "checkpoint", "rtol": 1e-8, "atol": 1e-8}
    net, y0 = Net(), start()
    for _ in range(2):
        gradients(net, y0, settings(**loose))
    assert traced

    def gone(*_: Any, **__: Any) -> None:
        raise Unrecordable("No working C++ compiler found")

    monkeypatch.setattr(looped, "compiled_loop", gone)
    expected = gradients(net, y0, settings("native", **tight))
    with pytest.warns(UserWarning, match="No working"):
        found = gradients(net, y0, settings(**tight))
    assert found[1] == expected[1]
    same(found[0], expected[0])


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
    class Of(nn.Module):
        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            found: Tensor = function(t, y)
            return found

    field, y0, said = Of(), torch.ones(2).double(), []
    for chosen in (settings("native", **more), *[settings(**more)] * 3):
        with pytest.raises(SolverFailed) as caught, torch.no_grad():
            odeint(field, y0, torch.tensor([0.0, 0.7, 1.5]).double(), chosen)
        said.append(str(caught.value))
    if exact:
        assert said[1:] == said[:1] * 3
    else:  # steps within rounding of a jump, or of infinity, are as many as rounding makes them
        assert len({re.sub(r"after .* steps \(dt=.*\)", "", text) for text in said}) == 1
    assert traced


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
            found = gradients(net, y0, settings(gradient="checkpoint"), times)
            assert found[1] == expected[1]
            same(found[0], expected[0])
    assert len(told) == loops
    assert traced


def test_a_large_state_is_solved_step_by_step() -> None:
    """What a loop copies would cost more than Python between the steps."""
    chosen, large = settings(), looped.STATE_BYTES // 8 + 1
    assert looped.loops(torch.zeros(large - 1).double(), chosen, 1)
    assert not looped.loops(torch.zeros(large).double(), chosen, 1)
    assert not looped.loops(torch.zeros(large - 1).double(), chosen, 1024)
    assert not looped.loops(torch.zeros(1).double(), settings(method="rk4"), 1)
    assert not looped.loops(torch.zeros(1).double(), settings(method="bosh3"), 1)


def test_tanh_is_right_to_the_last_places_and_at_most_1() -> None:
    x = torch.cat([torch.linspace(-12, 12, 200_001), torch.logspace(-38, 0, 10_000)])
    found, true = tanh(x), x.double().tanh()
    assert (found.double() - true).abs().le(4e-7 * true.abs()).all()
    assert found.abs().max() <= 1
    far = x[x.abs() > 9]
    assert (1 - tanh(far) ** 2 == 0).all()
    edges = torch.tensor([0.0, torch.inf, -torch.inf, torch.nan])
    torch.testing.assert_close(tanh(edges), edges.tanh(), equal_nan=True)
    assert tanh(x.double()) is NotImplemented


def test_what_does_not_change_is_made_before_a_loop() -> None:
    def body(x: Tensor, weight: Tensor) -> tuple[Tensor]:
        return (x @ weight.t(),)

    x, weight = torch.randn(2, 3), torch.randn(5, 3)
    graph = make_fx(body, tracing_mode="fake")(x, weight)
    before = hoist(graph, changing=1)
    (made,) = before(weight)
    assert made.is_contiguous()
    torch.testing.assert_close(graph(x, weight, made)[0], x @ weight.t())
    operators = {node.target for node in graph.graph.nodes if node.op == "call_function"}
    assert operators == {torch.ops.aten.mm.default}


def test_what_is_made_before_a_loop_is_made_once() -> None:
    """The same transposed weight of two stages; and a part of it that lies as it is read stays."""

    def body(x: Tensor, weight: Tensor) -> tuple[Tensor]:
        return ((x @ weight.t()) @ weight + weight[0] + x @ weight.t() @ weight,)

    x, weight = torch.randn(2, 3), torch.randn(5, 3)
    graph = make_fx(body, tracing_mode="fake")(x, weight)
    before = hoist(graph, changing=1)
    (made,) = before(weight)
    torch.testing.assert_close(made, weight.t())
    torch.testing.assert_close(graph(x, weight, made), body(x, weight))


def test_a_turn_of_a_loop_asks_for_memory_only_for_what_it_leaves() -> None:
    def turn(left: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
        return [left - 1, (y @ weight).tanh() @ weight.t()]

    def going(left: Tensor, *_: Tensor) -> Tensor:
        return left > 0

    def compiled() -> Any:
        return inductor.compiled_loop(going, turn, [left, y], [weight], nn.Identity())

    torch.manual_seed(0)
    left, y, weight = torch.tensor(3.0), torch.randn(20, 3), 0.3 * torch.randn(3, 50)
    with torch._inductor.config.patch(force_disable_caches=True):
        loop, codes = run_and_get_code(compiled)
    expected = [left, y]
    while going(*expected):
        expected = turn(*expected, weight)
    for _ in range(2):  # the second time in memory that the first has left
        torch.testing.assert_close(list(loop(left, y, weight)), expected)
    (code,) = codes
    before, repeated = code.split("inductor_entry_impl(")[1].split("while (1) {")
    assert before.count("new char[") == 1
    assert "aoti_torch_empty_strided(" not in before
    repeated = repeated.split("output_handles[0]")[0]
    assert repeated.count("aoti_torch_empty_strided(") == 3  # both, and whether to go on


def test_in_a_loop_products_take_weights_as_if_they_lay_transposed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(products, "_lanes", lambda: 16)
    torch.manual_seed(0)
    layer = nn.Linear(2, 50)

    def body(left: Tensor, y: Tensor, x: Tensor) -> list[Tensor]:
        return [left - 1, layer(y)[:, :2], x @ y.t(), y @ y.new_ones(50, 2).mul(y[0]).t()]

    def writing(left: Tensor, y: Tensor, x: Tensor) -> list[Tensor]:
        return [left.sub(1).add_(0), *body(left, y, x)[1:]]

    examples = [torch.tensor(3.0), torch.randn(20, 2), torch.randn(20, 2)]

    def sums(graph: torch.fx.GraphModule) -> list[Any]:
        target = torch.ops.aten.sum.dim_IntList
        return [node.args[1] for node in graph.graph.find_nodes(op="call_function", target=target)]

    with torch.no_grad():
        turn = inductor._Turn(body, examples, 2, layer)
        found = turn.graph(*examples[:2], *turn.read(examples[2], *turn.constants))
        torch.testing.assert_close(list(found), body(*examples))
        once = inductor._Part(body, examples, layer)
        alone = inductor._Turn(writing, examples, 2, layer)

    # Along columns of the weight, whose copy is shared; else along rows, transposed afterwards,
    # as where the second factor changes, and where nothing is shared.
    def transposed(graph: torch.fx.GraphModule) -> int:
        return len(graph.graph.find_nodes(op="call_function", target=torch.ops.aten.clone.default))

    assert sums(turn.graph) == sums(once.graph)
    assert transposed(turn.graph) == transposed(once.graph) - 1 > 0
    assert transposed(alone.graph) == transposed(once.graph)


def test_a_sum_with_a_product_lies_as_the_librarys_wherever_the_summand_lies() -> None:
    layer = nn.Linear(3, 3)

    def body(left: Tensor, y: Tensor) -> list[Tensor]:
        return [left - 1, torch.addmm(y.t(), layer.weight, y).view(-1)]

    examples = [torch.tensor(3.0), torch.randn(3, 3)]
    with torch.no_grad():
        turn = inductor._Turn(body, examples, 2, layer)
        found = turn.graph(*examples, *turn.read(*turn.constants))
        torch.testing.assert_close(list(found), body(*examples))


def test_a_loop_is_taken_from_the_disk_if_it_was_written_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training in a process of its own does not write what the one before it has written."""

    def turn(left: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
        return [left - 1, (y @ weight).tanh()]

    def going(left: Tensor, *_: Tensor) -> Tensor:
        return left > 0

    state, weight = [torch.tensor(2.0), torch.randn(3, 3)], torch.randn(3, 3)
    expected = turn(*turn(*state, weight), weight)
    with fresh_cache():
        for writers, told in (("these", "miss"), ("these", "hit"), ("others", "miss")):
            monkeypatch.setattr(inductor, "_writers", lambda writers=writers: writers)
            before = counters["inductor"].copy()
            loop = inductor.compiled_loop(going, turn, state, [weight], nn.Identity())
            torch.testing.assert_close(list(loop(*state, weight)), expected)
            found = counters["inductor"] - before
            assert found["fxgraph_cache_hit"] + found["fxgraph_cache_miss"] == 1
            assert found[f"fxgraph_cache_{told}"] == 1


def test_what_writes_loops_is_told_to_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    inductor._writers.cache_clear()
    before = inductor._writers()
    inductor._writers.cache_clear()
    monkeypatch.setattr(inductor, "SOURCES", ("another way", *inductor.SOURCES[1:]))
    assert inductor._writers() != before
    inductor._writers.cache_clear()


def test_without_sources_loops_are_compiled_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(inductor.SOURCES)
    assert inductor._source(math) is None
    monkeypatch.setattr(inductor, "SOURCES", (None, None))
    assert inductor._remembered() == {}


def test_what_a_library_reads_in_a_turn_is_there_in_the_next() -> None:
    def turn(left: Tensor, y: Tensor, weight: Tensor) -> list[Tensor]:
        return [left - 1, (y @ weight).tanh() @ weight.t().exp()]

    def going(left: Tensor, *_: Tensor) -> Tensor:
        return left > 0

    torch.manual_seed(0)
    side = round(SMALL ** (1 / 3)) + 1  # a larger product is the library's
    left, y, weight = torch.tensor(4.0), torch.randn(side, side), torch.randn(side, side) / 99
    with torch._inductor.config.patch(force_disable_caches=True):
        loop, (code,) = run_and_get_code(
            lambda: inductor.compiled_loop(going, turn, [left, y], [weight], nn.Identity())
        )
    repeated = code.split("while (1) {")[1]
    assert "aoti_torch_cpu_mm_out(" in repeated
    assert not re.search(r"graph_\d+_arg\d+_1\.reset\(\)", repeated)  # the next would crash
    expected = [left, y]
    while going(*expected):
        expected = turn(*expected, weight)
    torch.testing.assert_close(list(loop(left, y, weight)), expected)


def test_what_is_gone_leaves_its_place_and_what_lives_keeps_its_own() -> None:
    random, room = Random(0), steady.Room()
    living: dict[str, range] = {}
    for n in range(2000):
        if living and random.random() < 0.5:
            name = random.choice(list(living))
            room.leave(name)
            del living[name]
            continue
        need = random.choice([1, 64, 100, 3000])
        offset = room.take(f"buf{n}", need)
        assert offset is not None
        assert offset % steady.ALIGNED == 0
        assert offset + need <= room.size
        taken = range(offset, offset + need)
        assert all(x.stop <= taken.start or taken.stop <= x.start for x in living.values())
        living[f"buf{n}"] = taken
    assert room.size < 2000 * 64  # of 1,000 places, most were there already
    room.leave("another")  # has no place
    assert room.take("larger than all", steady.MOST_BYTES + 1) is None


def test_results_of_a_turn_take_the_place_of_those_before_them() -> None:
    def turn(left: Tensor, y: Tensor) -> list[Tensor]:
        for _ in range(8):
            y = kept(kept(y.sin()).cos())
        return [left - 1, y]

    def going(left: Tensor, *_: Tensor) -> Tensor:
        return left > 0

    state = [torch.tensor(3.0), torch.randn(1000)]
    with torch._inductor.config.patch(force_disable_caches=True):
        loop, (code,) = run_and_get_code(
            lambda: inductor.compiled_loop(going, turn, state, [], nn.Identity())
        )
    expected = state
    while going(*expected):
        expected = turn(*expected)
    torch.testing.assert_close(list(loop(*state)), expected)
    (size,) = re.findall(r"new char\[(\d+)\]", code)
    assert int(size) < 4 * 4096  # of 15 results two live at a time


@pytest.mark.parametrize("bytes_at_once", [steady.MOST_BYTES, 300, 0])
def test_what_a_turn_leaves_is_not_overwritten_by_the_next(
    bytes_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a part of a larger result, or what was written in place, or read by a library."""
    monkeypatch.setattr(steady, "MOST_BYTES", bytes_at_once)

    def turn(left: Tensor, a: Tensor, b: Tensor, rows: Tensor) -> list[Tensor]:
        a = a.cos() + b.sum()
        both = torch.cat([a, b.sin(), a.exp(), b, *[a + i for i in range(8)]])
        return [left - 1, a, b + both.sort().values[:7], rows.index_put((left.long(),), a.sum())]

    def going(left: Tensor, *_: Tensor) -> Tensor:
        return left[0] > 0

    torch.manual_seed(0)
    state = [torch.tensor([3.0]), torch.randn(9), torch.randn(7), torch.zeros(4)]
    with torch._inductor.config.patch(force_disable_caches=True):
        loop = inductor.compiled_loop(going, turn, state, [], nn.Identity(), first=turn)
    for turns in (3, 1, 3):  # one is the first, without a turn of the loop
        start = [torch.tensor([float(turns)]), *state[1:]]
        expected = turn(*start)
        while going(*expected):
            expected = turn(*expected)
        torch.testing.assert_close(list(loop(*start)), expected)


@pytest.mark.parametrize(
    ("m", "k", "n"), [(20, 50, 2), (50, 20, 2), (2, 20, 50), (1, 9, 1), (33, 1, 5), (3, 40, 3)]
)
@pytest.mark.parametrize("lanes", [1, 8, 16])
def test_products_are_vectorised_along_any_dimension(
    monkeypatch: pytest.MonkeyPatch, lanes: int, m: int, k: int, n: int
) -> None:
    monkeypatch.setattr(products, "_lanes", lambda: lanes)
    torch.manual_seed(0)
    a, b = torch.randn(m, k).double(), torch.randn(k, n).double()
    for left in (a, a.t().contiguous().t()):
        for right in (b, b.t().contiguous().t()):
            found = LOOPS[torch.ops.aten.mm.default](left, right)
            torch.testing.assert_close(found, a @ b)
            assert found.is_contiguous()  # as fields that view it expect


def test_nothing_is_moved_out_of_a_loop_that_writes_in_place() -> None:
    def body(x: Tensor, bias: Tensor) -> tuple[Tensor]:
        out = bias.clone()
        out += x
        return (out,)

    x, bias = torch.randn(3), torch.randn(3)
    graph = make_fx(body, tracing_mode="fake")(x, bias)
    assert hoist(graph, changing=1)(bias) == ()
    torch.testing.assert_close(graph(x, bias)[0], x + bias)


def test_a_compiled_adjoint_goes_back_to_python_for_no_operator(
    traced: list[torch.fx.GraphModule],
) -> None:
    """The compiler has no loops for those over lists of tensors, and says so at each of them."""
    net = Net()
    for _ in range(3):
        gradients(net, start(), settings(method="bosh3", gradient="adjoint"))
    parts = [m for g in traced for m in g.modules() if isinstance(m, torch.fx.GraphModule)]
    operators = {str(node.target) for part in parts for node in part.graph.nodes}
    assert "aten.linalg_vector_norm.default" in operators
    assert not [operator for operator in operators if "_foreach" in operator]
