"""What a recording would silently get wrong, found while the work runs once as usual.

A CUDA graph that is recorded over a synchronisation leaves the process in a bad state, and one
over random numbers or over a field that counts its calls replays something else than the field.
So the work is rehearsed before it is recorded, on any device by the same rules.
"""

import pickle
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lightning_modules.solvers.identity import (
    Unrecordable,
    fingerprint,
    tensors_of,
    written,
)
from lightning_modules.solvers.state import writable
from lightning_modules.solvers.surroundings import put_back

_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")


class Inspector(TorchDispatchMode):
    """Raises `Unrecordable` at the first operator that a recording cannot hold.

    Args:
        device: Where the state is; every tensor must be there.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Look at an operator before it runs."""
        self._check(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _check(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        name = func.name().split(".")[0]
        if torch.Tag.nondeterministic_seeded in func.tags and not _drops_nothing(
            func, args, kwargs
        ):
            raise Unrecordable(f"it draws random numbers ({name})")
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        by_values = torch.Tag.data_dependent_output in func.tags
        by_values |= torch.Tag.dynamic_output_shape in func.tags and name != "aten::index"
        by_values |= name in _INDEXING and any(x.dtype in _MASKS for x in given[1:])
        if by_values:
            raise Unrecordable(f"what it does depends on the values of a tensor ({name})")
        elsewhere = {x.device for x in given} | {kwargs.get("device") or self._device}
        elsewhere = {place for place in elsewhere if place.type != self._device.type}
        if elsewhere:
            raise Unrecordable(f"it uses tensors on {elsewhere.pop()} ({name})")


_MASKS = (torch.bool, torch.uint8)


def _drops_nothing(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether an operator, attention or a recurrent net, is told to drop nothing out."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name in ("dropout", "dropout_p"):
            given = args[place] if place < len(args) else argument.default_value
            return bool(kwargs.get(argument.name, given) == 0)
    return False


def rehearse(work: Callable[[], None], module: nn.Module, device: torch.device) -> None:
    """Run ``work`` once and leave ``module`` as it was, but for parameters that it writes to.

    These are refused and not put back.

    Args:
        work: What will be recorded.
        module: The field that it evaluates.
        device: Where its tensors are.

    Raises:
        Unrecordable: If it synchronises, draws random numbers, decides by the values of tensors,
            fails, or if the module is not afterwards what it was before.
    """
    with _restored(module) as copies:
        before, writes, drawn = fingerprint(module), written(module), _random_states()
        try:
            with _waits(device, "error"), Inspector(device):
                work()
        except Unrecordable:
            raise
        except Exception as error:  # of the field's own, or of a wait that was forbidden
            raise Unrecordable(f"{type(error).__name__}: {error}") from error
        if _random_states() != drawn:
            raise Unrecordable("it draws random numbers of Python or NumPy")
        if fingerprint(module) != before:
            raise Unrecordable("evaluating it changes its attributes")
        with _waits(device, "default"):
            if written(module) != writes or any(_differ(*both) for both in copies):
                raise Unrecordable(
                    "evaluating it writes to its buffers, as batch norms in training"
                )


def _random_states() -> tuple[object, ...]:
    """Return how far the generators are that no operator of PyTorch tells of."""
    numpy = sys.modules.get("numpy")
    drawn = pickle.dumps(numpy.random.get_state(legacy=False)) if numpy else None
    return random.getstate(), drawn


@contextmanager
def _restored(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Undo what happens inside to a module's attributes and to its tensors but parameters.

    Yielded is what `put_back` yields.
    """
    parts = [(part, dict(part.__dict__), dict(part._buffers)) for part in module.modules()]
    own = set(map(id, module.parameters()))
    with put_back([x for x in tensors_of(module) if id(x) not in own and writable(x)]) as copies:
        try:
            yield copies
        finally:
            for part, attributes, buffers in parts:
                for name in part.__dict__.keys() - attributes.keys():
                    del part.__dict__[name]
                part.__dict__.update(attributes)
                part._buffers.update(buffers)


def _differ(tensor: Tensor, copy: Tensor) -> bool:
    """Return whether any number is another one; two NaN count as the same."""
    try:
        if torch.equal(tensor, copy):
            return False
        return bool((tensor.ne(copy) & (tensor.eq(tensor) | copy.eq(copy))).any())
    except RuntimeError:  # of a dtype that cannot be compared
        return False


@contextmanager
def _waits(device: torch.device, mode: str) -> Iterator[None]:
    """Have PyTorch raise, or not, where the host waits for the GPU, inside operators too.

    Args:
        device: On others nothing is done.
        mode: ``error`` or ``default``.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself a prototype
            torch.cuda.set_sync_debug_mode(mode)
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
