"""A field over leaves of its own, so that the graphs of a recording touch no other graph."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


class OnLeaves:
    """A user's field, computed with tensors in the place of its parameters, in their memory.

    Autograd hands the gradient of a leaf over on the stream that was current when the leaf's node
    was made, and a node lives as long as any graph with it: that of the training step in which a
    recording is made, or the one that DistributedDataParallel holds. For parameters this is the
    default stream as a rule, and to make that one wait for a recording ends the recording.

    Args:
        source: The field; referred to weakly.

    Source: the note "Autograd Producer-Consumer Stream Syncs" in PyTorch's ``input_buffer.cpp``.
    """

    def __init__(self, source: nn.Module) -> None:
        self._source = weakref.ref(source)
        self.leaves = tuple(map(_leaf, _wanting(source)))

    def __call__(self, t: Tensor, y: Any, /) -> Any:
        """Return dy/dt."""
        source = self._source()
        assert source is not None, "a recording has outlived its field"
        # Others by now, it may be, in the same memory.
        replaced = _InPlaceOf(_wanting(source), self.leaves)
        with replaced:
            dy = source(t, y)
        return replaced.replace(dy)  # torch is not asked for a parameter that is the slope itself


class _InPlaceOf(TorchFunctionMode):
    """Puts tensors in the place of others in all that this thread asks of torch.

    The module itself stays as it is, since other threads may be computing with it.
    """

    def __init__(self, those: Sequence[Tensor], these: Sequence[Tensor]) -> None:
        super().__init__()
        self._other = dict(zip(map(id, those), these, strict=True))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = self.replace((args, kwargs or {}))
        return func(*args, **kwargs)

    def replace(self, tree: Any) -> Any:
        """Return a tree of tensors and whatever else with these tensors in it for those."""
        return tree_map_only(Tensor, self._of, tree)

    def _of(self, x: Tensor) -> Tensor:
        return self._other.get(id(x), x)


def _wanting(source: nn.Module) -> list[nn.Parameter]:
    return [p for p in source.parameters() if p.requires_grad]


def _leaf(parameter: Tensor) -> Tensor:
    # No graph can be made of an inference tensor.
    return parameter if parameter.is_inference() else parameter.detach().requires_grad_()
