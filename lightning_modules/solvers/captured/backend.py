"""The backend ``captured``: what ``native`` does, recorded once and replayed.

Step for step it is the native backend: the same methods, accepted and rejected steps, evaluations
and gradients, up to rounding. It records

- forward solves without a graph: evaluation, and those of ``gradient="adjoint"`` and
  ``"checkpoint"``;
- the backward pass of ``"checkpoint"``, the vector-Jacobian product of one step;
- the backward solve of ``"adjoint"``, a solve as any other.

``gradient="direct"`` records a graph of autograd and so runs as it does natively. So does every
solve on a device that records nothing, the CPU, and one whose field is no ``nn.Module``, waits for
the device, draws random numbers, decides by the values of tensors, writes to its buffers, or has
hooks or scripted parts; that is found out before it is recorded. Forgotten are recordings with
their field.
"""

from collections.abc import Hashable

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolverSettings
from lightning_modules.solvers.captured.plan import CapturedPlan
from lightning_modules.solvers.captured.recording import RECORDERS
from lightning_modules.solvers.fields import Recordable
from lightning_modules.solvers.recorded.engine import Plan, Task
from lightning_modules.solvers.recorded.passes import backend_of
from lightning_modules.solvers.registry import Norm


class Captured:
    """Draws up plans whose steps are CUDA graphs."""

    name = "captured"

    def takes(self, device: torch.device) -> bool:
        """Return whether anything records on a device."""
        return device.type in RECORDERS

    def kind(self, y0: Tensor, settings: SolverSettings, outputs: int, keep: bool) -> Hashable:
        """Return what a recording holds beside field, method and numbers."""
        return settings.rtol, settings.atol, outputs, keep

    def plan(self, field: Recordable, norm: Norm, task: Task, outputs: int, keep: bool) -> Plan:
        """Record a forward solve."""
        device = task.y0.device
        return CapturedPlan(RECORDERS[device.type](device), field, norm, task, outputs, keep)


BACKEND = backend_of(Captured())
