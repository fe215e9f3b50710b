"""Energies U of unnormalised densities exp(-U) on the plane (Rezende and Mohamed, 2015, Table 1).

Points are ``(…, 2)``, energies ``(…)``. U2 to U4 are periodic along the first axis, so their
densities cannot be normalised on the plane; on the box [-4, 4]² all can.
"""

import importlib
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Energy = Callable[[Tensor], Tensor]
BOX = 4.0  # half the side of the square that the paper's Figure 4 shows


def u1(z: Tensor) -> Tensor:
    """Return the energy of two crescents on a ring."""
    radius = ((z.norm(dim=-1) - 2) / 0.4).square() / 2
    left, right = (-((z[..., 0] - side) / 0.6).square() / 2 for side in (2, -2))
    return radius - torch.logaddexp(left, right)


def u2(z: Tensor) -> Tensor:
    """Return the energy of a sine wave."""
    return ((z[..., 1] - _wave(z)) / 0.4).square() / 2


def u3(z: Tensor) -> Tensor:
    """Return the energy of a wave that splits into a diamond."""
    bump = 3 * torch.exp(-((z[..., 0] - 1) / 0.6).square() / 2)
    return _two_strands(z, bump, 0.35, 0.35)


def u4(z: Tensor) -> Tensor:
    """Return the energy of a wave that forks."""
    step = 3 * torch.sigmoid((z[..., 0] - 1) / 0.3)
    return _two_strands(z, step, 0.4, 0.35)


def _wave(z: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * z[..., 0])


def _two_strands(z: Tensor, apart: Tensor, first: float, second: float) -> Tensor:
    height = z[..., 1] - _wave(z)
    strands = (-(height / first).square() / 2, -((height + apart) / second).square() / 2)
    return -torch.logaddexp(*strands)


ENERGIES: dict[str, Energy] = {"u1": u1, "u2": u2, "u3": u3, "u4": u4}


@cache
def find_energy(name: str) -> Energy:
    """Return a known energy, or the function that ``package.module:function`` names.

    Raises:
        ValueError: If there is none of that name, or if it is no energy: the message says which
            number it returned where.
    """
    if name in ENERGIES:
        return ENERGIES[name]
    module, colon, attribute = str(name).partition(":")
    advice = (
        f"Choose one of {', '.join(ENERGIES)}, or name a function of your own as "
        "package.module:function."
    )
    if not colon:
        raise ValueError(f"Unknown target {name!r}. {advice}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # of whatever the module does when it is imported
        raise ValueError(f"Target {name!r} cannot be imported: {error}. {advice}") from error
    if not callable(found):
        raise ValueError(f"Target {name!r} is a {type(found).__name__}. {advice}")
    energy: Energy = found
    _check(name, energy)
    return energy


def _check(name: str, energy: Energy) -> None:
    points = _grid(33)[0]
    try:
        values = energy(points)
    except Exception as error:
        raise ValueError(f"Target {name} cannot be called with points (…, 2): {error}") from error
    if not isinstance(values, Tensor) or values.shape != points.shape[:-1]:
        kind = type(values).__name__
        given = tuple(values.shape) if isinstance(values, Tensor) else f"a {kind}"
        raise ValueError(
            f"Target {name} must map points (…, 2) to energies (…): for {tuple(points.shape)} it "
            f"returned {given}, not {tuple(points.shape[:-1])}."
        )
    wrong = ~torch.isfinite(values)
    if bool(wrong.any()):
        where = points[wrong][0].tolist()
        raise ValueError(
            f"Target {name} returned {float(values[wrong][0])} at {where}. An energy must be "
            "finite on the box; cut it off where the density is to vanish."
        )


@cache
def log_normaliser(name: str) -> float:
    """Return ln of the integral of exp(-U) over the box, by the trapezoidal rule."""
    points, area = _grid(2001)
    weights = torch.ones(len(points), dtype=points.dtype)
    weights[0] = weights[-1] = 0.5
    log_weights = torch.log(torch.outer(weights, weights) * area)
    return float(torch.logsumexp((log_weights - find_energy(name)(points)).flatten(), dim=0))


def _grid(count: int) -> tuple[Tensor, float]:
    """Return points ``(count, count, 2)`` over the box, in float64, and the area of a cell."""
    axis = torch.linspace(-BOX, BOX, count, dtype=torch.float64)
    area = (2 * BOX / (count - 1)) ** 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1), area
