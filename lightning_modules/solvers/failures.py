"""What a solver says when it gives up."""

import torch
from torch import Tensor

from lightning_modules.solvers.base import (
    SolverFailed,
    SolverSettings,
    SolveStats,
    StepUnderflow,
)
from lightning_modules.solvers.registry import TensorField


def step_limit(
    t: float, end: float, dt: float, settings: SolverSettings, stats: SolveStats
) -> SolverFailed:
    """Return the failure of a solve that has used up its steps."""
    why = f"max_steps={settings.max_steps} reached. Raise max_steps or loosen rtol/atol."
    return _stopped(why, t, end, dt, settings, stats)


def no_step(
    field: TensorField,
    t: float,
    y: Tensor,
    dt: float,
    end: float,
    settings: SolverSettings,
    stats: SolveStats,
    *,
    finite: bool,
) -> SolverFailed:
    """Return the failure of a solve that finds no step to take, after looking for its cause.

    Args:
        field: Evaluated once more at ``(t, y)``.
        t: Time that the solve had reached.
        y: State at that time.
        dt: Size of the step tried last, 0 if none was.
        end: Last output time.
        settings: How it was solved, for the message.
        stats: Steps that the solve took.
        finite: Whether the error of the step tried last was.
    """
    why = _cause(field, t, y, finite)
    if why:
        return _stopped(why, t, end, dt, settings, stats)
    return _stopped(_too_small(y.dtype, settings), t, end, dt, settings, stats, StepUnderflow)


def _stopped(
    why: str,
    t: float,
    end: float,
    dt: float,
    settings: SolverSettings,
    stats: SolveStats,
    kind: type[SolverFailed] = SolverFailed,
) -> SolverFailed:
    return kind(
        f"{settings.method} stopped at t={t:.6g} of {end:.6g} after {stats.steps} steps "
        f"(dt={abs(dt):.1e}): {why}",
        t,
        abs(dt),
        stats.steps,
    )


_CHECK = "Check the field there, or shorten the time span."


@torch.no_grad()
def _cause(field: TensorField, t: float, y: Tensor, finite: bool) -> str:
    """Say what is not finite and what to do; empty where everything is."""
    if not bool(torch.isfinite(y).all()):
        return f"the state is not finite. {_CHECK}"
    time = torch.full((), t, dtype=y.dtype, device=y.device)
    if not bool(torch.isfinite(field(time, y)).all()):
        return f"the field returned values that are not finite at the last state. {_CHECK}"
    if finite:
        return ""
    return (
        "the field is finite at the last state but not within the step tried from it; "
        "the solution diverges or the field is not defined there. Check the field, shorten the "
        "time span, or loosen rtol/atol."
    )


def _too_small(dtype: torch.dtype, settings: SolverSettings) -> str:
    why = "the step size vanished; the problem looks stiff, or its solution diverges."
    if settings.rtol < 4 * torch.finfo(dtype).eps:
        return f"{why} rtol is near the resolution of {dtype}: loosen it or pass a float64 y0."
    return f"{why} Loosen rtol/atol, shorten the time span, or check the field."
