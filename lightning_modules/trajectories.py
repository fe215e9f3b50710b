"""Models of irregularly observed series: the latent ODE and recurrent networks (Table 2)."""

import hashlib
import math
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.callbacks import require_finite_gradient
from lightning_modules.hyperparameters import plain, settings
from lightning_modules.metrics_log import is_read
from lightning_modules.nets import (
    Fill,
    GridRNN,
    LatentODE,
    ObservationRNN,
    Series,
    check_queries,
    divergence_from_unit,
    gaussian_nll,
)
from lightning_modules.optimization import OptimizerSettings, ScheduleSettings, configured
from lightning_modules.solvers import SolverSettings

Network = Literal["latent_ode", "rnn", "rnn_hold", "rnn_zero", "rnn_gap", "rnn_paced", "rnn_blind"]
FILLS: dict[str, Fill] = {"rnn": "mean", "rnn_hold": "last", "rnn_zero": "zero"}
Batch = tuple[Tensor, ...]


class TrajectoryModel(pl.LightningModule):
    """Learns series that are observed at irregular times, and predicts them at any.

    A training batch is ``(times, seen, x)``: the times of all series ``(time,)``, strictly
    increasing; which of them each series has, increasing, ``(series, points)``; the observations
    ``(series, points, dim)``. A test batch goes on with ``at``, times to predict at ``(query,)``,
    and the noise-free truth there, ``(series, query, dim)``; anything behind it is ignored.

    Losses, in nats per series:

    - ``latent_ode``: the negative ELBO, KL(q(z0) || N(0, I)) - log p(x | z0), with one sample z0.
    - the others: -log p(x_i | x_1 … x_{i-1}) summed over the observations but the first, normal
      with the mean that the network predicts one step ahead. ``rnn`` takes one step for each of
      ``times`` and is given the observation where the series has one and else its own mean
      (``rnn_hold``: the last observation, ``rnn_zero``: zero); ``rnn_gap`` takes one step an
      observation and is told how far ahead the next one is; ``rnn_blind`` is not told. Beyond the
      observed span all are fed their own mean, ``rnn_paced``, which trains as ``rnn_gap`` does, in
      paces of the mean gap and the others time by time.

    Args:
        network: Which of them.
        dim: Numbers of an observation.
        recurrent: Units of the recurrent network; the recognition network of a latent ODE.
        latent: Numbers of its latent state.
        units: Units of its field's hidden layers.
        layers: Hidden layers of its field.
        decoder: Units of its decoder's hidden layer.
        start: Time of z0, in the unit of the times.
        noise_std: Standard deviation of the likelihood, in the unit of the observations; None
            learns one.
        solver: How the latent equation is solved.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate.
    """

    def __init__(
        self,
        network: Network = "latent_ode",
        dim: int = 2,
        recurrent: int = 25,
        latent: int = 4,
        units: int = 20,
        layers: int = 1,
        decoder: int = 20,
        start: float = 0.0,
        noise_std: float | None = 0.1,
        solver: SolverSettings = SolverSettings(backend="native", rtol=1e-5, atol=1e-5),
        optimizer: OptimizerSettings = OptimizerSettings(name="adam", lr=1e-2),
        schedule: ScheduleSettings = ScheduleSettings(),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            plain(
                network=network,
                dim=dim,
                recurrent=recurrent,
                latent=latent,
                units=units,
                layers=layers,
                decoder=decoder,
                start=start,
                noise_std=noise_std,
                solver=solver,
                optimizer=optimizer,
                schedule=schedule,
            )
        )
        sizes = {"dim": dim, "recurrent": recurrent, "latent": latent, "decoder": decoder}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; give at least 1.")
        if not math.isfinite(start):
            raise ValueError(f"start is {start}; give a finite time.")
        if noise_std is not None and not 0 < noise_std < math.inf:
            raise ValueError(
                f"noise_std is {noise_std}; give a finite number above 0, or null to learn one."
            )
        self.optimizer_settings = settings(OptimizerSettings, optimizer)
        self.schedule_settings = settings(ScheduleSettings, schedule)
        ode = settings(SolverSettings, solver)
        if network == "latent_ode":
            self.net: LatentODE | GridRNN | ObservationRNN = LatentODE(
                dim, latent, units, layers, decoder, recurrent, start, ode
            )
        elif network in FILLS:
            self.net = GridRNN(dim, recurrent, FILLS[network])
        elif network in ("rnn_gap", "rnn_paced", "rnn_blind"):
            gaps, paced = network != "rnn_blind", network == "rnn_paced"
            self.net = ObservationRNN(dim, recurrent, gaps, paced)
        else:
            choices = ", ".join(get_args(Network))
            raise ValueError(f"Unknown network {network!r}. Choose one of {choices}.")
        log_std = torch.tensor(math.log(noise_std or 1.0))
        if noise_std is None:
            self.log_std = nn.Parameter(log_std)
        else:
            self.register_buffer("log_std", log_std)
        self._seed = torch.initial_seed() % 2**31
        self._squares: list[Tensor] = []

    def predict(self, times: Tensor, x: Tensor, at: Tensor) -> Tensor:
        """Return the predicted means of series, each observed at times of its own.

        Args:
            times: Times of each series, increasing, ``(series, points)``, or those of all,
                ``(points,)``.
            x: Observations, ``(series, points, dim)``.
            at: Times to predict at, increasing, ``(query,)``.

        Returns:
            ``(series, query, dim)``; nan where a recurrent network has observed nothing yet.

        Raises:
            ValueError: If the series do not fit, are not finite or not in order.
        """
        check_queries(at)
        return self._means(self._series(*Series.of(times, x)), at)

    def encode(self, times: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of q(z0) of each series, (series, latent).

        Raises:
            ValueError: If the series do not fit, or if this model has no latent state.
        """
        mean, log_std = self.latent_ode.posterior(self._series(*Series.of(times, x)))
        return mean, log_std.exp()

    def decode(self, z0: Tensor, at: Tensor) -> Tensor:
        """Return the means at the times ``at``, ``(query,)``, of the paths that begin at z0.

        Args:
            z0: Latent states at ``start``, ``(series, latent)``.
            at: Times, increasing, before or after ``start``.

        Returns:
            ``(series, query, dim)``.
        """
        check_queries(at)
        net, latent = self.latent_ode, self.hparams["latent"]
        if z0.ndim != 2 or z0.shape[1] != latent:
            raise ValueError(f"z0 is {tuple(z0.shape)}; this model takes (series, {latent}).")
        found = net.decoded(net.paths(z0.to(self._weight), at.to(self._weight)))
        return found.transpose(0, 1)

    @property
    def latent_ode(self) -> LatentODE:
        """The network, where it is a latent ODE; ValueError where it is none."""
        if not isinstance(self.net, LatentODE):
            raise ValueError(f"network={self.hparams['network']!r} has no latent state.")
        return self.net

    def losses(self, batch: Batch, noise: Tensor | None = None) -> Tensor:
        """Return the loss of each series, ``(series,)`` in nats.

        Args:
            batch: As the class says.
            noise: Standard normal numbers for z0, ``(series, latent)``; None takes its mean.
        """
        series = self._series(*batch[:3])
        if not isinstance(self.net, LatentODE):
            expected = self.net.one_ahead(series)
            return gaussian_nll(series.x[:, 1:], expected, self.log_std)
        mean, log_std = self.net.posterior(series)
        z0 = mean if noise is None else mean + log_std.exp() * noise.to(mean)
        expected = self.net.reconstruct(series, z0)
        nll = gaussian_nll(series.x, expected, self.log_std)
        return nll + divergence_from_unit(mean, log_std)

    def errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the mean squared errors of each series of a test batch, each ``(series,)``.

        Args:
            batch: As the class says.

        Returns:
            Beyond the observed span; and within it, from behind the first observation.
        """
        if len(batch) < 5:
            raise ValueError(
                f"The batch has {len(batch)} parts; to measure errors it takes times, seen, x, at "
                "and the truth."
            )
        times, seen, x, at, truth = batch[:5]
        series = self._series(times, seen, x)
        if not bool((at > times[-1]).any()):
            raise ValueError("No time to predict at lies behind the observed span; add some.")
        squares = (self._means(series, at) - truth).double().square().mean(dim=2)
        beyond = at > series.times[-1]
        late = at > series.own_times[:, :1]
        span = squares.masked_fill(beyond | ~late, torch.nan).nanmean(dim=1)
        return squares[:, beyond].mean(dim=1), span

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss; log it."""
        loss = self.losses(batch, self._noise(len(batch[2]))).mean()
        if is_read(self):
            self.log("train/loss", loss.detach(), batch_size=len(batch[2]))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise Diverged where the gradient is not finite, before it spoils the weights."""
        require_finite_gradient(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the root mean square error beyond the observed span."""
        beyond, _ = self.errors(batch)
        self.log("val/rmse", beyond.mean().sqrt(), batch_size=len(batch[2]))

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self._squares = []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the mean squared errors of each series."""
        self._squares.append(torch.stack(self.errors(batch)))

    def on_test_epoch_end(self) -> None:
        """Log root mean square errors against the noise-free truth, over series and coordinates.

        ``test/rmse`` is over the times beyond the observed span, ``test/rmse_span`` over those
        within it, each series from behind its first observation; ``test/rmse_median`` is the
        median over series of their own errors beyond.
        """
        beyond, span = torch.cat(self._squares, dim=1)
        self.log("test/rmse", beyond.mean().sqrt())
        self.log("test/rmse_span", span.nanmean().sqrt())
        self.log("test/rmse_median", beyond.sqrt().median())

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule over the whole training."""
        return configured(
            self.parameters(), self.optimizer_settings, self.schedule_settings, self.trainer
        )

    def _means(self, series: Series, at: Tensor) -> Tensor:
        return self.net.predict(series, at.to(series.times)).transpose(0, 1)

    def _series(self, times: Tensor, seen: Tensor, x: Tensor) -> Series:
        """Return the series in this model's precision and on its device, if they fit it."""
        series = Series(times, seen, x).checked()
        if x.shape[2] != self.hparams["dim"]:
            raise ValueError(
                f"The observations are {tuple(x.shape)}; this model takes "
                f"(series, points, {self.hparams['dim']})."
            )
        return series.like(self._weight)

    @property
    def _weight(self) -> Tensor:
        return next(self.net.parameters())

    def _noise(self, count: int) -> Tensor | None:
        """Return this rank's share of the numbers that z0 is drawn with, by seed and update."""
        if not isinstance(self.net, LatentODE):
            return None
        ranks, rank = self.trainer.world_size, self.trainer.global_rank
        # torch's generator reads the low 32 bits alone, so seed and update are mixed into those.
        key = hashlib.sha256(f"{self._seed}/z0/{self.global_step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(key[:4]))
        drawn = torch.randn(ranks * count, self.hparams["latent"], generator=generator)
        return drawn[rank * count :][:count].to(self._weight)
