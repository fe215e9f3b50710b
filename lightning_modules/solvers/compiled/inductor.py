"""Functions of tensors compiled by TorchInductor.

The function is traced operator by operator, below autograd, so that a vector-Jacobian product is
compiled as any other; TorchDynamo, whose guards cost as much as a small step, takes no part. What
guards would watch over is known from elsewhere: shapes and settings are those of a plan.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen

from lightning_modules.solvers.compiled.products import LOOPS
from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.recorded.inspection import rehearse

Function = Callable[..., Sequence[Tensor]]

OPTIONS: dict[str, Any] = {
    "cpp_wrapper": True,  # memory is asked for in C++ too, not tensor by tensor in Python
    "cpp.enable_tiling_heuristics": False,  # they leave columns of small matrices to scalars
}
SINGLE = 2**14
"""Work of the largest loop below which one thread is faster than waiting for others."""


def compiled_function(
    function: Function, examples: Sequence[Tensor], module: nn.Module
) -> Function:
    """Return ``function`` compiled for tensors like the examples.

    Args:
        function: Reads tensors and returns new ones, without a graph; it changes nothing.
        examples: What it is traced with.
        module: The field that it evaluates; its tensors are read at every call.

    Raises:
        Unrecordable: If it cannot be compiled.
    """

    def rehearsal() -> None:
        function(*examples)

    rehearse(rehearsal, module, examples[0].device)
    try:
        graph = _traced(function, examples)
        options = OPTIONS | ({"cpp.threads": 1} if _largest(graph) < SINGLE else {})
        constants = _lifted(graph)
        run = torch._inductor.compile(graph, [*examples, *constants], options)
    except Exception as error:  # of a compiler that is not there, or does not know an operator
        lines = str(error).strip().splitlines() or [""]
        raise Unrecordable(f"{type(error).__name__}: {lines[0]}") from error

    def call(*given: Tensor) -> Sequence[Tensor]:
        found: Sequence[Tensor] = run(*given, *constants)
        return found

    return call


def _traced(function: Function, examples: Sequence[Tensor]) -> GraphModule:
    """Return the operators of a function.

    The tensors are fake while it is traced: a field that reads numbers of them past torch, by
    ``tolist`` or NumPy, would have them for good, and fails here instead.
    """

    def traced(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(*given))

    trace = make_fx(traced, LOOPS, tracing_mode="fake", _allow_non_fake_inputs=True)
    return trace(*examples)


def _largest(graph: GraphModule) -> int:
    """Return the numbers of the largest tensor, those that are summed up at once included."""
    values = (node.meta.get("val") for node in graph.graph.nodes)
    return max(value.numel() for value in values if isinstance(value, Tensor))


def _lifted(graph: GraphModule) -> list[Tensor]:
    """Make arguments of the tensors that a graph holds, and return them without a graph."""
    arguments: dict[int, Node] = {}
    found: list[Tensor] = []
    nodes = list(graph.graph.nodes)
    last = [node for node in nodes if node.op == "placeholder"][-1]
    for node in nodes:
        if node.op != "get_attr":
            continue
        tensor = getattr(graph, str(node.target))
        if id(tensor) not in arguments:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"held_{len(found)}")
            arguments[id(tensor)] = last
            found.append(tensor.detach())
        node.replace_all_uses_with(arguments[id(tensor)])
        graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        node.meta = {}  # tensors of the tracing that the compiler would take for its own
    graph.graph.set_codegen(CodeGen())
    graph.recompile()
    return found
