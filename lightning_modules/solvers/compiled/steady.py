"""Loops of TorchInductor that ask for memory once, and not in every turn.

The compiler asks for the memory of every intermediate result, and makes a new handle of every
argument, each time a loop turns: for small states that takes longer than their arithmetic. What
no turn leaves to the next can lie in the same place in all of them.
"""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

STEADY: dict[str, Any] = {
    # Memory that outlives a turn must not become a part of what the turn returns.
    "allow_buffer_reuse": False,
    "inplace_buffers": False,
}
_ONE_AT_A_TIME = threading.RLock()
_HERE = threading.local()  # `on` in the thread that compiles such a loop


@contextmanager
def steady_memory() -> Iterator[None]:
    """Compile loops that way meanwhile, with the options `STEADY`."""
    from torch._inductor.codegen import common

    with _ONE_AT_A_TIME:
        common.init_backend_registration()
        registered = common.device_codegens["cpu"]
        before = registered.cpp_wrapper_codegen
        registered.cpp_wrapper_codegen = _wrapper()
        _HERE.on = True
        try:
            yield
        finally:
            _HERE.on = False
            registered.cpp_wrapper_codegen = before


@cache
def _wrapper() -> type:
    from torch._inductor.codegen.cpp_wrapper_cpu import CppWrapperCpu
    from torch._inductor.codegen.wrapper import AllocateLine, FreeIfNotReusedLine, FreeLine
    from torch._inductor.ir import MutationLayoutSHOULDREMOVE, NonOwningLayout

    class SteadyMemory(CppWrapperCpu):
        """Writes the C++ that calls kernels, with the memory of all turns before their loop."""

        _turning = False

        @staticmethod
        def create(*arguments: Any) -> CppWrapperCpu:
            return SteadyMemory() if getattr(_HERE, "on", False) else CppWrapperCpu()

        def codegen_while_loop(self, while_loop: Any, stack_output: bool = False) -> None:
            """Write a loop, and move before it what none of its turns leaves to the next."""
            if self._turning:
                raise NotImplementedError("a loop within a loop")
            begin, self._turning = len(self.lines), True
            super().codegen_while_loop(while_loop, stack_output)
            self._turning = False
            graphs = [g.graph for g in (while_loop.cond_subgraph, while_loop.body_subgraph)]
            left = {name for graph in graphs for name in _left(graph)}
            before, within = _parted(self.lines[begin:], left)
            self.lines[begin:] = before + within

        def codegen_subgraph_prefix(
            self, subgraph: Any, outer_inputs: list[str], outer_outputs: list[str]
        ) -> None:
            """Name the arguments of a turn; handles of their own if it returns one of them."""
            if not self._turning:
                raise NotImplementedError("branches beside a loop")
            if set(_left(subgraph.graph)) & set(subgraph.graph.graph_inputs):
                super().codegen_subgraph_prefix(subgraph, outer_inputs, outer_outputs)
                return
            for inner, outer in zip(subgraph.graph.graph_inputs, outer_inputs, strict=True):
                self.writeline(f"auto&& {inner} = {outer};")

    def _left(graph: Any) -> Iterator[str]:
        """Yield the names of what a turn leaves, and of the memory that holds it."""
        for name in graph.get_output_names():
            while name is not None:
                yield name
                buffer = graph.name_to_buffer.get(name)
                if buffer is not None:
                    yield from buffer.get_inputs_that_alias_output()
                layout = getattr(buffer, "layout", None)
                if isinstance(layout, NonOwningLayout):
                    name = layout.view.get_name()
                elif isinstance(layout, MutationLayoutSHOULDREMOVE):
                    name = layout.get_buffer().get_name()
                else:
                    name = None

    def _parted(lines: list[Any], left: Collection[str]) -> tuple[list[Any], list[Any]]:
        """Part the lines of a loop into those that go before it and those that stay.

        Memory that no turn leaves is asked for before, and freed behind the loop.
        """
        before, within = [], []
        for line in lines:
            about = line.node.get_name() if isinstance(line, memory) else None
            if about is None or about in left:
                within.append(line)
            elif isinstance(line, AllocateLine):
                before.append(line)
        return before, within

    memory = (AllocateLine, FreeIfNotReusedLine, FreeLine)
    return SteadyMemory
