"""Intermediate results that compiled code keeps in memory instead of computing them where read.

The compiler repeats elementwise work in each loop that reads its result. Where that is a matrix
product, it is repeated for every column of the result, and number by number: the factor is the
same for all numbers of a vector register. A small field's time is then that of scalar functions.
"""

from functools import cache

import torch
from torch import Tensor


@torch.library.custom_op("neural_odes::kept", mutates_args=())
def kept(x: Tensor) -> Tensor:
    """Return ``x`` in the order of its dimensions in memory; nothing may be written to it.

    By itself this is a copy; compiled, ``x`` itself where it lies that way already.
    """
    return x.clone(memory_format=torch.contiguous_format)


@kept.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


KEPT = torch.ops.neural_odes.kept.default


@cache
def teach() -> None:
    """Tell the compiler to make a buffer of what is to be kept, if it is none already."""
    from torch._inductor import ir, lowering

    @lowering.register_lowering(KEPT, type_promotion_kind=None)
    def lower(x: ir.TensorBox) -> ir.IRNode:
        contiguous: ir.IRNode = ir.ExternKernel.require_contiguous(x)
        contiguous.realize()
        return contiguous
