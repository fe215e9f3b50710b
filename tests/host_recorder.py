"""A recorder for the CPU that makes the mistakes visible which a CUDA graph makes in silence."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter

from lightning_modules.solvers.captured import recording
from lightning_modules.solvers.recorded.inspection import Inspector, rehearse

Work = Callable[[], None]
CPU = torch.device("cpu")


class Births(Inspector):
    """Inspects every operator and knows the tensors that were made in memory of their own."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self._born: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        given = {x.untyped_storage()._cdata for x in _tensors((args, kwargs))}
        new = (x for x in _tensors(out) if x.untyped_storage()._cdata not in given)
        self._born += map(weakref.ref, new)
        return out

    def poison(self) -> None:
        """Fill with nan what outlives the work: a graph's next replay would overwrite it."""
        for reference in self._born:
            tensor = reference()
            if tensor is not None and tensor.is_floating_point():
                with torch.no_grad():
                    tensor.detach().fill_(torch.nan)


class HostRecorder:
    """Replays by running the work again, inspected and poisoned, and counts what happens."""

    def __init__(self, device: torch.device) -> None:
        self._lock = threading.Lock()
        self.replays = self.reads = self.recorded = 0
        MADE.append(self)

    def record(self, work: Work, module: nn.Module) -> Work:
        assert self._lock.locked(), "recorded out of turn"
        rehearse(work, module, CPU)
        self.recorded += 1
        parameters = [weakref.ref(p) for p in module.parameters()]
        where = [p.data_ptr() for p in module.parameters()]

        def replay() -> None:
            assert self._lock.locked(), "replayed out of turn"
            assert where == [p.data_ptr() for p in (r() for r in parameters) if p is not None]
            self.replays += 1
            with Births() as births, _Elsewhere([r() for r in parameters]):
                work()
            births.poison()

        return replay

    def read(self, tensor: Tensor) -> list[float]:
        self.reads += 1
        return tensor.tolist()

    @contextmanager
    def turn(self) -> Iterator[None]:
        assert self._lock.acquire(timeout=60)
        try:
            yield
        finally:
            self._lock.release()


class _Elsewhere(TorchFunctionMode):
    """Fails where a gradient is asked for by a parameter, whose node may be on another stream."""

    def __init__(self, parameters: Sequence[Tensor | None]) -> None:
        super().__init__()
        self._parameters = parameters

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.autograd.grad:
            met = any(x is p for x in args[1] for p in self._parameters)
            assert not met, "a recording meets the node of a parameter itself"
        return func(*args, **(kwargs or {}))


MADE: list[HostRecorder] = []


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[HostRecorder]:
    """The recorders that are made, one for each kind of solve, while the CPU has any."""
    monkeypatch.setitem(recording.RECORDERS, "cpu", HostRecorder)
    MADE.clear()
    return MADE


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (x for x in tree_iter(tree) if isinstance(x, Tensor))
