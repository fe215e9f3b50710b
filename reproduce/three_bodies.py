"""Learned paths of three bodies: what is measured of them, and what they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproduce import restored
from reproduce.records import Record

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules import SpringObservations
    from lightning_modules import PathModel

POSITIONS = ("x1", "y1", "x2", "y2", "x3", "y3")
VELOCITIES = ("vx1", "vy1", "vx2", "vy2", "vx3", "vy3")
NUMBERS = (*POSITIONS, *VELOCITIES, "k12", "k13", "k23", "l12", "l13", "l23")
SIZE = 0.2  # of an error that counts as lost: a fifth of a spring, ten times the noise
TOLERANCE = 1e-7  # of what is measured: far below the error of anything trained


def observed(settings: dict[str, Any], seed: int) -> SpringObservations:
    """Return the observations that a training of a seed had, given its settings of the data."""
    from datamodules import SpringObservations

    return SpringObservations(**{**settings, "data_seed": seed})


def drawn_from(
    folder: Path, records: Sequence[Record], row: str
) -> tuple[PathModel, SpringObservations] | None:
    """Return the model of a row in float64, and what it learned from.

    See `restored.beside`.
    """
    from lightning_modules import PathModel

    def drawn(model: PathModel, facts: dict[str, Any]) -> tuple[PathModel, SpringObservations]:
        return model.double(), observed(facts["data"], facts["seed"])

    return restored.beside(folder, records, row, PathModel, drawn)


def predicted(model: PathModel, times: Tensor) -> Tensor:
    """Return positions at times, ``(time, 6)``, without a graph and with little solver's error.

    Raises:
        SolverFailed: If the path cannot be followed to the last time.
    """
    import torch

    with torch.no_grad():
        return model.predict(times, _settings())


def distances(found: Tensor, truth: Tensor) -> Tensor:
    """Return the root mean square over the bodies of their distance from the truth, ``(time,)``.

    Args:
        found: Positions, ``(time, 6)``.
        truth: True ones, shaped alike.
    """
    squares: Tensor = (found - truth).unflatten(-1, (-1, 2)).square().sum(dim=-1)
    return squares.mean(dim=-1).sqrt()


def errors(found: Tensor, data: SpringObservations) -> dict[str, float]:
    """Return how far predictions at the times of the test are from the truth.

    Returns:
        ``rmse_span`` and ``rmse_future``, within the observed span and behind it; ``horizon``,
        how long behind it the distance stays below 0.2, at most the length of the future.
    """
    missed, behind = distances(found, data.truth), data.at > data.span
    lost = data.at[behind & ~(missed <= SIZE)]  # nan is lost too
    known = float(missed[~behind][-1]) <= SIZE
    horizon = (float(lost[0]) - data.span if len(lost) else data.future) if known else 0.0
    return {
        "rmse_span": float(missed[~behind].square().mean().sqrt()),
        "rmse_future": float(missed[behind].square().mean().sqrt()),
        "horizon": horizon,
    }


def misfit(model: PathModel, data: SpringObservations) -> float:
    """Return the mean squared residual of an observed coordinate, in variances of the noise."""
    residuals = (predicted(model, data.times) - data.observed) / data.noise
    return float(residuals.square().mean())


def numbers(model: PathModel) -> Tensor:
    """Return the 18 numbers of a model with springs, in the order of ``NUMBERS``.

    Raises:
        ValueError: If the model has none.
    """
    from lightning_modules.nets import SpringPath

    if not isinstance(model.net, SpringPath):
        raise ValueError(f"kind={model.hparams['kind']!r} has no springs. Give one of physics.")
    found: Tensor = model.net.numbers.detach()
    return found


def true_numbers(data: SpringObservations) -> Tensor:
    """Return the true 18 numbers, in the order of ``NUMBERS``."""
    import torch

    springs = torch.tensor([*data.stiffness, *data.rest_lengths], dtype=torch.float64)
    return torch.cat([data.start, springs])


def jacobian(given: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions that 18 numbers give, and their derivatives, through the solver.

    Every coordinate of every time has a copy of the numbers to itself, all copies are solved as
    one batch, and one backward pass gives all rows.

    Args:
        given: The numbers, ``(18,)``.
        times: Increasing, the first one that of the initial state, ``(time,)``.

    Returns:
        ``(6 time,)`` and ``(6 time, 18)``, time by time.
    """
    import torch

    from lightning_modules.nets import SpringField
    from lightning_modules.solvers import odeint

    state, stiffness, rest = given[:12], given[12:15], given[15:]
    rows = torch.arange(6 * len(times))
    field = SpringField(stiffness.expand(len(rows), -1), rest.expand(len(rows), -1))
    start = state.expand(len(rows), -1).clone().requires_grad_()
    ys = odeint(field, start, times, _settings()).ys
    mine = ys[rows // 6, rows, rows % 6]
    of_state, of_k, of_l = torch.autograd.grad(
        mine.sum(), [start, field.log_stiffness, field.log_rest]
    )
    # The field's own parameters are logarithms.
    return mine.detach(), torch.cat([of_state, of_k / stiffness, of_l / rest], dim=1)


def recovery(model: PathModel, data: SpringObservations) -> dict[str, float]:
    """Return how far the 18 numbers are from the true ones, and how far they should be.

    With J the derivatives of the observed positions and σ the noise, F = JᵀJ/σ² is the Fisher
    information.

    Returns:
        ``error_<number>`` and ``sd_<number>``, the roots of the diagonal of F⁻¹; ``chi_square``,
        the errors' δᵀFδ, which is 18 on average where these standard errors are right;
        ``undone``, gᵀF⁻¹g of the gradient g of half the sum of squared residuals over σ²: how far
        from the minimum the descent ended, as a part of the same.
    """
    import torch

    found = numbers(model)
    positions, derivatives = jacobian(found, data.times)
    fisher = derivatives.T @ derivatives / data.noise**2
    missed = found - true_numbers(data)
    gradient = derivatives.T @ (positions - data.observed.flatten()) / data.noise**2
    sd = torch.linalg.inv(fisher).diagonal().sqrt()
    values = {f"error_{name}": float(e) for name, e in zip(NUMBERS, missed, strict=True)}
    values |= {f"sd_{name}": float(s) for name, s in zip(NUMBERS, sd, strict=True)}
    return values | {
        "chi_square": float(missed @ fisher @ missed),
        "undone": float(gradient @ torch.linalg.solve(fisher, gradient)),
    }


def foreseen(model: PathModel, data: SpringObservations, times: Tensor) -> Tensor:
    """Return what the Fisher information says of the error to come, ``(time,)``.

    It is the root mean square distance that errors of the 18 numbers of covariance F⁻¹ make, to
    first order.

    Args:
        model: A model with springs.
        data: What it learned from.
        times: Increasing from the first observation on, ``(time,)``.
    """
    import torch

    _, seen = jacobian(numbers(model), data.times)
    covariance = torch.linalg.inv(seen.T @ seen / data.noise**2)
    _, later = jacobian(numbers(model), times)
    variances: Tensor = ((later @ covariance) * later).sum(dim=1).view(len(times), -1, 2)
    return variances.sum(dim=-1).mean(dim=-1).sqrt()


def _settings() -> Any:
    from lightning_modules.solvers import SolverSettings

    return SolverSettings("native", "dopri5", rtol=TOLERANCE, atol=TOLERANCE, max_steps=100_000)
