"""Models of dynamical systems: a field learned from windows of a path (the spiral)."""

from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.callbacks import require_finite_gradient
from lightning_modules.hyperparameters import plain, settings
from lightning_modules.metrics_log import is_read
from lightning_modules.nets import TanhField
from lightning_modules.nets.tanh_field import Initial
from lightning_modules.optimization import OptimizerSettings, ScheduleSettings, configured
from lightning_modules.solvers import SolverSettings, odeint

FitTo = Literal["path", "end"]
Batch = tuple[Tensor, Tensor]


class VectorFieldModel(pl.LightningModule):
    """Learns the field f of dy/dt = f(y) from windows of its paths.

    A batch is ``(times, path)``: the times of a window, ``(points,)``, strictly monotone, and the
    states of each, ``(windows, points, dim)``. Every window is solved from its first state. The
    loss is the mean absolute error over windows and coordinates and over all points of a window,
    the first one included (``path``), or of its last point alone (``end``).

    Args:
        dim: Numbers of the state.
        hidden: Units of the field's hidden layer.
        power: Power of the state that the field is given, see ``TanhField``.
        initial: How its weights are drawn, ``normal`` or ``glorot``.
        fit_to: Which points of a window the loss is over.
        solver: How the equation is solved.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate.
    """

    def __init__(
        self,
        dim: int = 2,
        hidden: int = 50,
        power: int = 3,
        initial: Initial = "normal",
        fit_to: FitTo = "path",
        solver: SolverSettings = SolverSettings(backend="native", rtol=1e-7, atol=1e-9),
        optimizer: OptimizerSettings = OptimizerSettings(name="rmsprop", lr=1e-3, momentum=0.0),
        schedule: ScheduleSettings = ScheduleSettings(),
    ) -> None:
        super().__init__()
        if fit_to not in get_args(FitTo):
            raise ValueError(
                f"Unknown fit_to {fit_to!r}. Choose one of {', '.join(get_args(FitTo))}."
            )
        self.save_hyperparameters(
            plain(
                dim=dim,
                hidden=hidden,
                power=power,
                initial=initial,
                fit_to=fit_to,
                solver=solver,
                optimizer=optimizer,
                schedule=schedule,
            )
        )
        self.fit_to = fit_to
        self.solver = settings(SolverSettings, solver)
        self.optimizer_settings = settings(OptimizerSettings, optimizer)
        self.schedule_settings = settings(ScheduleSettings, schedule)
        self.net = TanhField(dim, hidden, power, initial)

    def slopes(self, y: Tensor) -> Tensor:
        """Return f at states ``(…, dim)``, shaped alike."""
        y = self._states(y)
        found: Tensor = self.net(y.new_zeros(()), y)
        return found

    def predict(self, y0: Tensor, times: Tensor, solver: SolverSettings | None = None) -> Tensor:
        """Return the states at times before or after those that y0 belongs to.

        Args:
            y0: States at ``times[0]``, ``(series, dim)`` or ``(dim,)``.
            times: Strictly monotone, in either direction, ``(time,)``.
            solver: How the equation is solved; None is as in training.

        Returns:
            ``(series, time, dim)``, or ``(time, dim)``.

        Raises:
            ValueError: If states or times do not fit.
            SolverFailed: If a state cannot be followed to the last time.
        """
        y = self._states(y0)
        if y.ndim > 2:
            raise ValueError(
                f"y0 is {tuple(y0.shape)}; give (series, {self.hparams['dim']}) or "
                f"({self.hparams['dim']},)."
            )
        ys = odeint(self.net, y.view(-1, y.shape[-1]), times, solver or self.solver).ys
        return ys[:, 0] if y.ndim == 1 else ys.transpose(0, 1)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean absolute error, a scalar; the batch is as the class says."""
        times, path = batch[0], self._states(batch[1])
        if path.ndim != 3 or path.shape[1] != len(times):
            raise ValueError(
                f"The windows are {tuple(path.shape)} and there are {len(times)} times; give "
                f"(windows, {len(times)}, {self.hparams['dim']})."
            )
        one_way = bool((times.diff() > 0).all()) or bool((times.diff() < 0).all())
        if not one_way or not bool(torch.isfinite(path).all()):
            raise ValueError(
                "The times of the windows are not strictly monotone, or some states are not "
                "finite. Sort them and leave out windows with gaps."
            )
        if self.fit_to == "end":  # points in between would only make the adjoint stop there
            times, path = times[[0, -1]], path[:, [0, -1]]
        missed = (self.predict(path[:, 0], times) - path).abs()
        return missed[:, -1].mean() if self.fit_to == "end" else missed.mean()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss; log it."""
        loss = self.loss(batch)
        if is_read(self):
            self.log("train/loss", loss.detach(), batch_size=len(batch[1]))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Raise Diverged where the gradient is not finite, before it spoils the weights."""
        require_finite_gradient(self)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the mean and the largest absolute error of whole paths from their first state."""
        times, path = batch[0], self._states(batch[1])
        missed = (self.predict(path[:, 0], times) - path).abs()
        self.log("test/mae", missed.mean(), batch_size=len(path))
        self.log("test/largest", missed.max(), batch_size=len(path), reduce_fx="max")

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule over the whole training."""
        return configured(
            self.parameters(), self.optimizer_settings, self.schedule_settings, self.trainer
        )

    def _states(self, y: Tensor) -> Tensor:
        """Return states in this model's precision and on its device."""
        dim = self.hparams["dim"]
        if not y.ndim or y.shape[-1] != dim:
            raise ValueError(f"The states are {tuple(y.shape)}; this model takes (…, {dim}).")
        return y.to(next(self.net.parameters()))
