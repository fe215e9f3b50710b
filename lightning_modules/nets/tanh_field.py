"""The field of the spiral demonstration, whose gradients are written out."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_modules.nets.fields import as_rows
from lightning_modules.solvers import Coefficients

Initial = Literal["normal", "glorot"]


class TanhField(nn.Module):
    """dy/dt = W₂ tanh(W₁ yᵖ + b₁) + b₂, the power p taken of each number of the state.

    It does not see t. Its weights are its coefficients, the same at all times, so that the native
    backend solves it without a graph. No number of dy/dt exceeds its row sum of |W₂| and |b₂|.

    Args:
        dim: Numbers of the state.
        hidden: Units of the hidden layer.
        power: The power p; 1 is an ordinary perceptron.
        initial: ``normal``: weights from N(0, 0.1²), as the authors draw them. ``glorot``:
            uniform up to √(6 / (inputs + outputs)), Keras' default. Biases begin at 0.

    Raises:
        ValueError: If a number is below 1 or the initialisation is unknown.

    Source: rtqichen/torchdiffeq, ``examples/ode_demo.py``: sizes, power and N(0, 0.1²).
    """

    def __init__(
        self, dim: int = 2, hidden: int = 50, power: int = 3, initial: Initial = "normal"
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("hidden", hidden), ("power", power)):
            if value < 1:
                raise ValueError(f"{name} is {value}; give at least 1.")
        if initial not in get_args(Initial):
            raise ValueError(
                f"Unknown initial {initial!r}. Choose one of {', '.join(get_args(Initial))}."
            )
        self.power = power
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        for layer in (self.first, self.second):
            nn.init.zeros_(layer.bias)
            if initial == "normal":
                nn.init.normal_(layer.weight, std=0.1)
            else:
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(…, dim)``."""
        out: Tensor = self.second(torch.tanh(self.first(y.pow(self.power))))
        return out

    def coefficients(self, times: Tensor) -> Coefficients:
        """Return weights and biases of both layers, the same at all ``times``, ``(time,)``."""
        parts = (self.first.weight.T, self.first.bias, self.second.weight.T, self.second.bias)
        return tuple(part.expand(len(times), *part.shape) for part in parts)

    def slope(self, c: Coefficients, y: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Write dy/dt to ``out``; return the powers and the values of the hidden units."""
        powers = as_rows(y).pow(self.power)
        units = torch.addmm(c[1], powers, c[0]).tanh_()
        torch.addmm(c[3], units, c[2], out=as_rows(out))
        return powers, units

    def pull(
        self, c: Coefficients, y: Tensor, note: tuple[Tensor, Tensor], kappa: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the vector-Jacobian products with respect to state and weights."""
        (powers, units), kappa = note, as_rows(kappa)
        inner = kappa @ c[2].T
        inner = torch.addcmul(inner, inner, units.square(), value=-1)
        of_state = (inner @ c[0].T).view_as(y).mul_(y.pow(self.power - 1)).mul_(self.power)
        return of_state, powers.T @ inner, inner.sum(0), units.T @ kappa, kappa.sum(0)
