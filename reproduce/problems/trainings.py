"""Training steps of this suite's models: the spiral, a continuous flow, the latent ODE, ODE-Net.

All in float32. Fields as they are drawn are so slow that two steps suffice at any tolerance; these
are scaled or fitted to take about as many as trained ones do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lightning_modules.nets import (
    ConvField,
    LatentODE,
    PlanarField,
    Series,
    TanhField,
    divergence_from_unit,
    gaussian_nll,
)
from lightning_modules.solvers import SolverSettings
from reproduce.problems.base import FreeStart, Problem

if TYPE_CHECKING:
    from datamodules import System

NOISE = 0.3  # standard deviation of the latent ODE's observations, as it trains
HIDDEN = 25  # units of its recognition network


class Spiral(Problem):
    """Windows of the cubic spiral: 10 points each, mean absolute error, as the authors' example.

    The last layer is fitted to the true slopes by least squares, so that the field takes the
    steps of a trained one.

    Args:
        batch: Windows.
    """

    each = updates = True
    y0: Tensor
    targets: Tensor

    def __init__(self, batch: int = 20) -> None:
        from datamodules import find_system

        torch.manual_seed(0)
        system = find_system("spiral")
        field = TanhField(dim=2, hidden=50, power=3)
        grid = torch.linspace(0.0, 25.0, 1000, dtype=torch.float64)
        path = system.reference(grid)
        _fit(field, system, path)
        super().__init__("spiral", field, grid[:10].float())
        begins = torch.linspace(0, len(path) - 10, batch).long()
        windows = path[begins + torch.arange(10).view(-1, 1)].float()
        self.register_buffer("y0", windows[0])
        self.register_buffer("targets", windows)

    def start(self) -> Tensor:
        """Return the first points of the windows, ``(batch, 2)``."""
        return self.y0

    def loss(self, ys: Tensor) -> Tensor:
        """Return the mean absolute error over ``(time, batch, 2)``."""
        return (ys - self.targets).abs().mean()


class Cnf(Problem):
    """The paper's continuous planar flow by maximum likelihood, from the data to the base.

    Args:
        batch: Points, on a noisy ring.
        width: Hidden units of the field.
    """

    updates = True
    points: Tensor

    def __init__(self, batch: int = 512, width: int = 64) -> None:
        torch.manual_seed(0)
        field = PlanarField(2, width, 32, [0])
        _scale(field.hyper.last.weight, by=20.0)
        super().__init__("cnf", field, torch.tensor([0.0, 1.0]))
        draw = torch.Generator().manual_seed(0)
        angles = 2 * torch.pi * torch.rand(batch, generator=draw)
        ring = 2 * torch.stack([angles.cos(), angles.sin()])
        noisy = ring + 0.1 * torch.randn(2, batch, generator=draw)
        self.register_buffer("points", torch.cat([noisy, torch.zeros(1, batch)]).unsqueeze(0))

    def start(self) -> Tensor:
        """Return the points and log|det| = 0, ``(1, 3, batch)``."""
        return self.points

    def loss(self, ys: Tensor) -> Tensor:
        """Return -E[log q] without its constant: |z|²/2 - log|det|, of ``(time, 1, 3, batch)``."""
        z, volume = ys[-1, 0, :2], ys[-1, 0, 2]
        return (z.square().sum(0) / 2 - volume).mean()


class Latent(Problem):
    """A training step of the latent ODE on whole series of 100 points (Section 5.1).

    Args:
        batch: Series.
    """

    each = updates = True
    noise: Tensor
    inputs: Tensor
    x: Tensor

    def __init__(self, batch: int = 1000) -> None:
        from datamodules import Spirals

        torch.manual_seed(0)
        data = Spirals(points=100, test_size=batch, data_seed=0)
        times, seen, x = data.fixed("test")[:3]
        series = Series(times, seen, x)
        start = float(times[0])
        net = LatentODE(2, 4, 20, 2, 20, HIDDEN, start, SolverSettings())
        _scale(*(p for p in net.field.parameters() if p.ndim == 2), by=2.0)
        super().__init__("latent", net.field, times)
        self.net = net
        gaps = series.own_times.diff(dim=1, prepend=torch.full((batch, 1), start))
        inputs = torch.cat([x, gaps.unsqueeze(-1)], dim=-1).transpose(0, 1).flip(0)
        self.register_buffer("inputs", inputs)
        self.register_buffer("x", x)
        self.register_buffer("noise", torch.randn(batch, 4))

    def start(self) -> Tensor:
        """Return z0 drawn from q(z0 | series), ``(batch, 4)``."""
        last = self.net.recognition.last(self.inputs)
        self._mean, log_variance = self.net.posterior_of(last).chunk(2, dim=1)
        self._log_std = log_variance / 2
        return self._mean + self._log_std.exp() * self.noise

    def loss(self, ys: Tensor) -> Tensor:
        """Return the negative evidence bound of the last start, of ``(time, batch, 4)``."""
        means = self.net.decoded(ys).transpose(0, 1)
        log_std = torch.log(torch.full((), NOISE, dtype=means.dtype))
        misfit = gaussian_nll(self.x, means, log_std)
        return (misfit + divergence_from_unit(self._mean, self._log_std)).mean()


class OdeNet(FreeStart):
    """The ODE-Net's field on feature maps, without stem and head.

    Args:
        batch: Images.
    """

    updates = True

    def __init__(self, batch: int = 32) -> None:
        torch.manual_seed(0)
        field: nn.Module = ConvField(64, 32)
        super().__init__("odenet", field, torch.tensor([0.0, 1.0]), torch.randn(batch, 64, 7, 7))


def _scale(*weights: Tensor, by: float) -> None:
    """Make weights larger, so that the solve takes about the steps of a trained model."""
    with torch.no_grad():
        for weight in weights:
            weight.mul_(by)


def _fit(field: TanhField, system: System, path: Tensor) -> None:
    """Fit the last layer to the slopes of the spiral along the path and near it."""
    draw = torch.Generator().manual_seed(0)
    points = path * (1 + 0.1 * torch.randn(path.shape, generator=draw, dtype=torch.float64))
    slopes = system.slopes(0.0, points)
    with torch.no_grad():
        field.first.weight.mul_(3)  # so that powers up to 8 reach the bend of tanh
        units = torch.tanh(field.double().first(points.pow(field.power)))
        units = torch.cat([units, torch.ones_like(units[:, :1])], dim=1)
        gram = units.T @ units + 1e-3 * torch.eye(units.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram, units.T @ slopes)
        field.second.weight.copy_(weights[:-1].T)
        field.second.bias.copy_(weights[-1])
    field.float()
