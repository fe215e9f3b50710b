"""Work on static tensors, recorded once and replayed: CUDA graphs.

Source: the PyTorch manual, "CUDA semantics", section "CUDA Graphs".
"""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor, nn

from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.recorded.inspection import rehearse

_ALONE = threading.Lock()
"""Held by who records: a recording synchronises the device, which ends another one."""

Work = Callable[[], None]
WARM_UP = 2  # runs between rehearsal and recording: libraries choose their kernels in them


class Recorder(Protocol):
    """Records and replays the work of one solve, and lets one solve in at a time.

    Work takes no arguments and returns nothing: it reads and writes tensors that exist already,
    and what it makes itself must not be used outside.
    """

    def record(self, work: Work, module: nn.Module) -> Work:
        """Return what replays ``work``; ``module`` is the field that it evaluates.

        Raises:
            Unrecordable: If it cannot be recorded; nothing has changed then.
        """
        ...

    def read(self, tensor: Tensor) -> list[float]:
        """Return the numbers of a vector; the host waits until they are there."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """Return a context in which nobody else replays what this recorder has recorded."""
        ...


class CudaRecorder:
    """Records CUDA graphs that share their scratch memory.

    They may share it because nothing in it outlives a replay, and because replays of one recorder
    never overlap: solves on several streams wait for one another, by events.

    Args:
        device: Where the static tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()
            self._stream = torch.cuda.Stream()
            self._left = torch.cuda.Event()
        self._lock = threading.Lock()

    def record(self, work: Work, module: nn.Module) -> Work:
        """Rehearse, warm up on a stream beside the current one, and record.

        All in this thread, which holds the turn: the one that autograd has for the device may be
        waiting for it, with another thread's backward pass.
        """
        here = torch.autograd.set_multithreading_enabled(False)
        device = torch.cuda.device(self._device)
        with _ALONE, here, device, self._current_stream_kept() as current:
            self._stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._stream):
                    rehearse(work, module, self._device)
                    for _ in range(WARM_UP):
                        work()
            finally:  # what a refused rehearsal has put back must be there before it is read
                current.wait_stream(self._stream)
            return self._captured(work)

    def read(self, tensor: Tensor) -> list[float]:
        """Return the numbers of a vector: a wait for the device."""
        numbers: list[float] = tensor.tolist()
        return numbers

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until the last solve has left the static tensors, on whatever stream it ran."""
        with self._lock, torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._left)
            try:
                yield
            finally:
                self._left.record(stream)

    def _captured(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        told: Exception | None = None
        try:
            # thread_local: data loaders and NCCL's watchdog may go on in their own threads.
            with (
                _no_collection(),
                torch.cuda.graph(
                    graph,
                    pool=self._pool,
                    stream=self._stream,
                    capture_error_mode="thread_local",
                ),
                _workspaces_of_its_own(),
            ):
                try:
                    work()
                except Exception as error:
                    told = error
                    raise
        except Exception as error:
            self._mend()
            told = told or error  # that of a recording says no more than that it has failed
            raise Unrecordable(f"{type(told).__name__}: {told}") from error
        return graph.replay

    def _mend(self) -> None:
        """Undo what a failed recording leaves behind in PyTorch.

        Its allocator goes on looking for the recording's memory, and in some versions its
        generator of random numbers takes itself for recorded until a recording ends well.
        """
        with suppress(Exception):
            index = torch.cuda.current_device()
            torch._C._cuda_endAllocateToPool(index, self._pool)
        with suppress(Exception):
            scratch = torch.zeros(1, device=self._device)
            graph = torch.cuda.CUDAGraph()
            mode = "thread_local"
            with (
                _no_collection(),
                torch.cuda.graph(graph, stream=self._stream, capture_error_mode=mode),
            ):
                scratch.zero_()

    @contextmanager
    def _current_stream_kept(self) -> Iterator[torch.cuda.Stream]:
        """Restore the current stream, which ``torch.cuda.graph`` does not after a failure."""
        current = torch.cuda.current_stream()
        with torch.cuda.stream(current):
            yield current


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from freeing other graphs while one is being recorded."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _workspaces_of_its_own() -> Iterator[None]:
    """Have cuBLAS work in memory of the recording, and nobody else in that memory afterwards.

    It keeps a workspace for every stream. PyTorch has 32 streams and hands them out in turn, and
    frees the workspace of a stream with every graph that was recorded on it, whosever that was.

    Source: ``clear_cublas_manager`` in PyTorch's ``_inductor/cudagraph_trees.py``.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}
"""What records on a type of device; on others everything runs as it does natively."""
