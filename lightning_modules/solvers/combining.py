"""Sums of slopes for several output times at once, in the precision of their dtype.

One matrix product for all, unless products of this device may be rounded to TF32. That is the
field's affair: three digits of an interpolated state would be lost without anybody's asking.
"""

import torch
from torch import Tensor


def combined(y: Tensor, weights: Tensor, slopes: Tensor, dt: float = 1.0) -> Tensor:
    """Return y + dt Σ_i w_i k_i for several rows of weights, ``(rows, numbers)``.

    Args:
        y: ``(numbers,)``.
        weights: ``(rows, slopes)``.
        slopes: ``(slopes, numbers)``.
        dt: Factor of the sums.
    """
    if _rounded(slopes):
        return _added(y.repeat(len(weights), 1), weights, slopes, dt)
    out = y.new_empty(len(weights), len(y))  # autocast leaves products with an out alone
    return torch.addmm(y, weights, slopes, alpha=dt, out=out)


def sums(weights: Tensor, slopes: Tensor) -> Tensor:
    """Return Σ_i w_i k_i for several rows of weights, as in `combined`."""
    out = slopes.new_empty(len(weights), slopes.shape[1])
    if _rounded(slopes):
        return _added(out.zero_(), weights, slopes, 1.0)
    return torch.mm(weights, slopes, out=out)


def _rounded(x: Tensor) -> bool:
    """Return whether a product with ``x`` may be rounded below its dtype."""
    if not x.is_cuda or x.dtype != torch.float32:
        return False
    # The older getters raise once a newer was set.
    return bool(torch._C._get_fp32_precision_getter("cuda", "matmul") == "tf32")


def _added(out: Tensor, weights: Tensor, slopes: Tensor, factor: float) -> Tensor:
    for column, slope in zip(weights.unbind(1), slopes.unbind(), strict=True):
        out.addcmul_(column.unsqueeze(1), slope, value=factor)
    return out
