"""The default backend: the authors' library torchdiffeq (github.com/rtqichen/torchdiffeq)."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolverFailed, SolverSettings, SolveStats
from lightning_modules.solvers.failures import no_step, step_limit
from lightning_modules.solvers.once import is_transformed
from lightning_modules.solvers.registry import Backend, Norm, StepControl, TensorField
from lightning_modules.solvers.state import fixed_grid

# Their explicit_adams raises its order to 11, and is stable only for steps times the field's
# Lipschitz constant of about a thousandth; it is offered as it is.
_OUR_NAMES = {"rk4": "rk4_38", "heun2": "heun"}
_THEIR_NAMES = {ours: theirs for theirs, ours in _OUR_NAMES.items()}


@cache
def methods() -> Mapping[str, StepControl]:
    """Return every differentiable method of the installed version, under the suite's names.

    Their ``scipy_solver`` cuts the gradient without a word and is left out, as is any method of a
    base class that is not known to be differentiable; aliases keep their first name.
    """
    from torchdiffeq._impl.odeint import SOLVERS
    from torchdiffeq._impl.rk_common import RKAdaptiveStepsizeODESolver
    from torchdiffeq._impl.solvers import FixedGridODESolver

    found: dict[str, StepControl] = {}
    seen: set[type] = set()
    for name, solver in SOLVERS.items():
        if solver in seen or not issubclass(
            solver, (RKAdaptiveStepsizeODESolver, FixedGridODESolver)
        ):
            continue
        seen.add(solver)
        fixed = issubclass(solver, FixedGridODESolver)
        found[_OUR_NAMES.get(name, name)] = "fixed" if fixed else "adaptive"
    return found


def solve(
    field: TensorField,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Norm,
    stats: SolveStats,
) -> Tensor:
    """Solve with torchdiffeq's ``odeint``; arguments and result as in ``registry.Solve``.

    Adaptive methods other than dopri5 step exactly onto the output times. torchdiffeq would
    interpolate, with a midpoint of low order in all but dopri5, and lose the tolerance: by a
    factor of 5,000 for bosh3 and 9,000 for dopri8 at 1e-9 on y' = ty.
    """
    from torchdiffeq import odeint

    fixed = methods()[settings.method] == "fixed"
    watch: _Watch
    if fixed:
        grid = fixed_grid(times, settings, stats)
        _refuse_uneven(grid, settings.method)
        watch = _FixedWatch(field, times, settings, stats)
        options: dict[str, Any] = {"grid_constructor": lambda f, y, t: grid}
    else:
        if is_transformed():  # their interpolation has no rule for it
            raise RuntimeError(
                f"Transformations of torch.func do not pass {settings.method} of torchdiffeq. Use "
                "backend='native'; instead of vmap, make the batch a dimension of y0."
            )
        watch = _AdaptiveWatch(field, times, settings, stats)
        options = {"norm": norm}
        if settings.method != "dopri5":
            options["step_t"] = times.detach()
    try:
        ys: Tensor = odeint(
            watch,
            y0,
            times,
            rtol=settings.rtol,
            atol=settings.atol,
            method=_THEIR_NAMES.get(settings.method, settings.method),
            options=options,
        )
    except AssertionError as error:
        if error is watch.raised_by_field:
            raise
        raise watch.failure() from error
    return ys


def _refuse_uneven(grid: Tensor, method: str) -> None:
    """Raise where a multistep method, whose coefficients assume equal steps, gets others."""
    if not method.endswith("_adams"):
        return
    steps = grid.detach().diff()
    slack = 16 * torch.finfo(grid.dtype).eps * float(grid.detach().abs().max())
    if float((steps - steps.mean()).abs().max()) > slack:
        raise ValueError(
            f"{method} assumes equal steps and these times and step_size give steps from "
            f"{float(steps.abs().min()):.4g} to {float(steps.abs().max()):.4g}. "
            "Space the times evenly or choose a one-step method such as rk4_38."
        )


class _Watch:
    """The field as torchdiffeq sees it; its callbacks count steps and remember the last one."""

    def __init__(
        self, field: TensorField, times: Tensor, settings: SolverSettings, stats: SolveStats
    ) -> None:
        self._field = field
        self._settings = settings
        self._stats = stats
        self._end = times[-1]
        # Tensors, read on failure only: a number would make the GPU wait at every step.
        self._tried = torch.zeros(())
        self._at = (times[0], torch.empty(0), self._tried)
        self.raised_by_field: AssertionError | None = None

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        try:
            return self._field(t, y)
        except AssertionError as error:
            self.raised_by_field = error
            raise

    def callback_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        """Note the step that begins."""
        self._at = (t, y, dt)

    def failure(self) -> SolverFailed:
        """Return what to raise where torchdiffeq gave up."""
        t, y, dt = self._at
        # A step size that is not a number comes here as 0; the one tried before tells more.
        size, end = float(dt) or float(self._tried), float(self._end)
        return no_step(
            self._field,
            float(t),
            y,
            size,
            end,
            self._settings,
            self._stats,
            finite=float(dt) != 0.0,
        )


class _FixedWatch(_Watch):
    def callback_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        super().callback_step(t, y, dt)
        self._stats.steps_accepted += 1


class _AdaptiveWatch(_Watch):
    def callback_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        """Stop at the step limit: torchdiffeq's own counts within one output interval."""
        super().callback_step(t, y, dt)
        if self._stats.steps >= self._settings.max_steps:
            size = float(dt) or float(self._tried)
            raise step_limit(float(t), float(self._end), size, self._settings, self._stats)

    def callback_accept_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self._stats.steps_accepted += 1
        self._tried = dt

    def callback_reject_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        self._stats.steps_rejected += 1
        self._tried = dt


BACKEND = Backend(
    name="torchdiffeq",
    solve=solve,
    methods=methods,
    gradients=("direct", "adjoint"),
    absent={
        "rk4": "rk4 is the classical Runge-Kutta method; what torchdiffeq calls rk4 is the 3/8 "
        "rule, named rk4_38 here.",
        "heun2": "torchdiffeq's heun2 is named heun here.",
        "scipy_solver": "torchdiffeq's scipy_solver cuts the gradient without a word.",
        "fixed_adams": "fixed_adams is torchdiffeq's alias of implicit_adams.",
    },
)
