"""Small matrix products as loops, which a compiler fuses with what stands around them.

A call of the library for matrix products costs more than such a product itself, and it keeps the
elementwise work before and behind it in passes of their own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SMALL = 2**16
"""Multiplications of a product up to which it is a loop; the library's blocks win beyond."""

_aten = torch.ops.aten


def _mm(a: Tensor, b: Tensor) -> Any:
    if a.shape[0] * a.shape[1] * b.shape[1] > SMALL:
        return NotImplemented
    return (a.unsqueeze(2) * b.unsqueeze(0)).sum(1)


def _bmm(a: Tensor, b: Tensor) -> Any:
    if a.numel() * b.shape[2] > SMALL:
        return NotImplemented
    return (a.unsqueeze(3) * b.unsqueeze(1)).sum(2)


def _added(product: Callable[[Tensor, Tensor], Any]) -> Callable[..., Any]:
    def added(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
        found = product(a, b)
        if found is NotImplemented:
            return found
        found = found if alpha == 1 else alpha * found
        if beta == 0:  # c is not read then, whatever it holds
            return found.expand(torch.broadcast_shapes(found.shape, c.shape))
        return (c if beta == 1 else beta * c) + found

    return added


LOOPS: dict[Any, Callable[..., Any]] = {
    _aten.mm.default: _mm,
    _aten.bmm.default: _bmm,
    _aten.addmm.default: _added(_mm),
    _aten.baddbmm.default: _added(_bmm),
}
"""Replacements by operator; ``NotImplemented`` leaves a large product as it is."""
