"""Image classifiers: every row of Table 1 and its ablations."""

from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import SumMetric

from lightning_modules.hyperparameters import plain, settings
from lightning_modules.metrics_log import is_read
from lightning_modules.nets import (
    ConvField,
    OdeBlock,
    ResidualBlock,
    Stem,
    build_head,
    build_mlp,
    build_stem,
)
from lightning_modules.optimization import OptimizerSettings, ScheduleSettings, configured
from lightning_modules.solvers import SolverSettings

Body = Literal["mlp", "resnet", "ode", "none"]
CLASSES = 10
PIXELS = 28 * 28


class Classifier(pl.LightningModule):
    """What all classifiers of MNIST digits share: loss, test and optimizer.

    A batch is ``(images, labels)``: floats in [0, 1], ``(batch, 1, 28, 28)``, and class indices,
    ``(batch,)``. The loss is the cross-entropy in nats. A model of your own may derive from it.

    Args:
        net: Maps images to logits, ``(batch, 10)``.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerSettings = OptimizerSettings(),
        schedule: ScheduleSettings = ScheduleSettings(),
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer_settings = settings(OptimizerSettings, optimizer)
        self.schedule_settings = settings(ScheduleSettings, schedule)
        self.test_wrong = SumMetric()
        self.test_images = SumMetric()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, ``(batch, 10)``."""
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of the batch in nats; log it and the error in %."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        if is_read(self):
            self.log("train/loss", loss)
            self.log("train/error", 100 * _wrong(logits, labels).float().mean())
        return loss

    def on_test_epoch_start(self) -> None:
        """Forget the images of an earlier test."""
        self.test_wrong.reset()
        self.test_images.reset()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Count the misclassified images, log the loss and return labels and predictions."""
        images, labels = batch
        logits = self(images)
        self.log("test/loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        self.test_wrong.update(_wrong(logits, labels))
        self.test_images.update(torch.ones_like(labels))
        return {"label": labels, "prediction": logits.argmax(dim=1)}

    def on_test_epoch_end(self) -> None:
        """Log the test error in % beside the counts it is made of, which are exact."""
        wrong, images = self.test_wrong.compute(), self.test_images.compute()
        self.log_dict(
            {"test/error": 100 * wrong / images, "test/wrong": wrong, "test/images": images}
        )

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule over the whole training."""
        return configured(
            self.parameters(), self.optimizer_settings, self.schedule_settings, self.trainer
        )


class ImageClassifier(Classifier):
    """Classifies MNIST digits with a discrete or a continuous body (Table 1).

    Args:
        body: What stands between the stem and the head that all bodies share: ``resnet`` puts
            residual blocks there, ``ode`` one ODE block (RK-Net with direct gradients, ODE-Net
            with the adjoint), ``none`` nothing. ``mlp`` replaces the whole network.
        stem: How the image is downsampled twice; not read by ``mlp``.
        width: Channels throughout; not read by ``mlp``.
        groups: Groups of every normalisation; not read by ``mlp``.
        blocks: Residual blocks; read by ``resnet`` alone.
        hidden: Hidden units; read by ``mlp`` alone.
        time_input: Whether the field sees t; read by ``ode`` alone.
        solver: How the continuous body is solved; read by ``ode`` alone.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate.
    """

    def __init__(
        self,
        body: Body = "ode",
        stem: Stem = "res",
        width: int = 64,
        groups: int = 32,
        blocks: int = 6,
        hidden: int = 300,
        time_input: bool = True,
        solver: SolverSettings = SolverSettings(gradient="adjoint"),
        optimizer: OptimizerSettings = OptimizerSettings(),
        schedule: ScheduleSettings = ScheduleSettings(),
    ) -> None:
        if body == "mlp":
            net: nn.Module = build_mlp(PIXELS, hidden, CLASSES)
        else:
            solved = settings(SolverSettings, solver)
            inner = _build_body(body, width, groups, blocks, time_input, solved)
            net = _between(stem, width, groups, inner)
        super().__init__(net, optimizer, schedule)
        self.save_hyperparameters(
            plain(
                body=body,
                stem=stem,
                width=width,
                groups=groups,
                blocks=blocks,
                hidden=hidden,
                time_input=time_input,
                solver=solver,
                optimizer=optimizer,
                schedule=schedule,
            )
        )


class FieldClassifier(Classifier):
    """An ODE-Net around a vector field of your own, between the stem and head of Table 1.

    In a configuration the field is a ``class_path`` with ``init_args``. A checkpoint does not name
    its class, since it would be imported from there: to load one, give ``field=`` again.

    Args:
        field: Called as ``field(t, y)`` with a scalar t and maps ``(batch, width, 7, 7)``; returns
            dy/dt of that shape. Its parameters are trained.
        stem: How the image is downsampled twice.
        width: Channels of the state.
        groups: Groups of the normalisations in stem and head.
        solver: How the equation is solved.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate.
    """

    def __init__(
        self,
        field: nn.Module,
        stem: Stem = "res",
        width: int = 64,
        groups: int = 32,
        solver: SolverSettings = SolverSettings(gradient="adjoint"),
        optimizer: OptimizerSettings = OptimizerSettings(),
        schedule: ScheduleSettings = ScheduleSettings(),
    ) -> None:
        block = OdeBlock(field, settings(SolverSettings, solver))
        super().__init__(_between(stem, width, groups, block), optimizer, schedule)
        self.save_hyperparameters(
            plain(
                stem=stem,
                width=width,
                groups=groups,
                solver=solver,
                optimizer=optimizer,
                schedule=schedule,
            )
        )


def _between(stem: Stem, width: int, groups: int, inner: nn.Module) -> nn.Sequential:
    """Return a network of the stem and the head that all bodies share."""
    return nn.Sequential(
        build_stem(stem, width, groups), inner, build_head(width, groups, CLASSES)
    )


def _build_body(
    body: Body, width: int, groups: int, blocks: int, time_input: bool, solver: SolverSettings
) -> nn.Module:
    if body == "resnet":
        return nn.Sequential(*(ResidualBlock(width, groups) for _ in range(blocks)))
    if body == "ode":
        return OdeBlock(ConvField(width, groups, time_input), solver)
    if body == "none":
        return nn.Identity()
    raise ValueError(f"Unknown body {body!r}. Choose one of mlp, resnet, ode, none.")


def _wrong(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.argmax(dim=1) != labels
