"""What the latent space of a spiral knows about its direction (Figures 8c and 9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules import Spirals
    from lightning_modules import TrajectoryModel

STEPS = 21  # points on the line between the classes, both ends included


def encoded(model: TrajectoryModel, data: Spirals, purpose: str) -> tuple[Tensor, Tensor]:
    """Return the means of q(z0) of trajectories, (series, latent), and whether each is clockwise.

    Args:
        model: A latent ODE.
        data: The trajectories.
        purpose: Which of them; ``train`` means those it was trained with.
    """
    import torch

    count = data.train_size if purpose == "train" else data.test_size
    seen, x, _, clockwise = data.trajectories(purpose, count)
    with torch.no_grad():
        return model.encode(data.times[: data.grid][seen], x)[0].float(), clockwise


def probe_accuracy(model: TrajectoryModel, data: Spirals, coordinates: int | None = None) -> float:
    """Return which part of the test trajectories a linear probe on z0 gets the direction of.

    Logistic regression on the standardised means of q(z0) of the training trajectories.

    Args:
        model: A latent ODE.
        data: The trajectories.
        coordinates: How many of z0 the probe is given, the first ones; None for all.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    z0, clockwise = encoded(model, data, "train")
    probe.fit(z0[:, :coordinates].numpy(), clockwise.numpy())
    z0, clockwise = encoded(model, data, "test")
    return float(probe.score(z0[:, :coordinates].numpy(), clockwise.numpy()))


def line(model: TrajectoryModel, data: Spirals) -> Tensor:
    """Return latent states from the mean of one direction to that of the other, (steps, latent).

    Counter-clockwise comes first; means are over the test trajectories.
    """
    z0, clockwise = encoded(model, data, "test")
    return between(z0[~clockwise].mean(dim=0), z0[clockwise].mean(dim=0))


def pairs(model: TrajectoryModel, data: Spirals) -> Iterator[Tensor]:
    """Yield the same between spirals: the first of each direction in the test, then the second."""
    z0, clockwise = encoded(model, data, "test")
    for start, end in zip(z0[~clockwise], z0[clockwise], strict=False):
        yield between(start, end)


def between(start: Tensor, end: Tensor) -> Tensor:
    """Return equally spaced states from one to another, both ``(latent,)``, ends included."""
    import torch

    return torch.stack([torch.lerp(start, end, k / (STEPS - 1)) for k in range(STEPS)])


def alone(line: Tensor, i: int) -> Tensor:
    """Return the states of a line's middle in which coordinate ``i`` alone moves along it."""
    states = line[len(line) // 2].expand_as(line).clone()
    states[:, i] = line[:, i]
    return states


def turning(paths: Tensor) -> Tensor:
    """Return by which angle the velocity of each path turns, in radians: below 0 is clockwise.

    Args:
        paths: Positions ``(series, time, 2)``.
    """
    import torch

    step = paths.double().diff(dim=1)
    before, after = step[:, :-1], step[:, 1:]
    cross = before[..., 0] * after[..., 1] - before[..., 1] * after[..., 0]
    return torch.atan2(cross, (before * after).sum(dim=2)).sum(dim=1)


def turning_on_line(model: TrajectoryModel, data: Spirals) -> Tensor:
    """Return how the decoded paths on the line turn over the observed span, ``(steps,)``."""
    return decoded_turning(model, data, line(model, data))


def decoded_turning(model: TrajectoryModel, data: Spirals, states: Tensor) -> Tensor:
    """Return the same of the paths that start from states, ``(states, latent)``."""
    import torch

    with torch.no_grad():
        return turning(model.decode(states, data.times[: data.grid]))


def flips(turned: Tensor) -> int:
    """Return how often the direction changes along a sequence of turnings."""
    sign = turned > 0
    return int((sign[1:] != sign[:-1]).sum())
