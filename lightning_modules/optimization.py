"""Optimizers and learning-rate schedules as plain values that fit on a command line."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, MultiStepLR, OneCycleLR

Rule = Literal["sgd", "adam", "rmsprop"]
Course = Literal["constant", "steps", "one_cycle"]


@dataclass(frozen=True)
class OptimizerSettings:
    """Which optimizer, and its constants.

    Args:
        name: Update rule.
        lr: Learning rate; the peak of it where the schedule warms up.
        momentum: Read by ``sgd`` and ``rmsprop``; beta_1 of ``adam``.
        weight_decay: L2 penalty.
    """

    name: Rule = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no optimizer takes."""
        _require_one_of("optimizer", self.name, get_args(Rule))
        if not self.lr > 0:
            raise ValueError(f"The learning rate lr is {self.lr}; give a number above 0.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; give a number from 0 to below 1.")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimizer of these parameters."""
        shared: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.name == "sgd":
            return torch.optim.SGD(parameters, momentum=self.momentum, **shared)
        if self.name == "rmsprop":
            return torch.optim.RMSprop(parameters, momentum=self.momentum, **shared)
        return torch.optim.Adam(parameters, betas=(self.momentum, 0.999), **shared)


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate changes while training.

    Args:
        name: ``steps`` multiplies it by ``gamma`` at each milestone; ``one_cycle`` rises from
            1/25 of it over the first 30 % of all updates and falls to nearly nothing along
            cosines; ``constant`` leaves it.
        milestones: Epochs at which ``steps`` acts.
        gamma: Factor at each milestone.
    """

    name: Course = "constant"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a course that there is not."""
        _require_one_of("schedule", self.name, get_args(Course))

    def build(
        self, optimizer: torch.optim.Optimizer, updates: Callable[[], float]
    ) -> dict[str, Any] | None:
        """Build Lightning's scheduler entry.

        Args:
            optimizer: What it schedules.
            updates: Returns the length of the whole training. Asked where it is needed alone:
                a Trainer that is asked sets up its loader before it restores its position.
        """
        scheduler: LRScheduler
        if self.name == "steps":
            scheduler = MultiStepLR(optimizer, self.milestones, self.gamma)
            return {"scheduler": scheduler, "interval": "epoch"}
        if self.name == "one_cycle":
            peak = optimizer.param_groups[0]["lr"]
            # The momentum stays as it is: only the rate is scheduled in the other schedules too.
            total = int(updates())
            scheduler = OneCycleLR(optimizer, peak, total_steps=total, cycle_momentum=False)
            return {"scheduler": scheduler, "interval": "step"}
        return None


# So that a module that saves its arguments as they are is loaded with weights_only=True.
torch.serialization.add_safe_globals([OptimizerSettings, ScheduleSettings])


def _require_one_of(what: str, name: str, choices: tuple[str, ...]) -> None:
    """Refuse an unknown name: jsonargparse does on a command line, nobody does in Python."""
    if name not in choices:
        raise ValueError(f"Unknown {what} {name!r}. Choose one of {', '.join(choices)}.")


def configured(
    parameters: Iterable[nn.Parameter],
    optimizer: OptimizerSettings,
    schedule: ScheduleSettings,
    trainer: pl.Trainer,
) -> Any:
    """Return what ``configure_optimizers`` is to return: the optimizer and its schedule, if any.

    Args:
        parameters: What is trained.
        optimizer: Update rule and learning rate.
        schedule: Course of the learning rate over the whole training.
        trainer: The trainer, which knows how long that is.
    """
    built = optimizer.build(parameters)
    scheduled = schedule.build(built, lambda: trainer.estimated_stepping_batches)
    return built if scheduled is None else {"optimizer": built, "lr_scheduler": scheduled}
