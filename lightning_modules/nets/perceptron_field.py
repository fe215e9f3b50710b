"""The latent ODE's field: a perceptron of the state alone, whose gradients are written out."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_modules.nets.fields import as_rows
from lightning_modules.solvers import Coefficients


class PerceptronField(nn.Module):
    """dz/dt = f(z), a perceptron with ELU units that does not see t (Section 5).

    Its weights are its coefficients, the same at all times, so that the native backend solves it
    without a graph: ELU'(x) = min(ELU(x) + 1, 1) needs nothing but the units' values.

    Args:
        dim: Dimension of the state.
        hidden: Units of each hidden layer.
        layers: Hidden layers: 1 in the paper, 2 in the authors' later example.

    Raises:
        ValueError: If any of them is below 1.
    """

    def __init__(self, dim: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("hidden", hidden), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name} is {value}; give at least 1.")
        sizes = pairwise([dim, *[hidden] * layers, dim])
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in sizes)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(…, dim)``."""
        *hidden, last = self.layers
        for layer in hidden:
            y = nn.functional.elu(layer(y))
        out: Tensor = last(y)
        return out

    def coefficients(self, times: Tensor) -> Coefficients:
        """Return weights and biases of all layers, the same at all ``times``, ``(time,)``."""
        parts: list[Tensor] = []
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            parts += [layer.weight.T, layer.bias]
        return tuple(part.expand(len(times), *part.shape) for part in parts)

    def slope(self, c: Coefficients, y: Tensor, out: Tensor) -> list[Tensor]:
        """Write dy/dt to ``out``; return the values of the hidden layers."""
        units, x = [], as_rows(y)
        for weight, bias in zip(c[:-2:2], c[1:-2:2], strict=True):
            x = elu(torch.addmm(bias, x, weight))
            units.append(x)
        torch.addmm(c[-1], x, c[-2], out=as_rows(out))
        return units

    def pull(
        self, c: Coefficients, y: Tensor, note: list[Tensor], kappa: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the vector-Jacobian products with respect to state and weights."""
        shares: list[Tensor] = []
        start, kappa = as_rows(y), as_rows(kappa)
        for weight, x in zip(reversed(c[::2]), reversed([start, *note]), strict=True):
            shares = [x.T @ kappa, kappa.sum(0), *shares]
            kappa = kappa @ weight.T
            if x is not start:
                kappa.mul_((x + 1).clamp_(max=1))
        return (kappa.view_as(y), *shares)


def elu(x: Tensor) -> Tensor:
    """Return ELU(x) = max(x, exp(min(x, 0)) - 1) and overwrite ``x``.

    torch's own takes expm1, which in float32 on a CPU makes it six to nine times as slow. Here the
    absolute error is one rounding of 1, so small negative values lose relative accuracy.
    """
    if x.dtype is not torch.float32:
        return nn.functional.elu_(x)
    below = x.clamp(max=0.0).exp_().sub_(1.0)
    return torch.maximum(x, below, out=x)
