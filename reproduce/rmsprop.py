"""RMSProp as TensorFlow 1 has it and as torch has it: they begin differently."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Update = Callable[[Tensor, Tensor], Tensor]


def tensorflows(rate: float, momentum: float) -> Update:
    """Return what takes a vector and its gradient to the next, as ``tf.train.RMSPropOptimizer``.

    Source: TensorFlow 1's documentation and defaults: mean square from 1, decay 0.9, epsilon
    1e-10 under the root; the rate is within the momentum.
    """
    mean_square, velocity = torch.ones((), dtype=torch.float64), torch.zeros(())

    def update(x: Tensor, gradient: Tensor) -> Tensor:
        nonlocal mean_square, velocity
        mean_square = 0.9 * mean_square + 0.1 * gradient.square()
        velocity = momentum * velocity + rate * gradient / (mean_square + 1e-10).sqrt()
        return x - velocity

    return update


def torchs(rate: float, momentum: float) -> Update:
    """Return the same by ``torch.optim.RMSprop``, for vectors of two in float64."""
    held = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = torch.optim.RMSprop([held], lr=rate, momentum=momentum)

    def update(x: Tensor, gradient: Tensor) -> Tensor:
        held.data, held.grad = x.clone(), gradient
        optimizer.step()
        return held.detach().clone()

    return update
