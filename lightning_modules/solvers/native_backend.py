"""The suite's own backend: explicit Runge-Kutta methods with exact and cheap gradients."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolverSettings, SolveStats
from lightning_modules.solvers.checkpoint import solve_checkpointed
from lightning_modules.solvers.factored import solve_factored
from lightning_modules.solvers.integration import accepted_steps, outputs_of
from lightning_modules.solvers.registry import Backend, Norm, StepControl, TensorField
from lightning_modules.solvers.state import has_tangents
from lightning_modules.solvers.stepping import BufferedStages, GraphStages
from lightning_modules.solvers.tableaus import TABLEAUS

_METHODS: Mapping[str, StepControl] = {
    name: "fixed" if tableau.error is None else "adaptive" for name, tableau in TABLEAUS.items()
}


def methods() -> Mapping[str, StepControl]:
    """Return every tableau; those with an error estimate choose their own steps."""
    return _METHODS


def solve(
    field: TensorField,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Norm,
    stats: SolveStats,
) -> Tensor:
    """Solve with an explicit Runge-Kutta method; arguments and result as in ``registry.Solve``.

    dopri5 takes the steps it wants and interpolates at the output times, as torchdiffeq does;
    the other adaptive methods land on them. Times are float64 on the host, whatever the state
    is. Where gradients are recorded, they go through the accepted steps alone, and step sizes
    that the error chose are constants; so it is with forward-mode derivatives.
    """
    graph = torch.is_grad_enabled() or has_tangents()
    if not graph:
        y0 = y0.detach()
    kind = GraphStages if graph else BufferedStages
    stages = kind(field, TABLEAUS[settings.method], y0)
    ys = [y0.reshape(-1)]
    for step in accepted_steps(stages, y0, times, settings, norm, stats):
        ys += outputs_of(stages, step)
    return torch.stack([y.view(y0.shape) for y in ys])


BACKEND = Backend(
    name="native",
    solve=solve,
    methods=methods,
    gradients=("direct", "adjoint", "checkpoint"),
    checkpointed=solve_checkpointed,
    factored=solve_factored,
    absent={"heun2": "torchdiffeq's heun2 is named heun here."},
)
