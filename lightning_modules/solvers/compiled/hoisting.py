"""What does not change from turn to turn of a loop, moved before it.

Such as weights that are computed of others, masked ones or their squares. Copies of transposed
weights stay, one a turn for all stages: moved too, small solves took 2 to 3 % longer.
"""

import operator
from collections.abc import Container
from typing import Any

import torch
from torch import Tensor
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx import Graph, GraphModule, Node

from lightning_modules.solvers.compiled.keeping import KEPT


def hoist(body: GraphModule, changing: int) -> GraphModule:
    """Take out of a graph what depends on none of its first ``changing`` arguments.

    Args:
        body: Becomes a graph with more arguments at the end: what was taken out.
        changing: How many arguments change.

    Returns:
        The graph that makes those of the other arguments, in memory of their own. Nothing is taken
        out of a body that writes in place.
    """
    in_place = any(map(writes, body.graph.nodes))  # into what, only its aliases would tell
    if not in_place:
        body.graph = fx_graph_cse(body.graph)  # every stage has transposed the same weights
    graph, before = body.graph, Graph()
    arguments = graph.find_nodes(op="placeholder")
    copies = {node: before.placeholder(node.name) for node in arguments[changing:]}
    given = set(copies)
    for node in graph.nodes:
        inputs = node.all_input_nodes
        fixed = inputs and copies.keys() >= set(inputs)
        if node.op == "call_function" and fixed and not in_place:
            copies[node] = before.node_copy(node, copies.__getitem__)
    found = (node for node in copies if node not in given and _is_needed(node, copies))
    kept = [node for node in found if not (node.meta["val"].is_contiguous() and _is_view(node))]
    values, last = [], arguments[-1]
    own: dict[str, Any] = {"memory_format": torch.contiguous_format}
    for node in kept:
        copy = before.call_function(torch.ops.aten.clone.default, (copies[node],), own)
        values.append(copy)
        with graph.inserting_after(last):
            last = graph.placeholder(f"{node.name}_hoisted")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last, delete_user_cb=lambda user: user not in copies)
    before.output(tuple(values))
    before.eliminate_dead_code()
    graph.eliminate_dead_code()
    body.recompile()
    return GraphModule(body, before)


def writes(node: Node) -> bool:
    """Return whether an operator writes in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_view(node: Node) -> bool:
    """Return whether it is an argument seen differently."""
    if node.op == "placeholder":
        return True
    target = node.target
    views = target in (operator.getitem, KEPT) or getattr(target, "is_view", False)
    return views and all(map(_is_view, node.all_input_nodes))


def _is_needed(node: Node, fixed: Container[Node]) -> bool:
    """Return whether it is a tensor that is read by what is not fixed."""
    read = any(user not in fixed for user in node.users)
    return read and isinstance(node.meta.get("val"), Tensor)
