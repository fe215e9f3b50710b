"""Loops of TorchInductor that ask for memory once for each call, and not in every turn.

The compiler asks for the memory of every intermediate result by itself, each time a loop turns,
and makes a new handle of every argument: for small states that takes longer than their arithmetic.
What only its own kernels read or write needs no handle, and can lie in one piece of memory, at the
same place in all turns. What is gone leaves its place to what comes after it: the less memory a
turn goes through, the more of it, and of all else, stays in the processor's cache.
"""

import math
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

STEADY: dict[str, Any] = {
    # What has a place must not be taken over by a result that needs a handle.
    "allow_buffer_reuse": False,
    "inplace_buffers": False,
}
ALIGNED = 64
"""Bytes of a line of the processor's cache."""
MOST_BYTES = 2**24
"""Bytes of a piece; larger ones the C library gives back to the system after each call.

What does not fit is asked for apart, likewise once a call.
"""
_ONE_AT_A_TIME = threading.RLock()  # the C++ writer of the CPU is the process's
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
    from torch._inductor.codegen.wrapper import (
        AllocateLine,
        FreeIfNotReusedLine,
        ReinterpretLine,
    )
    from torch._inductor.ir import (
        ComputedBuffer,
        InputBuffer,
        MutationLayoutSHOULDREMOVE,
        NonOwningLayout,
        NopKernel,
    )
    from torch._inductor.virtualized import V

    class SteadyMemory(CppWrapperCpu):
        """Writes the C++ that calls kernels, with one piece of memory for what only they see."""

        _turning = False
        _graphs: tuple[Any, ...] = ()

        @staticmethod
        def create(*arguments: Any) -> CppWrapperCpu:
            return SteadyMemory() if getattr(_HERE, "on", False) else CppWrapperCpu()

        def codegen_while_loop(self, while_loop: Any, stack_output: bool = False) -> None:
            """Write a loop, and remember the graphs of its turns."""
            if self._turning:
                raise NotImplementedError("a loop within a loop")
            self._turning = True
            super().codegen_while_loop(while_loop, stack_output)
            self._turning = False
            parts = while_loop.cond_subgraph, while_loop.body_subgraph
            self._graphs += tuple(part.graph for part in parts)

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

        def codegen_free(self, buffer: Any) -> None:
            """Free no argument of a turn: it is another name of what the next turn reads."""
            if not (self._turning and isinstance(buffer, InputBuffer)):
                super().codegen_free(buffer)

        def run_wrapper_ir_passes(self, is_inference: bool) -> None:
            """Plan memory as the compiler does, then give what only kernels see its place."""
            super().run_wrapper_ir_passes(is_inference)
            graphs = V.graph, *self._graphs
            handled = {name for graph in graphs for name in _handled(graph)}
            fused = {name for graph in graphs for name in graph.removed_buffers}
            self.lines = _placed(self.lines, handled, fused)

    def _left(graph: Any) -> Iterator[str]:
        """Yield the names of what a graph leaves, and of the memory that holds it."""
        for name in graph.get_output_names():
            yield from _holding(graph, name)

    def _handled(graph: Any) -> Iterator[str]:
        """Yield the names of what needs a handle: it is left, or others than kernels read it."""
        yield from _left(graph)
        for operation in graph.operations:
            if not isinstance(operation, ComputedBuffer | NopKernel):
                # `get_read_names` of an operation that is a buffer tells the buffer's own name.
                for name in (operation.get_name(), *(read.name for read in operation.get_reads())):
                    yield from _holding(graph, name)

    def _holding(graph: Any, name: str | None) -> Iterator[str]:
        """Yield the name of a result, and of the memory that holds it."""
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

    def _placed(
        lines: Sequence[Any], handled: Collection[str], fused: Collection[str]
    ) -> list[Any]:
        """Return the lines with places, asked for at once, for what needs no handle.

        Args:
            lines: All that is to be written.
            handled: Names of what needs a handle.
            fused: Names of what a kernel keeps in registers, which needs no memory.
        """
        first: list[Any] = []
        within: list[Any] = []
        room = Room()
        # Of concatenations the parts may be read longer than the whole is.
        lasting = {x.node.get_name() for x in lines if isinstance(x, ReinterpretLine)}
        for line in lines:
            name = _subject(line)
            if name is None or name in handled:
                within.append(line)
            elif isinstance(line, ReinterpretLine):
                whole, layout = line.node.get_name(), cast(NonOwningLayout, line.layout)
                offset = int(layout.view.get_layout().offset) * layout.dtype.itemsize
                # The whole may have a handle, in a turn.
                within.append(_place(name, f"static_cast<char*>({whole}.data_ptr())", offset))
            elif isinstance(line, AllocateLine) and name not in fused:
                numbers = int(V.graph.get_allocation_storage_size(line.node))
                free = room.take(name, numbers * line.node.get_dtype().itemsize)
                first.append(line if free is None else _place(name, "memory", free))
            elif isinstance(line, FreeIfNotReusedLine) and name not in lasting:
                room.leave(name)
        return [*_piece(room.size), *first, *within]

    def _subject(line: Any) -> str | None:
        """Return whose memory a line asks for or frees, None for other lines."""
        if isinstance(line, ReinterpretLine):
            return line.reused_as.get_name()
        about_memory = isinstance(line, AllocateLine | FreeIfNotReusedLine)
        return line.node.get_name() if about_memory else None

    return SteadyMemory


class Room:
    """Places in one piece of memory, each taken again by what is made after its holder is gone.

    A place goes to results of its size alone, and the one left last goes first: it is what the
    processor's cache still holds.
    """

    def __init__(self) -> None:
        self.size = 0
        self._held: dict[str, tuple[int, int]] = {}
        self._left: dict[int, list[int]] = {}

    def take(self, name: str, need: int) -> int | None:
        """Return where ``need`` bytes begin, None if there is no room for them."""
        need = math.ceil(need / ALIGNED) * ALIGNED
        left = self._left.setdefault(need, [])
        if not left and self.size + need > MOST_BYTES:
            return None
        if left:
            offset = left.pop()
        else:
            offset, self.size = self.size, self.size + need
        self._held[name] = need, offset
        return offset

    def leave(self, name: str) -> None:
        """Let others have the place of ``name``, if it has one."""
        if name in self._held:
            need, offset = self._held.pop(name)
            self._left[need].append(offset)


def _piece(size: int) -> list[str]:
    """Return what asks for ``size`` bytes of memory until the call returns."""
    return [
        "struct Place { char* at; void* data_ptr() const { return at; } };",
        f"const std::unique_ptr<char[]> piece(new char[{size + ALIGNED}]);",
        f"char* const memory = piece.get() + ({ALIGNED} - "
        f"reinterpret_cast<std::uintptr_t>(piece.get()) % {ALIGNED});",
    ]


def _place(name: str, begin: str, offset: int) -> str:
    """Return what names the memory ``offset`` bytes behind ``begin``."""
    return f"const Place {name}{{{begin} + {offset}}};"
