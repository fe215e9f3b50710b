"""Solving initial value problems behind one interface."""

from lightning_modules.solvers import native_backend, scipy_backend, torchdiffeq_backend
from lightning_modules.solvers.base import (
    Field,
    Solution,
    SolverFailed,
    SolverSettings,
    SolveStats,
    State,
    StatsCollector,
    StepUnderflow,
    collect_stats,
)
from lightning_modules.solvers.captured import backend as captured_backend
from lightning_modules.solvers.compiled import backend as compiled_backend
from lightning_modules.solvers.factoring import is_factored
from lightning_modules.solvers.importing import import_backend
from lightning_modules.solvers.once import differentiable_once
from lightning_modules.solvers.registry import (
    Backend,
    Coefficients,
    FactoredField,
    Norm,
    Solve,
    backends,
    find_backend,
    gradient_table,
    register_backend,
    unregister_backend,
)
from lightning_modules.solvers.solve import odeint
from lightning_modules.solvers.watching import Step, watch_steps

register_backend(torchdiffeq_backend.BACKEND)
register_backend(native_backend.BACKEND)
register_backend(captured_backend.BACKEND)
register_backend(compiled_backend.BACKEND)
register_backend(scipy_backend.BACKEND)

__all__ = [
    "Backend",
    "Coefficients",
    "FactoredField",
    "Field",
    "Norm",
    "Solution",
    "Solve",
    "SolveStats",
    "SolverFailed",
    "SolverSettings",
    "State",
    "StatsCollector",
    "Step",
    "StepUnderflow",
    "backends",
    "collect_stats",
    "differentiable_once",
    "find_backend",
    "gradient_table",
    "import_backend",
    "is_factored",
    "odeint",
    "register_backend",
    "unregister_backend",
    "watch_steps",
]
