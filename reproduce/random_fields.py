"""The deck's random tanh fields: how a seed draws one, how its path goes and how it ends."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

END, POINTS = 500.0, 2000
SETTLED = (100.0, 300.0, 500.0)  # ends of the two windows that are compared
AT_REST, ALIKE = 0.01, 0.01
KINDS = ("rest", "cycle", "unsettled")


def weights(seed: int) -> Tensor:
    """Return W₁ and W₂ as Keras' Dense layers draw them, ``(2, 2, 2)``, layer by layer."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    limit = math.sqrt(6 / (2 + 2))  # Glorot and Bengio (2010), equation 16, in and out
    return (2 * torch.rand(2, 2, 2, generator=draw, dtype=torch.float64) - 1) * limit


def field(seeds: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the fields of many seeds as one, over states ``(seeds, 2)``."""
    import torch

    w1, w2 = torch.stack([weights(seed) for seed in seeds], dim=1)

    def slopes(t: Tensor, x: Tensor) -> Tensor:
        hidden = torch.tanh(x.unsqueeze(1) @ w1)
        return torch.tanh(hidden @ w2).squeeze(1) - 0.25 * x

    return slopes


def grid() -> Tensor:
    """Return the deck's times, ``(2000,)``."""
    import torch

    return torch.linspace(0, END, POINTS, dtype=torch.float64)


def heun(seeds: Sequence[int], start: Tensor | None = None, times: Tensor | None = None) -> Tensor:
    """Return the paths of many seeds' fields by Heun, ``(time, seeds, 2)``.

    Args:
        seeds: The seeds.
        start: States at the first time, ``(seeds, 2)``; None is (1, -1).
        times: A step each; None is the deck's grid.
    """
    import torch

    from lightning_modules.solvers import SolverSettings, odeint

    times = grid() if times is None else times
    if start is None:
        start = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(seeds), 1)
    settings = SolverSettings("native", "heun", max_steps=len(times))
    with torch.no_grad():
        return odeint(field(seeds), start, times, settings).ys


def told(times: Tensor, paths: Tensor, windows: tuple[float, float, float] = SETTLED) -> list[str]:
    """Return how each path ends, by its swing.

    `rest` where both coordinates swing by less than 0.01 in the second window; `cycle` where else
    both swing as far in the first, to a hundredth of the larger swing; `unsettled` where neither.

    Args:
        times: ``(time,)``.
        paths: ``(time, paths, 2)``.
        windows: Start, middle and end of the two windows.
    """
    earlier, later = (swing(times, paths, *ends) for ends in pairwise(windows))
    largest = later.amax(dim=1)
    alike = ((earlier - later).abs().amax(dim=1) <= ALIKE * largest).tolist()
    resting = (largest < AT_REST).tolist()
    return [
        "rest" if at_rest else "cycle" if same else "unsettled"
        for at_rest, same in zip(resting, alike, strict=True)
    ]


def swing(times: Tensor, paths: Tensor, start: float, end: float) -> Tensor:
    """Return the range of every coordinate between two times, ``(paths, 2)``."""
    inside = paths[(times >= start) & (times <= end)]
    return inside.amax(dim=0) - inside.amin(dim=0)


def period(times: Tensor, path: Tensor) -> float:
    """Return the mean time between upward crossings of the middle of x₁; NaN below two of them.

    Args:
        times: ``(time,)``.
        path: x₁ over time, ``(time,)``; crossings lie on straight lines between its points.
    """
    late = times >= SETTLED[0]
    t, x = times[late], path[late]
    above = x - (x.max() + x.min()) / 2
    at = ((above[:-1] < 0) & (above[1:] >= 0)).nonzero().flatten()
    crossings = t[at] + (t[at + 1] - t[at]) * above[at] / (above[at] - above[at + 1])
    if len(crossings) < 2:
        return math.nan
    return float(crossings[-1] - crossings[0]) / (len(crossings) - 1)


def reference(seed: int, times: Tensor) -> Tensor:
    """Return the path of a seed's field by SciPy's DOP853 at 1e-13, ``(time, 2)``."""
    import numpy as np

    from datamodules import System

    w1, w2 = weights(seed).numpy()

    def slopes(t: float, x: Any) -> Any:
        return np.tanh(np.tanh(x @ w1) @ w2) - 0.25 * x

    return System(f"the field of seed {seed}", slopes, (1.0, -1.0)).reference(times)
