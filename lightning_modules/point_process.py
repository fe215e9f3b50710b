"""Intensities of events, learned by the likelihood of a Poisson process (Figure 7)."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.callbacks import require_finite_gradient
from lightning_modules.hyperparameters import plain, settings
from lightning_modules.metrics_log import is_read
from lightning_modules.nets import Events, PointProcess, check_queries
from lightning_modules.optimization import OptimizerSettings, ScheduleSettings, configured
from lightning_modules.solvers import SolverSettings

Batch = tuple[Tensor, ...]


class PointProcessModel(pl.LightningModule):
    """Learns when events happen: a latent ODE whose state sets the intensity λ of the events.

    All sequences are realisations of one Poisson process on [0, T], whose path begins in one
    learned z0. With Λ(t), the integral of λ(z(t)) from 0, a sequence t_1 … t_n has

        log p(t_1 … t_n) = Σ_i log λ(z(t_i)) - Λ(T),

    and one solve gives z and Λ at all times that are asked for. The loss is the mean over
    sequences of -log p, in nats.

    A training batch is ``(times, lengths, horizon)``: the times of all events, one sequence behind
    the other, each in order, ``(events,)``; how many events each sequence has, ``(sequences,)``;
    and T, a scalar. A test batch goes on with ``at``, times from 0 to T for quadrature, strictly
    increasing, ``(time,)``; the true intensity there, ``(time,)``; the true intensity at the
    events, ``(events,)``; and the true expected number of events, a scalar.

    Training is easiest with time in a unit in which a few events happen and λ changes slowly.

    Args:
        latent: Numbers of the latent state z.
        units: Units of the field's hidden layers.
        layers: Hidden layers of the field.
        decoder: Units of the hidden layer behind the intensity.
        solver: How path and integral are solved.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate.

    Source: Chen et al. (2018), Section 5 and Figure 7, which name neither sizes nor training.
    """

    def __init__(
        self,
        latent: int = 4,
        units: int = 20,
        layers: int = 1,
        decoder: int = 20,
        solver: SolverSettings = SolverSettings(backend="native", rtol=1e-6, atol=1e-6),
        optimizer: OptimizerSettings = OptimizerSettings(name="adam", lr=1e-2),
        schedule: ScheduleSettings = ScheduleSettings(),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            plain(
                latent=latent,
                units=units,
                layers=layers,
                decoder=decoder,
                solver=solver,
                optimizer=optimizer,
                schedule=schedule,
            )
        )
        self.optimizer_settings = settings(OptimizerSettings, optimizer)
        self.schedule_settings = settings(ScheduleSettings, schedule)
        ode = settings(SolverSettings, solver)
        self.net = PointProcess(latent, units, layers, decoder, ode)
        self._tested: list[dict[str, Tensor]] = []

    def log_likelihood(self, sequences: Sequence[Tensor], horizon: float) -> Tensor:
        """Return the log-likelihood of each sequence in nats, ``(sequences,)``.

        Args:
            sequences: The times of each, in order, ``(events of this sequence,)``; may be empty.
            horizon: T: events were looked for from 0 to T.

        Raises:
            ValueError: If times are not finite, outside of the window or out of order.
        """
        return self._log_likelihood(Events.of(sequences, horizon))

    def intensity(self, times: Tensor) -> Tensor:
        """Return λ at times, ``(time,)``, in events per unit of time.

        Args:
            times: Times of at least 0, strictly increasing, ``(time,)``.

        Raises:
            ValueError: If they are not.
        """
        return self.net.log_intensity(self.net.solve(self._queries(times))[0]).exp()

    def expected_count(self, times: Tensor) -> Tensor:
        """Return Λ at times, ``(time,)``: how many events are expected from 0 until then.

        Differences are what is expected in between.

        Args:
            times: As in ``intensity``.
        """
        return self.net.solve(self._queries(times))[1]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of a sequence; log it."""
        events = self._events(batch)
        loss = -self._log_likelihood(events).mean()
        if is_read(self):
            self.log("train/loss", loss.detach(), batch_size=len(events.lengths))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise Diverged where the gradient is not finite, before it spoils the weights."""
        require_finite_gradient(self)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean loss of a sequence."""
        events = self._events(batch)
        loss = -self._log_likelihood(events).mean()
        self.log("val/loss", loss, batch_size=len(events.lengths))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log how likely held-out events are, and how far the intensity is from the true one.

        ``test/nll`` is the negative log-likelihood an event, ``test/nll_gap`` how much lower that
        of the true intensity is; ``test/count_error`` is the learned expected number of events
        over the true one, minus 1. The others are those of `intensity_errors`.
        """
        events = self._events(batch)
        at, truth, at_events, expected = (part.to(self.net.z0) for part in batch[3:7])
        nll = -self._log_likelihood(events).sum()
        least = len(events.lengths) * expected - at_events.log().sum()
        z, counts = self.net.solve(at)
        found = intensity_errors(at, self.net.log_intensity(z).exp(), truth)
        found |= {
            "nll": float(nll) / len(events.times),
            "nll_gap": float(nll - least) / len(events.times),
            "count_error": float(counts[-1] / expected) - 1,
        }
        for name, value in found.items():
            self.log(f"test/{name}", value, batch_size=len(events.lengths))

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule over the whole training."""
        return configured(
            self.parameters(), self.optimizer_settings, self.schedule_settings, self.trainer
        )

    def _log_likelihood(self, events: Events) -> Tensor:
        """Return the log-likelihood of each sequence, ``(sequences,)``, by one solve."""
        times, end = events.times.to(self.net.z0), events.horizon.to(self.net.z0)
        # Several sequences may have an event at one time, the more so in float32.
        at, places = torch.unique(torch.cat([times, end.view(1)]), return_inverse=True)
        z, counts = self.net.solve(at)
        of_events = self.net.log_intensity(z)[places[:-1]]
        integrals = counts[-1].expand(len(events.lengths))
        return (-integrals).index_add(0, events.owners.to(places.device), of_events)

    def _events(self, batch: Batch) -> Events:
        events = Events(*batch[:3]).checked()
        if not len(events.times):
            raise ValueError(
                f"There is no event in {len(events.lengths)} sequences, so there is nothing to "
                "learn. Give more sequences, or such as were watched for longer."
            )
        return events

    def _queries(self, times: Tensor) -> Tensor:
        check_queries(times)
        if float(times[0]) < 0:
            raise ValueError(
                f"The path begins at 0, before which {float(times[0]):g} lies. Ask for times of "
                "at least 0."
            )
        return times.to(self.net.z0)


def intensity_errors(at: Tensor, found: Tensor, truth: Tensor) -> dict[str, float]:
    """Return how far an intensity is from the true one, by the trapezoidal rule.

    Args:
        at: Times from the begin of the window to its end, ``(time,)``.
        found: The intensity there, ``(time,)``, above 0.
        truth: The true one, ``(time,)``, above 0.

    Returns:
        ``intensity_error``, ∫|λ - λ*| over ∫λ*, and ``kl``, the divergence from the true process
        ∫ λ* log(λ*/λ) - λ* + λ over ∫λ*: what a held-out event loses, on average, in nats.
    """
    at, found, truth = at.double(), found.double(), truth.double()
    whole = torch.trapezoid(truth, at)
    missed = torch.trapezoid((found - truth).abs(), at)
    lost = torch.trapezoid(truth * (truth / found).log() - truth + found, at)
    return {"intensity_error": float(missed / whole), "kl": float(lost / whole)}
