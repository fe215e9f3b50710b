"""Small matrix products as loops, which a compiler fuses with what stands around them.

A call of the library for matrix products costs more than such a product itself, and it keeps the
elementwise work behind it in a pass of its own. The dimension along which a loop is vectorised is
the one that fills registers best; a compiler takes the last of the result, had it two numbers.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lightning_modules.solvers.compiled.keeping import kept

SMALL = 2**16
"""Multiplications of a product up to which it is a loop; the library's blocks win beyond."""

FOLD = 6
"""Operations of the sum over the numbers of a register."""

_aten = torch.ops.aten


def _product(a: Tensor, b: Tensor, fixed: bool = False) -> Any:
    """Return a b, ``(..., m, n)``, of ``(..., m, k)`` and ``(..., k, n)``.

    Args:
        a: The first factor.
        b: The second.
        fixed: Whether b is the same in all turns of a loop, so that many products share a copy.
    """
    (m, k), n = a.shape[-2:], b.shape[-1]
    if a.numel() * n > SMALL or not a.is_floating_point():
        return NotImplemented
    own = 0 if fixed else 1
    along_n = m * k * _registers(n) + own * _copying(b)
    along_m = n * k * _registers(m) + _copying(a.mT)
    along_k = m * n * (_registers(k) + FOLD) + _copying(a) + own * _copying(b.mT)
    if along_n <= min(along_m, along_k):
        return (kept(a).unsqueeze(-1) * kept(b).unsqueeze(-3)).sum(-2)
    if along_m <= along_k:
        return (kept(b.mT).unsqueeze(-1) * kept(a.mT).unsqueeze(-3)).sum(-2).mT.contiguous()
    return (kept(a).unsqueeze(-2) * kept(b.mT).unsqueeze(-3)).sum(-1)


def _registers(numbers: int) -> int:
    return -(-numbers // _lanes())


@cache
def _lanes() -> int:
    """Return how many numbers the compiler takes at once on this machine."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    chosen = pick_vec_isa()
    return chosen.nelements() if chosen else 1  # float64, in two registers, as many


def _copying(x: Tensor) -> int:
    return 0 if x.is_contiguous() else x.shape[-2] * x.shape[-1]


def _added(product: Callable[..., Any]) -> Callable[..., Any]:
    def added(
        c: Tensor,
        a: Tensor,
        b: Tensor,
        *,
        beta: float = 1,
        alpha: float = 1,
        fixed: bool = False,
    ) -> Any:
        found = product(a, b, fixed)
        if found is NotImplemented:
            return found
        found = found if alpha == 1 else alpha * found
        if beta == 0:  # c is not read then, whatever it holds
            return found.expand(torch.broadcast_shapes(found.shape, c.shape))
        # As the library's result lies: what was traced of that may be views.
        return ((c if beta == 1 else beta * c) + found).contiguous()

    return added


LOOPS: dict[Any, Callable[..., Any]] = {
    _aten.mm.default: _product,
    _aten.bmm.default: _product,
    _aten.addmm.default: _added(_product),
    _aten.baddbmm.default: _added(_product),
}
"""Replacements by operator; ``NotImplemented`` leaves a product as it is.

So it does with large ones, and with those of integers, whose sums are of a wider type.
"""
