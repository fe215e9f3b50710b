"""Models of one observed path: three bodies by their springs, a learned field or time alone."""

import math
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.callbacks import require_finite_gradient
from lightning_modules.hyperparameters import plain, settings
from lightning_modules.metrics_log import is_read
from lightning_modules.nets import FieldPath, SpringPath, TimePath, check_queries
from lightning_modules.optimization import OptimizerSettings, ScheduleSettings, configured
from lightning_modules.solvers import SolverSettings

Kind = Literal["physics", "neural_ode", "network"]
Batch = tuple[Tensor, ...]
LEAST = 5  # observations that the first guess takes differences of
BODIES = 3


class PathModel(pl.LightningModule):
    """Learns one path of three bodies from noisy observations of their positions.

    A batch is ``(times, x, seen)``: the times of all observations, strictly increasing,
    ``(time,)``; the observed positions (x₁, y₁, x₂, y₂, x₃, y₃), ``(time, 6)``; and which of them
    this update learns from, increasing, ``(points,)``. A test batch goes on with ``at``, strictly
    increasing times, ``(query,)``, and the true positions there, ``(query, 6)``.

    Before its first update the model takes from all observations what they suggest: where the
    bodies begin and how fast, one stiffness for all springs, rest lengths. The loss is the mean
    squared residual of a coordinate over the variance of the noise, which is 1 where the model is
    right.

    Args:
        kind: ``physics``: the equation of three bodies of mass 1 joined by springs, whose 18
            numbers are learned, initial positions and velocities, stiffnesses, rest lengths.
            ``neural_ode``: a learned field of 12 numbers, of which six are the positions, and a
            learned initial state. ``network``: a perceptron from time to positions.
        units: Units of a hidden layer; ``physics`` has none.
        layers: Hidden layers of the network; the field of the Neural ODE has one.
        noise_std: Standard deviation of an observed coordinate.
        solver: How the equation is solved; the network has none.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate.
    """

    begun: Tensor

    def __init__(
        self,
        kind: Kind = "physics",
        units: int = 64,
        layers: int = 2,
        noise_std: float = 0.02,
        solver: SolverSettings = SolverSettings(backend="native", rtol=1e-6, atol=1e-6),
        optimizer: OptimizerSettings = OptimizerSettings(name="adam", lr=0.05),
        schedule: ScheduleSettings = ScheduleSettings(name="one_cycle"),
    ) -> None:
        super().__init__()
        self.save_hyperparameters(
            plain(
                kind=kind,
                units=units,
                layers=layers,
                noise_std=noise_std,
                solver=solver,
                optimizer=optimizer,
                schedule=schedule,
            )
        )
        for name, value in (("units", units), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name} is {value}; give at least 1.")
        if not 0 < noise_std < math.inf:
            raise ValueError(f"noise_std is {noise_std}; give a finite number above 0.")
        self.noise_std = noise_std
        self.optimizer_settings = settings(OptimizerSettings, optimizer)
        self.schedule_settings = settings(ScheduleSettings, schedule)
        ode = settings(SolverSettings, solver)
        if kind == "physics":
            self.net: SpringPath | FieldPath | TimePath = SpringPath(ode)
        elif kind == "neural_ode":
            self.net = FieldPath(units, ode)
        elif kind == "network":
            self.net = TimePath(units, layers)
        else:
            raise ValueError(f"Unknown kind {kind!r}. Choose one of {', '.join(get_args(Kind))}.")
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def begin(self, times: Tensor, x: Tensor) -> None:
        """Take from the observations what they suggest.

        Args:
            times: Strictly increasing, ``(time,)``.
            x: Observed positions, ``(time, 6)``.

        Raises:
            ValueError: If they do not fit, are out of order, not finite or fewer than five.
        """
        times, x = self._observations(times, x)
        with torch.no_grad():
            self.net.begin(times, x)
        self.begun.fill_(True)

    def predict(self, times: Tensor, solver: SolverSettings | None = None) -> Tensor:
        """Return the positions at times, ``(time, 6)``.

        Args:
            times: Strictly increasing, ``(time,)``; before the first observation the network
                alone has an answer.
            solver: How the equation is solved; None is as in training.

        Raises:
            ValueError: If the times cannot be used.
            SolverFailed: If the path cannot be followed to the last time.
        """
        check_queries(times)
        found: Tensor = self.net(times.to(self._weight), solver)
        return found

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean squared residual in variances of the noise, a scalar."""
        times, x = self._observations(*batch[:2])
        seen = batch[2]
        missed = self.predict(times[seen]) - x[seen]
        return (missed / self.noise_std).square().mean()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Begin with what the observations suggest, which are the same for all ranks."""
        if not bool(self.begun):
            self.begin(*batch[:2])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; log it."""
        loss = self.loss(batch)
        if is_read(self):
            self.log("train/loss", loss.detach(), batch_size=len(batch[2]))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise Diverged where the gradient is not finite, before it spoils the weights."""
        require_finite_gradient(self)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the root mean square distance of a body from the truth, in the span and behind."""
        times, at, truth = batch[0], batch[3], batch[4].to(self._weight)
        distances = (self.predict(at) - truth).unflatten(-1, (BODIES, 2)).square().sum(dim=-1)
        within = at <= times[-1]
        for name, part in (("rmse_span", within), ("rmse_future", ~within)):
            if bool(part.any()):
                self.log(f"test/{name}", distances[part].mean().sqrt(), batch_size=1)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule over the whole training."""
        return configured(
            self.parameters(), self.optimizer_settings, self.schedule_settings, self.trainer
        )

    @property
    def _weight(self) -> Tensor:
        return next(self.net.parameters())

    def _observations(self, times: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return observations in this model's precision and on its device."""
        if times.ndim != 1 or x.shape != (len(times), 2 * BODIES) or len(times) < LEAST:
            raise ValueError(
                f"There are times {tuple(times.shape)} and positions {tuple(x.shape)}; give at "
                f"least {LEAST} observations, (time,) and (time, {2 * BODIES})."
            )
        check_queries(times)
        if not bool(torch.isfinite(x).all()):
            raise ValueError("Some observed positions are not finite. Leave those times out.")
        return times.to(self._weight), x.to(self._weight)
