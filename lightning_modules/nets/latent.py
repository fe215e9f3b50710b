"""The latent ODE: a recognition network, a field and a decoder (Section 5, Appendix E)."""

import math

import torch
from torch import Tensor, nn

from lightning_modules.nets.elman import Cell
from lightning_modules.nets.perceptron_field import PerceptronField
from lightning_modules.nets.series import Series
from lightning_modules.solvers import SolverSettings, odeint


class LatentODE(nn.Module):
    """A variational autoencoder over series whose latent variable is where a path begins.

    z0 ~ N(0, I) at ``start``, dz/dt = f(z), x(t) ~ N(g(z(t)), noise). The recognition network
    goes through a series backwards in time; at each observation it is told how long it takes from
    there to the one before, at the first one to ``start``, and returns mean and standard deviation
    of q(z0 | series). All series are solved at once, on the union of their times.

    Args:
        dim: Numbers of an observation.
        latent: Numbers of the latent state.
        units: Units of the field's hidden layers.
        layers: Hidden layers of the field.
        decoder: Units of the decoder's hidden layer.
        recognition: Units of the recognition network.
        start: Time of z0, in the unit of the times; no series may begin before it.
        solver: How the field's equation is solved.

    Source: Chen et al. (2018), Section 5.1 for the sizes, Appendix E for the algorithm.
    """

    def __init__(
        self,
        dim: int,
        latent: int,
        units: int,
        layers: int,
        decoder: int,
        recognition: int,
        start: float,
        solver: SolverSettings,
    ) -> None:
        super().__init__()
        self.start, self.solver = start, solver
        self.recognition = Cell(dim + 1, recognition)
        self.posterior_of = nn.Linear(recognition, 2 * latent)
        self.field = PerceptronField(latent, units, layers)
        self.decoder = nn.Sequential(
            nn.Linear(latent, decoder), nn.ReLU(inplace=True), nn.Linear(decoder, dim)
        )

    def posterior(self, series: Series) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the standard deviation of q(z0), each (series, latent).

        Raises:
            ValueError: If a series begins before ``start``.
        """
        if float(series.times[0]) < self.start:
            raise ValueError(
                f"A series begins at {float(series.times[0]):g}, before z0 at {self.start:g}. "
                "Shift its times or lower start."
            )
        own = series.own_times
        gaps = own.diff(dim=1, prepend=torch.full_like(own[:, :1], self.start))
        inputs = torch.cat([series.x, gaps.unsqueeze(-1)], dim=-1)
        last = self.recognition.last(inputs.transpose(0, 1).flip(0))
        mean, log_variance = self.posterior_of(last).chunk(2, dim=1)
        return mean, log_variance / 2

    def paths(self, z0: Tensor, at: Tensor) -> Tensor:
        """Solve from z0 at ``start`` to times before and after it.

        Args:
            z0: ``(series, latent)``.
            at: Times, strictly increasing, ``(time,)``.

        Returns:
            Latent states ``(time, series, latent)``.
        """
        start = at.new_tensor([self.start])
        before, after = at[at < start].flip(0), at[at > start]
        now = [z0.unsqueeze(0)] if len(before) + len(after) < len(at) else []
        earlier, later = (
            odeint(self.field, z0, torch.cat([start, times]), self.solver).ys[1:]
            if len(times)
            else None
            for times in (before, after)
        )
        parts = [] if earlier is None else [earlier.flip(0)]
        return torch.cat([*parts, *now, *([] if later is None else [later])])

    def reconstruct(self, series: Series, z0: Tensor) -> Tensor:
        """Return the means of the observations of each series, ``(series, points, dim)``."""
        z = self.paths(z0, series.times)
        if series.whole:
            return self.decoded(z).transpose(0, 1)
        z = z[series.seen, torch.arange(len(z0), device=z0.device).unsqueeze(1)]
        return self.decoded(z)

    def predict(self, series: Series, at: Tensor) -> Tensor:
        """Return the mean at the times ``at``, from the mean of q(z0): (time, series, dim)."""
        return self.decoded(self.paths(self.posterior(series)[0], at))

    def decoded(self, z: Tensor) -> Tensor:
        """Return the means of the observations of latent states, (…, latent) to (…, dim).

        The states are columns meanwhile: with layers as narrow as these, products of a small
        matrix with many columns take a third of the time that many rows with a small matrix take.
        """
        columns = z.reshape(-1, z.shape[-1]).T.contiguous()
        for layer in self.decoder:
            if isinstance(layer, nn.Linear):
                columns = torch.addmm(layer.bias.unsqueeze(1), layer.weight, columns)
            else:
                columns = layer(columns)
        return columns.T.reshape(*z.shape[:-1], -1)


def divergence_from_unit(mean: Tensor, log_std: Tensor) -> Tensor:
    """Return KL(N(mean, std²) || N(0, I)) in nats, summed over the last dimension.

    Source: Kingma and Welling (2014), "Auto-Encoding Variational Bayes", Appendix B.
    """
    return (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(dim=-1) / 2


def gaussian_nll(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return -log N(x; mean, std²) in nats, summed over points and numbers of each series.

    Args:
        x: ``(series, points, dim)``.
        mean: Shaped alike.
        log_std: Logarithm of the standard deviation, a scalar.
    """
    squares = ((x - mean).square() * (-2 * log_std).exp()).flatten(1)
    constant = squares.shape[1] * (log_std + math.log(2 * math.pi) / 2)
    return squares.sum(dim=1) / 2 + constant
