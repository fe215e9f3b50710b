"""The backend ``compiled``: what ``native`` does, compiled for the CPU.

Step for step it is the native backend: the same methods, accepted and rejected steps, evaluations
and gradients, up to rounding. By dopri5, the embedded pair with an interpolant, a solve of a small
state is one function of TorchInductor, a loop over trials, and its way back is another.
Otherwise Python decides from step to step, and the stages of a step with its error, and the way
back through it, are such functions. It takes a C++ compiler and from seconds to minutes for
each kind of solve, a tenth of it where TorchInductor has it on the disk: worth it for trainings of
many small steps. In float32 tanh is that of ``tangent``.

What is compiled, and what is left to ``native``, is as in ``captured.backend``. Native is also
every solve on a GPU and one under autocast, what has more operators than ``MOST_OPERATORS``, and
what is ``BEYOND`` the compiler (both in ``inductor``).
"""

from collections.abc import Hashable
from contextlib import suppress

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolverSettings
from lightning_modules.solvers.compiled.looped import LoopedPlan, loops
from lightning_modules.solvers.compiled.plan import CompiledPlan
from lightning_modules.solvers.fields import Recordable
from lightning_modules.solvers.identity import Unrecordable
from lightning_modules.solvers.recorded.engine import Plan, Task
from lightning_modules.solvers.recorded.passes import backend_of
from lightning_modules.solvers.registry import Norm


class Compiled:
    """Draws up plans whose steps are compiled."""

    name = "compiled"

    def takes(self, device: torch.device) -> bool:
        """Return whether it compiles for a device; the compiler would autocast a second time."""
        return device.type == "cpu" and not torch.is_autocast_enabled("cpu")

    def kind(self, y0: Tensor, settings: SolverSettings, outputs: int, keep: bool) -> Hashable:
        """Return for how many outputs there is room in a loop, where there is one.

        Tolerances are arguments, and the way back is made apart.
        """
        return outputs if loops(y0, settings, outputs) else None

    def plan(self, field: Recordable, norm: Norm, task: Task, outputs: int, keep: bool) -> Plan:
        """Compile a solve, or a step."""
        if loops(task.y0, task.settings, outputs):
            with suppress(Unrecordable):  # a loop's inputs, for one, may not share memory
                return LoopedPlan(field, norm, task, outputs)
        return CompiledPlan(field, norm, task)


BACKEND = backend_of(Compiled())
