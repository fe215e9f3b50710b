"""Gradients that have no derivative of their own, and say so where one is asked for."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

Gradients = tuple[Tensor | None, ...]


def is_transformed() -> bool:
    """Return whether this runs within a transformation of torch.func, grad or vmap for example."""
    return torch._C._are_functorch_transforms_active()


def refuse_several(gradient: Tensor, remedy: str) -> None:
    """Refuse to go back for several gradients at once.

    Args:
        gradient: What ``backward`` was called with.
        remedy: The last sentence of the error: where they pass.

    Raises:
        RuntimeError: If it stands for several.
    """
    functions = torch._C._functorch
    if functions.is_legacy_batchedtensor(gradient) or functions.is_batchedtensor(gradient):
        raise RuntimeError(
            "Backward was called for several gradients at once, by vectorize=True, "
            f"is_grads_batched=True or vmap. Take one after the other, without it. {remedy}"
        )


def differentiable_once(remedy: str) -> Callable[[Callable[..., Gradients]], Callable[..., Any]]:
    """Return a decorator of a ``backward`` whose gradients cannot be differentiated again.

    With ``create_graph=True`` it is refused at once. PyTorch's ``once_differentiable`` waits for
    the second derivative, and refuses it only on the way to what came from above: by the inputs of
    the function it is zero in silence, a Hessian as well as a penalty on a gradient.

    Args:
        remedy: The second half of the error: what is differentiable once, and what to do instead.
    """

    def decorate(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
        @wraps(backward)
        def once(ctx: Any, *above: Tensor | None) -> Gradients:
            if torch.is_grad_enabled():
                raise RuntimeError(f"create_graph=True asks for a second derivative: {remedy}")
            return backward(ctx, *above)

        return once

    return decorate
