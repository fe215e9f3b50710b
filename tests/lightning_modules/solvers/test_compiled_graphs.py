"""Graphs of compiled solves: products as loops, tanh, and what is made before a loop."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from uncompiled import traced

from lightning_modules.solvers.compiled import inductor, products
from lightning_modules.solvers.compiled.hoisting import hoist
from lightning_modules.solvers.compiled.products import LOOPS, SMALL
from lightning_modules.solvers.compiled.tangent import tanh

__all__ = ["traced"]


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


def test_nothing_is_moved_out_of_a_loop_that_writes_in_place() -> None:
    def body(x: Tensor, bias: Tensor) -> tuple[Tensor]:
        out = bias.clone()
        out += x
        return (out,)

    x, bias = torch.randn(3), torch.randn(3)
    graph = make_fx(body, tracing_mode="fake")(x, bias)
    assert hoist(graph, changing=1)(bias) == ()
    torch.testing.assert_close(graph(x, bias)[0], x + bias)
