"""The true spiral, and how far a learned field and its paths are from it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from reproduce import phase_portraits
from reproduce.maps import grid

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_modules import VectorFieldModel

SPAN = 25.0  # of the path that trains
FORWARD = 500.0  # behind its end
BACKWARD = 25.0  # before its start
COMMON = 1.25  # before its start, where the true path still is
# Noted to these digits before this module was written, from a solve of its own.
NOTED = {
    1: (0.70926174, -1.50410846),
    5: (-0.26301284, 0.93024594),
    10: (0.47236622, 0.66072726),
    25: (-0.44362349, 0.27944064),
    150: (0.1911866, 0.0517984),
    525: (0.0974222, -0.0688670),
}
# Of |y₁| and |y₂| over the 1,000 points; its last digit is ours, the noted 5 was a float32's.
NOTED_MEAN = 0.52975624


@cache
def truth() -> tuple[Tensor, Tensor]:
    """Return the times of the path that trains, ``(1000,)``, and the path, ``(1000, 2)``."""
    from datamodules import Windows

    data = Windows("spiral", span=SPAN)
    return data.times, data.path


@cache
def future() -> tuple[Tensor, Tensor]:
    """Return times from the end of that path on, and the truth."""
    import torch

    from datamodules import find_system

    times = torch.linspace(SPAN, SPAN + FORWARD, 1001, dtype=torch.float64)
    return times, find_system("spiral").reference(times, truth()[1][-1])


@cache
def past() -> tuple[Tensor, Tensor]:
    """Return times from its start backwards, and the truth as far as it is compared."""
    import torch

    from datamodules import find_system

    times = torch.linspace(0, -COMMON, 126, dtype=torch.float64)
    return times, find_system("spiral").reference(times)


def check_reference() -> dict[str, float]:
    """Return how far the reference is from what was noted, and what it says by itself."""
    import torch

    from datamodules import NoSolution, find_system
    from lightning_modules.solvers import SolverSettings, odeint

    system = find_system("spiral")
    ys = system.reference(torch.tensor([0.0, *NOTED], dtype=torch.float64))[1:]
    found = {
        f"deviation_{t}": float((y - torch.tensor(noted, dtype=torch.float64)).abs().max())
        for y, (t, noted) in zip(ys, NOTED.items(), strict=True)
    }
    times, path = truth()
    found["deviation_mean"] = abs(float(path.abs().mean()) - NOTED_MEAN)
    by_rk4 = odeint(
        lambda t, y: system.slopes(float(t), y), path[0], times, SolverSettings("native", "rk4")
    )
    found["rk4_error"] = float((by_rk4.ys - path).abs().max())
    found["radius_500"] = float(ys[-1].norm())
    try:
        system.reference(torch.tensor([0.0, -BACKWARD]))
    except NoSolution as error:
        found["blow_up"] = -error.time
    return found


def speed(model: VectorFieldModel) -> tuple[Tensor, float]:
    """Compare learned with true slopes along the path that trains.

    Returns:
        <learned, true> / <true, true> at every point, ``(1000,)``; and the mean distance of one
        from the other over the mean size of the true ones.
    """
    import torch

    from datamodules import find_system

    path = truth()[1]
    true = find_system("spiral").slopes(0.0, path)
    with torch.no_grad():
        learned = model.slopes(path)
    ratio = (learned * true).sum(dim=1) / true.square().sum(dim=1)
    missed = (learned - true).norm(dim=1).mean() / true.norm(dim=1).mean()
    return ratio, float(missed)


def rest_radius(model: VectorFieldModel) -> float:
    """Return how far from the origin the field is smallest, on a grid of 0.0025 within 0.5."""
    import torch

    points = grid(0.5, 400).double().view(-1, 2)
    with torch.no_grad():
        size = model.slopes(points).norm(dim=1)
    return float(points[size.argmin()].norm())


def within(model: VectorFieldModel) -> dict[str, float]:
    """Return the error of the path that trains, from its start.

    Raises:
        SolverFailed: As all of these, if a path cannot be followed.
    """
    times, true = truth()
    found = phase_portraits.path(model, true[0], times)
    return {"mae_path": float((found - true).abs().mean())}


def forward(model: VectorFieldModel) -> dict[str, float]:
    """Return the error of the path on from the true end, and the radius where that ends."""
    times, true = future()
    found = phase_portraits.path(model, true[0], times)
    missed = (found - true).abs().mean()
    return {"mae_forward": float(missed), "radius_500": float(found[-1].norm())}


def backward(model: VectorFieldModel) -> dict[str, float]:
    """Return the error of the path back from the start, and the radius far behind it."""
    import torch

    times, true = past()
    found = phase_portraits.path(model, true[0], times)
    end = phase_portraits.path(model, true[0], torch.tensor([0.0, -BACKWARD]))[-1]
    missed = (found - true).abs().mean()
    return {"mae_backward": float(missed), "radius_backward": float(end.norm())}
