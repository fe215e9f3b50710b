"""Functions of tensors compiled by TorchInductor.

The function is traced operator by operator, below autograd, so that a vector-Jacobian product is
compiled as any other; TorchDynamo, whose guards cost as much as a small step, takes no part. What
guards would watch over is known from elsewhere: shapes and settings are those of a plan.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop_op
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.graph import CodeGen

from lightning_modules.solvers.compiled import keeping, steady
from lightning_modules.solvers.compiled.hoisting import hoist, writes
from lightning_modules.solvers.compiled.keeping import teach
from lightning_modules.solvers.compiled.products import LOOPS
from lightning_modules.solvers.compiled.steady import STEADY, steady_memory
from lightning_modules.solvers.compiled.tangent import tanh
from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.recorded.inspection import rehearse

Function = Callable[..., Sequence[Tensor]]

OPTIONS: dict[str, Any] = {
    "cpp_wrapper": True,  # memory is asked for in C++ too, not tensor by tensor in Python
    "cpp.enable_tiling_heuristics": False,  # they leave columns of small matrices to scalars
    "realize_reads_threshold": 8,  # tanh of a sum of few products goes with it into one loop
    "cpp.enable_floating_point_contract_flag": "fast",  # a product and a sum are one instruction
}


def _norms(tensors: Sequence[Tensor], ord: float = 2.0, dtype: Any = None) -> list[Tensor]:
    return [torch.linalg.vector_norm(x, ord, dtype=dtype) for x in tensors]


def _quotients(tensors: Sequence[Tensor], divisors: Sequence[float]) -> list[Tensor]:
    return [x / divisor for x, divisor in zip(tensors, divisors, strict=True)]


Replacements = Mapping[Any, Callable[..., Any]]
REPLACED: Replacements = LOOPS | {
    torch.ops.aten.tanh.default: tanh,
    # One call for many tensors saves time in Python; compiled code would go back there for it.
    torch.ops.aten._foreach_norm.Scalar: _norms,
    torch.ops.aten._foreach_div.ScalarList: _quotients,
}
"""Operators that compiled code does better by others."""
BEYOND = {torch.ops.aten.mkldnn_rnn_layer_backward.default: "the gradient of an LSTM"}
"""Operators that TorchInductor compiles to what fails when it is called."""
MOST_OPERATORS = 2**13
"""Of one function: twice those of a continuous flow's way back, which compile for two minutes."""
SINGLE = 2**17
"""Work of the largest loop up to which one thread is as fast as two, which wait for each other."""


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
    part = _Part(function, examples, module)
    return _compiled(part.graph, [*examples, *part.constants], part.largest, part.constants)


def compiled_loop(
    going: Callable[..., Tensor],
    body: Function,
    changing: Sequence[Tensor],
    given: Sequence[Tensor],
    module: nn.Module,
    first: Function | None = None,
) -> Function:
    """Return ``body`` repeated as long as ``going`` says, compiled as one function.

    Args:
        going: Reads what is changing and what is given; returns a truth value, ``()``.
        body: Reads the same and returns what is changing anew.
        changing: Examples.
        given: Examples.
        module: The field; its tensors are read at every call.
        first: Likewise, called once before.

    Raises:
        Unrecordable: If it cannot be compiled.
    """
    examples = [example.clone() for example in (*changing, *given)]  # none may share memory
    turns = [_Turn(f, examples, len(changing), module) for f in (first, body) if f]
    turn, constants = turns[-1], [tensor for turn in turns for tensor in turn.constants]
    of_first = len(constants) - len(turn.constants)

    def whole(*arguments: Tensor) -> Sequence[Tensor]:
        state, fixed = arguments[: len(changing)], arguments[len(changing) : len(examples)]
        held = arguments[len(examples) :]
        if first:
            state = turns[0].graph(*state, *turns[0].read(*fixed, *held[:of_first]))
        both: Any = (tuple(state), turn.read(*fixed, *held[of_first:]))
        found: Sequence[Tensor] = while_loop_op(going, turn.graph, *both)
        return found

    arguments = [*examples, *constants]
    try:
        graph = _traced(whole, arguments)
    except Exception as error:
        raise _unrecordable(error) from error
    largest = max(turn.largest for turn in turns)
    return _compiled(graph, arguments, largest, constants, turns=True)


class _Part:
    """The operators of a function, and the tensors that it holds, as its last arguments.

    Args:
        function: As for `compiled_function`, like ``examples`` and ``module``.
        examples: What it is traced with.
        module: The field.
        replaced: Operators that are replaced.
    """

    def __init__(
        self,
        function: Function,
        examples: Sequence[Tensor],
        module: nn.Module,
        replaced: Replacements = REPLACED,
    ) -> None:
        def rehearsal() -> None:
            function(*examples)

        rehearse(rehearsal, module, examples[0].device)
        try:
            self.graph = _traced(function, examples, replaced)
        except Exception as error:  # of an operator that cannot be traced
            raise _unrecordable(error) from error
        for node in self.graph.graph.nodes:
            if node.target in BEYOND:
                raise Unrecordable(f"TorchInductor cannot compile {BEYOND[node.target]}")
        self.largest = _largest(self.graph)
        self.constants = _lifted(self.graph)


