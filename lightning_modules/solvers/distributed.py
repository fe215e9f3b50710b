"""Step control that all processes of a distributed training share."""

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.solvers.base import SolverSettings
from lightning_modules.solvers.registry import Norm


def shared(norm: Norm, settings: SolverSettings) -> Norm:
    """Return ``norm``, the largest over all processes of the default group if ``sync_norm``.

    State enters the step control of an adaptive solver through its norm alone, the starting step
    included, so with this norm every rank takes the same steps, if all solve over the same times.
    Without a process group it is ``norm`` itself: the same settings serve a single process.
    """
    if not settings.sync_norm or not (dist.is_available() and dist.is_initialized()):
        return norm

    def largest(error: Tensor) -> Tensor:
        # What max makes of nan depends on the library; a rank that fails must fail everywhere.
        value = norm(error).detach().nan_to_num(nan=torch.inf, posinf=torch.inf)
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    return largest
