"""The backend ``compiled``: what ``native`` does, with a step compiled for the CPU.

Step for step it is the native backend: the same methods, accepted and rejected steps, evaluations
and gradients, up to rounding. Python still decides from step to step; the stages of a step with
its error, and the way back through it, are one function of TorchInductor each, without a call of
the interpreter in between. It takes a C++ compiler and from seconds to a minute for each kind of
solve, which TorchInductor remembers on the disk: worth it for trainings of many small steps.

What is compiled, and what is left to ``native``, is as in ``captured.backend``. Native is also
every solve on a GPU, and one under autocast.
"""

from collections.abc import Hashable

import torch

from lightning_modules.solvers.base import SolverSettings
from lightning_modules.solvers.compiled.plan import CompiledPlan
from lightning_modules.solvers.fields import Recordable
from lightning_modules.solvers.recorded.engine import Plan, Task
from lightning_modules.solvers.recorded.passes import backend_of
from lightning_modules.solvers.registry import Norm


class Compiled:
    """Draws up plans whose steps are compiled."""

    name = "compiled"

    def takes(self, device: torch.device) -> bool:
        """Return whether it compiles for a device; the compiler would autocast a second time."""
        return device.type == "cpu" and not torch.is_autocast_enabled("cpu")

    def kind(self, settings: SolverSettings, outputs: int, keep: bool) -> Hashable:
        """Return nothing: tolerances are arguments, outputs and backward are made apart."""
        return ()

    def plan(self, field: Recordable, norm: Norm, task: Task, outputs: int, keep: bool) -> Plan:
        """Compile a step."""
        return CompiledPlan(field, norm, task)


BACKEND = backend_of(Compiled())
