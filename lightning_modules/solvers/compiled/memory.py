"""Tensors that outlive the mode in which they were made."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def lasting() -> AbstractContextManager[None]:
    """Record no graph, and make tensors that later solves may read, whatever mode they are in."""
    if torch.is_inference_mode_enabled():
        return _outside()
    return torch.no_grad() if torch.is_grad_enabled() else nullcontext()


@contextmanager
def _outside() -> Iterator[None]:
    with torch.inference_mode(False), torch.no_grad():
        yield
