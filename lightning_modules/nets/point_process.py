"""A Poisson process whose intensity is read off a latent path (Section 5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_modules.nets.perceptron_field import PerceptronField
from lightning_modules.solvers import Coefficients, SolverSettings, find_backend, odeint

LOWEST = -30.0  # below it, log softplus(a) and a are the same to 1e-13


class IntensityField(nn.Module):
    """dz/dt = f(z) and dΛ/dt = λ(z): a latent path and the integral of its intensity.

    λ(z) = softplus(g(z)), with one hidden layer of ELU units in g. The state is
    ``(paths, latent + 1)``: z, then Λ. As in `PerceptronField`, weights are coefficients and
    gradients are written out, so that the native backend solves both without a graph.

    Args:
        latent: Numbers of z.
        units: Units of the hidden layers of f.
        layers: Hidden layers of f.
        decoder: Units of the hidden layer of g.

    Raises:
        ValueError: If any of them is below 1.
    """

    def __init__(self, latent: int, units: int, layers: int, decoder: int) -> None:
        super().__init__()
        if decoder < 1:
            raise ValueError(f"decoder is {decoder}; give at least 1.")
        self._columns = [latent, 1]
        self.dynamics = PerceptronField(latent, units, layers)
        self.hidden, self.last = nn.Linear(latent, decoder), nn.Linear(decoder, 1)

    def potential(self, z: Tensor) -> Tensor:
        """Return g(z), ``(paths, 1)`` for z of shape ``(paths, latent)``."""
        out: Tensor = self.last(F.elu(self.hidden(z)))
        return out

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, shaped like ``y``: ``(paths, latent + 1)``."""
        z, _ = y.split_with_sizes(self._columns, 1)
        return torch.cat([self.dynamics(t, z), F.softplus(self.potential(z))], dim=1)

    def coefficients(self, times: Tensor) -> Coefficients:
        """Return the weights and biases of f, then of g, the same at all ``times``, (time,)."""
        parts = [self.hidden.weight.T, self.hidden.bias, self.last.weight.T, self.last.bias]
        own = tuple(part.expand(len(times), *part.shape) for part in parts)
        return (*self.dynamics.coefficients(times), *own)

    def slope(
        self, c: Coefficients, y: Tensor, out: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Write dy/dt to ``out``; return the hidden layers of f, and of g, and g."""
        w, b, v, a = c[-4:]
        z, _ = y.split_with_sizes(self._columns, 1)
        of_z, of_integral = out.split_with_sizes(self._columns, 1)
        units = self.dynamics.slope(c[:-4], z, of_z)
        x = F.elu_(torch.addmm(b, z, w))
        potential = torch.addmm(a, x, v)
        of_integral.copy_(F.softplus(potential))
        return units, x, potential

    def pull(
        self,
        c: Coefficients,
        y: Tensor,
        note: tuple[list[Tensor], Tensor, Tensor],
        kappa: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the vector-Jacobian products with respect to state and weights."""
        (w, _, v, _), (units, x, potential) = c[-4:], note
        z, _ = y.split_with_sizes(self._columns, 1)
        of_z, of_integral = kappa.split_with_sizes(self._columns, 1)
        pulled, *shares = self.dynamics.pull(c[:-4], z, units, of_z)
        of_g = of_integral * potential.sigmoid()
        of_x = (of_g @ v.T).mul_((x + 1).clamp_(max=1))
        shares += [z.T @ of_x, of_x.sum(0), x.T @ of_g, of_g.sum(0)]
        # Nothing depends on the integral so far.
        state = torch.cat([pulled + of_x @ w.T, torch.zeros_like(of_integral)], dim=1)
        return (state, *shares)


class PointProcess(nn.Module):
    """A path from a learned z0 at time 0, its intensity λ(z(t)) and the integral Λ(t) of it.

    Args:
        latent: Numbers of z.
        units: Units of the hidden layers of the field.
        layers: Hidden layers of the field.
        decoder: Units of the hidden layer behind the intensity.
        solver: How path and integral are solved, in one solve.

    Source: Chen et al. (2018), Section 5, "Poisson Process likelihoods".
    """

    def __init__(
        self, latent: int, units: int, layers: int, decoder: int, solver: SolverSettings
    ) -> None:
        super().__init__()
        self._measures = find_backend(solver).norm is None
        self.solver = solver
        self.field = IntensityField(latent, units, layers, decoder)
        self.z0 = nn.Parameter(torch.randn(latent))

    def solve(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Solve path and integral at once.

        Args:
            at: Times of at least 0, strictly increasing, ``(time,)``.

        Returns:
            z, ``(time, latent)``, and Λ, ``(time,)``, in events.
        """
        y0 = torch.cat([self.z0, self.z0.new_zeros(1)]).unsqueeze(0)
        later = at[at > 0]
        ys = y0.unsqueeze(0)
        if len(later):
            norm = self.largest_rms if self._measures else None
            times = torch.cat([at.new_zeros(1), later])
            ys = odeint(self.field, y0, times, self.solver, norm).ys
        asked = ys[len(ys) - len(at) :, 0]
        return asked[:, :-1], asked[:, -1]

    def log_intensity(self, z: Tensor) -> Tensor:
        """Return log λ, ``(time,)``, of latent states ``(time, latent)``."""
        potential = self.field.potential(z).squeeze(-1)
        bounded = F.softplus(potential.clamp(min=LOWEST)).log()
        return torch.where(potential < LOWEST, potential, bounded)

    def largest_rms(self, error: Tensor) -> Tensor:
        """Return the larger of the path's and the integral's root mean square.

        One over both would let the integral err more the more numbers the path has.
        """
        squares = error.detach().square()
        return torch.maximum(squares[:, :-1].mean(), squares[:, -1].mean()).sqrt()
