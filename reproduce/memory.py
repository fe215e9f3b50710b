"""Peak memory of a piece of work, apart from what was there before it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MIB = 2**20
STATUS = Path("/proc/self/status")


def peak(work: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Return the peak of the memory that ``work`` takes, in MiB.

    On a GPU, the peak that was allocated less the level before. On the CPU, where no allocator
    tells, the peak of the tensors that ``work`` makes and that are alive at the same time, each
    storage counted once, whoever holds it: a variable, the graph or the context of an autograd
    function. Scratch memory within an operator is not seen there.

    Args:
        work: What to measure; run it once before, so that lasting buffers exist.
        device: Where its tensors are.
    """
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    storages = _Storages()
    with _mode(storages):
        work()
    return storages.peak / MIB


def of_process(name: str) -> float:
    """Return a line of this process's status in MiB, such as ``VmHWM``, the most ever resident.

    Without such a status, as on macOS, the peak, whatever the name.
    """
    import resource

    if STATUS.exists():  # Linux lets ru_maxrss begin with that of the process which started this
        line = next(row for row in STATUS.read_text().splitlines() if row.startswith(name))
        return float(line.split()[1]) * 1024 / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB  # macOS: bytes


class _Storages:
    """The storages made since the beginning that are alive, and the most that ever were."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._level = 0
        self.peak = 0

    def see(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor, again if it has grown."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._free, key)
        self._level += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self._level)

    def __contains__(self, key: int) -> bool:
        return key in self._sizes

    def _free(self, key: int) -> None:
        self._level -= self._sizes.pop(key, 0)


def _mode(storages: _Storages) -> Any:
    """Return a context that shows the storage of every operator's new tensors."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            given = {
                leaf.untyped_storage()._cdata
                for leaf in tree_leaves((args, kwargs))
                if hasattr(leaf, "untyped_storage")
            }
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                # A view or an in-place result shares a storage that was seen when it was made.
                if hasattr(leaf, "untyped_storage") and (
                    leaf.untyped_storage()._cdata not in given
                    or leaf.untyped_storage()._cdata in storages
                ):
                    storages.see(leaf)
            return result

    return Watch()
