"""What gradients that evaluate the field again in backward have in common."""

from collections.abc import Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from lightning_modules.solvers.registry import TensorField


def autocast_now(device: str) -> dict[str, Any]:
    """Return the arguments of ``torch.autocast`` that restore how it is set on ``device``."""
    return {
        "device_type": device,
        "enabled": torch.is_autocast_enabled(device),
        "dtype": torch.get_autocast_dtype(device),
        "cache_enabled": False,  # a cast cached without graph would cut gradients elsewhere
    }


def autocast_as(autocast: dict[str, Any]) -> AbstractContextManager[None]:
    """Set autocast as `autocast_now` has found it; free where it was off and is."""
    if not autocast["enabled"] and not torch.is_autocast_enabled(autocast["device_type"]):
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(**autocast)
    return context


def vjp(output: Tensor, inputs: Sequence[Tensor], vector: Tensor) -> Sequence[Tensor | None]:
    """Return vectorᵀ ∂output/∂input for each input, None where there is no dependence.

    Raises:
        RuntimeError: If the output depends on what was computed once, before the evaluation.
    """
    if not output.requires_grad:
        return [None] * len(inputs)
    try:
        return torch.autograd.grad(output, inputs, vector, allow_unused=True)
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise RuntimeError(
            "The field uses a tensor that was computed from its parameters before it was called, "
            "whose graph is gone once backward has gone back through one evaluation. Compute it "
            "within the field's forward, make it part of the state, or use gradient='direct'."
        ) from error


class Pulls:
    """Evaluations that keep a graph until they are pulled back, last first.

    Args:
        field: What is evaluated.
        parameters: Its parameters; ``gradients`` adds up what reaches them.
    """

    def __init__(self, field: TensorField, parameters: Sequence[Tensor]) -> None:
        self._field, self._parameters = field, parameters
        self._known = set(map(id, parameters))
        self._graphs: list[tuple[Tensor, Tensor]] = []
        self.gradients = [torch.zeros_like(p) for p in parameters]

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope, without its graph."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            slope = self._field(t, y)
        self._graphs.append((y, slope))
        return slope.detach()

    def pull(self, kappa: Tensor) -> Tensor | None:
        """Return κᵀ ∂f/∂y of the evaluation made last, and add what reaches the parameters."""
        y, slope = self._graphs.pop()
        refuse_strangers(slope, y, self._known)
        pulled, *shares = vjp(slope, (y, *self._parameters), kappa.view(y.shape))
        pairs = zip(self.gradients, shares, strict=True)
        reached = [(total, share) for total, share in pairs if share is not None]
        if reached:  # one call for all parameters
            torch._foreach_add_([total for total, _ in reached], [share for _, share in reached])
        return pulled


def refuse_strangers(output: Tensor, state: Tensor, known: Set[int]) -> None:
    """Raise where ``output`` depends on another leaf, whose gradient would be lost.

    Args:
        output: What the field returned.
        state: What it was called with.
        known: The ids of its parameters.
    """
    seen: set[Any] = set()
    itself = output.requires_grad and output.is_leaf
    todo: list[Any] = [get_gradient_edge(output).node if itself else output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)  # only leaves' AccumulateGrad nodes have one
        if isinstance(leaf, Tensor) and leaf is not state and id(leaf) not in known:
            raise RuntimeError(
                f"The field uses a tensor of shape {tuple(leaf.shape)} that requires a gradient "
                "and is no parameter of it, so backward would drop that gradient. Pass an "
                "nn.Module that owns it, make it part of the state, or use gradient='direct'."
            )
        todo.extend(parent for parent, _ in node.next_functions)
