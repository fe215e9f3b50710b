"""A vector field of the user's own as a problem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from reproduce.problems.base import FreeStart

DEFAULTS: dict[str, Any] = {"shape": [64, 2], "span": 1.0, "dtype": "float32"}


def own(
    field: Mapping[str, Any], shape: list[int], span: float, dtype: str, batch: int | None = None
) -> FreeStart:
    """Return a problem with a field that a configuration names, from normal numbers on.

    Args:
        field: ``class_path`` and ``init_args``.
        shape: Shape of the state, its first dimension the samples.
        span: Time that is solved for, from 0.
        dtype: ``float32`` or ``float64``.
        batch: Samples instead of ``shape``'s.

    Raises:
        ValueError: If the field cannot be built or called, or a setting is none.
    """
    from reproduce.own_fields import built  # which imports Lightning

    if dtype not in ("float32", "float64"):
        raise ValueError(f"data.dtype is {dtype!r}. Choose one of float32, float64.")
    if not isinstance(shape, list) or not shape or not all(_whole(n) for n in shape):
        raise ValueError(f"data.shape is {shape!r}; give whole numbers from 1 on, as [64, 2].")
    if isinstance(span, bool) or not isinstance(span, int | float) or not 0 < span < math.inf:
        raise ValueError(f"data.span is {span!r}; give a finite time above 0.")
    torch.manual_seed(0)
    number = getattr(torch, dtype)
    module = built(dict(field)).to(number)
    y0 = torch.randn([batch or shape[0], *shape[1:]]).to(number)
    times = torch.tensor([0.0, float(span)], dtype=number)
    try:
        with torch.no_grad():
            slope = module(times[0], y0)
    except Exception as error:  # whatever the user's module does
        reason = " ".join(str(error).split())
        raise ValueError(f"The field cannot be called with {list(y0.shape)}: {reason}") from error
    if not isinstance(slope, torch.Tensor) or slope.shape != y0.shape:
        found = list(slope.shape) if isinstance(slope, torch.Tensor) else type(slope).__name__
        raise ValueError(
            f"The field returns {found} for {list(y0.shape)}; it must keep the shape."
        )
    return FreeStart("own", module, times, y0)


def _whole(n: object) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 1