class _Turn:
    """One turn of a loop, or what comes before, without what does not change from turn to turn.

    Args:
        body: As for `compiled_loop`.
        examples: What changes and what is given.
        changing: How many of them change.
        module: The field.
    """

    def __init__(
        self, body: Function, examples: Sequence[Tensor], changing: int, module: nn.Module
    ) -> None:
        plain = _Part(body, examples, module, {})
        self.constants = plain.constants
        replaced = _Replacing(plain.graph, changing)
        try:
            self.graph = _traced(replaced.run, [*examples, *self.constants])
        except Exception as error:
            raise _unrecordable(error) from error
        self.largest = _largest(self.graph)
        self._before = hoist(self.graph, changing)

    def read(self, *fixed: Tensor) -> tuple[Tensor, ...]:
        """Return what every turn reads, of what is given and what the body holds."""
        return (*fixed, *self._before(*fixed))


class _Replacing(Interpreter):
    """A graph with its operators replaced, which knows the products by what does not change.

    How a product is best made depends on how its factors lie. A second one that does not change, a
    weight as a rule, is the same for all stages of a turn: they share a copy of it, which counts
    for nothing. They do not in a graph that writes in place.

    Args:
        graph: The graph.
        changing: How many of its arguments change.
    """

    def __init__(self, graph: GraphModule, changing: int) -> None:
        super().__init__(graph)
        self._changing = set(graph.graph.find_nodes(op="placeholder")[:changing])
        in_place = any(map(writes, graph.graph.nodes))
        for node in graph.graph.nodes:
            if in_place or not self._changing.isdisjoint(node.all_input_nodes):
                self._changing.add(node)

    def run_node(self, n: Node) -> Any:
        """Make products of the loops that suit them, and all else as it is."""
        if n.op != "call_function" or n.target not in LOOPS:
            return super().run_node(n)
        arguments, options = self.fetch_args_kwargs_from_env(n)
        factor = n.args[-1]  # the second, behind a summand if there is one
        fixed = isinstance(factor, Node) and factor not in self._changing
        found = LOOPS[n.target](*arguments, **options, fixed=fixed)
        return super().run_node(n) if found is NotImplemented else found


def _compiled(
    graph: GraphModule,
    examples: Sequence[Tensor],
    largest: int,
    constants: Sequence[Tensor],
    *,
    turns: bool = False,
) -> Function:
    """Return a graph compiled, its last arguments bound to ``constants``; ``turns`` if a loop."""
    operators = sum(len(x.graph.nodes) for x in graph.modules() if isinstance(x, GraphModule))
    if operators > MOST_OPERATORS:
        raise Unrecordable(
            f"it would be a function of {operators} operators, and those of more than "
            f"{MOST_OPERATORS} compile for minutes"
        )
    for node in graph.graph.nodes:
        node.meta = {}  # tensors of the tracing that the compiler would take for its own
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    try:
        options = OPTIONS | _remembered()
        if turns:
            options |= STEADY
        if largest <= SINGLE:
            options["cpp.threads"] = 1
        fakes: list[Any] = [mode.from_tensor(example, static_shapes=True) for example in examples]
        teach()
        with steady_memory() if turns else nullcontext():
            run = torch._inductor.compile(graph, fakes, options)
    except Exception as error:  # of a compiler that is not there, or does not know an operator
        raise _unrecordable(error) from error

    def call(*given: Tensor) -> Sequence[Tensor]:
        found: Sequence[Tensor] = run(*given, *constants)
        return found

    return call


def _remembered() -> dict[str, Any]:
    """Return the option by which the compiler takes loops from its cache on the disk.

    Without it loops are written anew in every process, which takes ten times as long. What the
    compiler does not see of a graph is told here: what writes loops, and what older ones forget.
    """
    if None in SOURCES:  # nothing would tell another way to write them from this one
        return {}
    loop = f"{while_loop_op.__module__}.{while_loop_op.__name__}"
    written = f"{_writers()} {torch.get_num_threads()} {torch.get_default_dtype()}"
    return {"unsafe_marked_cacheable_functions": {loop: written}}


@cache
def _writers() -> str:
    """Return what tells this way to write loops, and this machine's registers, from others."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    told = f"{SOURCES}{pick_vec_isa()}"
    return hashlib.sha256(told.encode()).hexdigest()


def _source(module: ModuleType) -> str | None:
    """Return a module's source, None where only its bytecode is there."""
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return None


SOURCES = tuple(map(_source, (steady, keeping)))
"""Read when they are imported: a file that is edited later is not what writes loops here."""


def _unrecordable(error: Exception) -> Unrecordable:
    lines = str(error).strip().splitlines() or [""]
    return Unrecordable(f"{type(error).__name__}: {lines[0]}")


def _traced(
    function: Function, examples: Sequence[Tensor], replaced: Replacements = REPLACED
) -> GraphModule:
    """Return the operators of a function, some replaced.

    The tensors are fake while it is traced: a field that reads numbers of them past torch, by
    ``tolist`` or NumPy, would have them for good, and fails here instead.
    """

    def traced(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(*given))

    table = dict(replaced)
    trace = make_fx(traced, table, tracing_mode="fake", _allow_non_fake_inputs=True)
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
    graph.graph.set_codegen(CodeGen())
    graph.recompile()
    return found
