"""What errors of a benchmark are measured against."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.solvers import SolverSettings, odeint
from reproduce.problems.base import Problem

Array = NDArray[np.float64]
TOLERANCE = 1e-12
# Where a field has kinks, no method of high order gets near 1e-12 in reasonable time.
TOLERANCES = {"odenet": 1e-9}
WIDTHS = (1e-5, 1e-6, 1e-7)  # of differences: an absolute error has kinks, which wide ones cross
AGREEMENT = 1e3  # tolerances by which two independent solves may differ


def exact(problem: Problem) -> tuple[Array, Array]:
    """Solve in float64 by dopri8, and check it against SciPy's DOP853.

    States must agree with SciPy's to 1,000 tolerances, and the gradient along a direction near
    its own with the central difference of SciPy's losses to 1e-4.

    Args:
        problem: In whatever precision, on whatever device; its numbers are those of its own
            precision.

    Returns:
        States ``(time, *state)``, and the gradient by all parameters as one vector.

    Raises:
        RuntimeError: If the two disagree: then there is nothing to measure an error against.
    """
    problem = copy.deepcopy(problem).double()
    tolerance = TOLERANCES.get(problem.name, TOLERANCE)
    settings = SolverSettings(
        "native",
        "dopri8",
        rtol=tolerance,
        atol=tolerance,
        max_steps=1_000_000,
        gradient="checkpoint",
    )
    ys = odeint(problem.field, problem.start(), problem.times, settings).ys
    problem.loss(ys).backward()  # type: ignore[no-untyped-call, unused-ignore]
    parameters = list(problem.parameters())
    gradient = torch.cat([_filled(p).ravel() for p in parameters])
    states = ys.detach()
    other = _by_scipy(problem, tolerance)
    difference = float((states - other).abs().max() / other.abs().max())
    if difference > AGREEMENT * tolerance:
        raise RuntimeError(
            f"{problem.name}: dopri8 and SciPy's DOP853 differ by {difference:.1e} at tolerance "
            f"{tolerance:g}, so that there is no reference. Is the field smooth and the same at "
            "every call?"
        )
    _check_gradient(problem, gradient, tolerance)
    return states.cpu().numpy(), gradient.cpu().numpy()


def relative(found: Array, true: Array) -> float:
    """Return the root mean square of the difference over that of what is true."""
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def _filled(parameter: torch.nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


@torch.no_grad()
def _by_scipy(problem: Problem, tolerance: float) -> Tensor:
    from scipy.integrate import solve_ivp

    y0 = problem.start()
    shape, device, times = y0.shape, y0.device, problem.times.cpu().numpy()

    def slope(t: float, y: Array) -> Array:
        at = torch.tensor(t, dtype=torch.float64, device=device)
        dy = problem.field(at, torch.from_numpy(y).to(device).view(shape))
        found: Array = dy.reshape(-1).cpu().numpy()
        return found

    found = solve_ivp(
        slope,
        (times[0], times[-1]),
        y0.reshape(-1).cpu().numpy().copy(),
        method="DOP853",
        t_eval=times,
        rtol=max(tolerance, 1e-13),
        atol=tolerance,
    )
    if not found.success:
        raise RuntimeError(f"{problem.name}: SciPy stopped: {found.message}")
    return torch.from_numpy(found.y.T.copy()).to(device).view(len(times), *shape)


@torch.no_grad()
def _check_gradient(problem: Problem, gradient: Tensor, tolerance: float) -> None:
    """Compare with central differences of SciPy's losses along the gradient, a little off."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(gradient.shape, generator=draw, dtype=torch.float64).to(gradient)
    along = gradient / gradient.norm() + 0.3 * noise / noise.norm()
    expected, slopes = float(gradient @ along), []
    for width in WIDTHS:
        losses = [
            float(moved.loss(_by_scipy(moved, tolerance)))
            for moved in (_moved(problem, sign * width * along) for sign in (1, -1))
        ]
        slopes.append((losses[0] - losses[1]) / (2 * width))
        if abs(slopes[-1] - expected) <= 1e-4 * abs(expected):
            return
    raise RuntimeError(
        f"{problem.name}: the gradient along a direction is {expected:.6g}, differences of "
        f"SciPy's losses give {', '.join(f'{s:.6g}' for s in slopes)}, so that there is no "
        "reference."
    )


def _moved(problem: Problem, by: Tensor) -> Problem:
    moved, begin = copy.deepcopy(problem), 0
    for p in moved.parameters():
        p.add_(by[begin : begin + p.numel()].view_as(p))
        begin += p.numel()
    return moved
