"""What the host makes of the standing in which a solve on the device has ended."""

import math

from torch import Tensor

from lightning_modules.solvers.base import SolverFailed
from lightning_modules.solvers.failures import no_step, step_limit
from lightning_modules.solvers.recorded.engine import Task
from lightning_modules.solvers.recorded.ledger import (
    AT_LIMIT,
    DONE,
    NOT_STARTED,
    STUCK,
    Standing,
)
from lightning_modules.solvers.tableaus import ButcherTableau


def settle(task: Task, standing: Standing[float], tableau: ButcherTableau, y: Tensor) -> None:
    """Count steps and evaluations, as a solve step by step would have.

    Args:
        task: The solve.
        standing: Where it has ended.
        tableau: The method.
        y: The last state, ``(numbers,)``.

    Raises:
        SolverFailed: If it did not get to its last output time.
    """
    each = tableau.stages - tableau.fsal
    opening = 1 if standing.status == NOT_STARTED else 2
    task.field.count(opening + each * standing.trials)
    task.stats.steps_accepted += int(standing.accepted)
    task.stats.steps_rejected += int(standing.rejected)
    if standing.status != DONE:
        raise _failure(task, standing, y)


def _failure(task: Task, standing: Standing[float], y: Tensor) -> SolverFailed:
    t, end = standing.t, task.ticks[-1]
    if standing.status == AT_LIMIT:
        return step_limit(t, end, standing.dt, task.settings, task.stats)
    finite = standing.status == STUCK and math.isfinite(standing.ratio)
    dt = 0.0 if standing.status == NOT_STARTED else standing.dt
    shaped, y = task.field, y.clone()

    # Evaluated as a solve step by step does, to find the cause; counted like there.
    def field(at: Tensor, vector: Tensor) -> Tensor:
        return shaped(at, vector.view(task.y0.shape)).reshape(-1)

    return no_step(field, t, y, dt, end, task.settings, task.stats, finite=finite)
