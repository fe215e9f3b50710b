"""Tensors that outlive the mode in which they were made."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def lasting() -> Iterator[None]:
    """Record no graph, and make tensors that later solves may read, whatever mode they are in."""
    with torch.inference_mode(False), torch.no_grad():
        yield
