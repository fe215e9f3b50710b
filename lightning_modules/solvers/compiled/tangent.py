"""The hyperbolic tangent in single precision, as a quotient of polynomials.

The one that compiled code would call costs nearly twice as much, and is most of the time of a
small field. This one's relative error is at most 4e-7, and it is never more than 1. The
coefficients have the least largest relative error on [0, 7.9], found by Lawson's iteration on the
linearized fit. From 8.3 on it is 1, so that slopes that vanish do so here too.
"""

from typing import Any

import torch
from torch import Tensor

LARGEST = 7.9  # of the fit
FLAT = 8.3  # tanh is nearer to 1 from here on than to the end of the fit
NUMERATOR = (
    0.9999999833192386,
    0.1298491855471518,
    0.0029921063952419607,
    9.939265483352735e-06,
    -1.490645270544165e-08,
    2.410565757527793e-11,
)
DENOMINATOR = (1.0, 0.4631823650172874, 0.024053132190180643, 0.00023808808247957324)


def tanh(x: Tensor) -> Any:
    """Return tanh x, ``NotImplemented`` for another precision."""
    if x.dtype != torch.float32:
        return NotImplemented
    within = x.clamp(-LARGEST, LARGEST)
    square = within * within
    found = within * _polynomial(NUMERATOR, square) / _polynomial(DENOMINATOR, square)
    # There it is 1 or -1 exactly, by one instruction; ``x.sign()`` would be five.
    return torch.where(x.abs() > FLAT, within * (1 / LARGEST), found)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        total = (total + coefficient) * x
    return total + coefficients[0]
