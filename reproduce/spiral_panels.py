"""How spirals, their observations and what is predicted of them are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor


def path(
    axes: Axes, truth: Tensor, observed: Tensor, mean: Tensor, grid: int, margin: float = 1.4
) -> None:
    """Show one spiral as the paper does: truth, observations, prediction, extrapolation.

    Args:
        axes: Where.
        truth: ``(grid + future, 2)``.
        observed: The observations, ``(points, 2)``.
        mean: What is predicted, ``(grid + future, 2)``; nan is not drawn.
        grid: How many of the times lie in the observed span.
        margin: Half of the square shown, over the largest coordinate of the truth.
    """
    from reproduce.plotting import OKABE_ITO as COLOUR

    axes.plot(*truth.T.numpy(), color=COLOUR["green"], linewidth=3.5, alpha=0.5, label="truth")
    axes.plot(
        *observed.T.numpy(), "o", color=COLOUR["black"], markersize=3.5, label="observations"
    )
    # The extrapolation begins where the prediction ends.
    axes.plot(*mean[:grid].T.numpy(), color=COLOUR["blue"], label="prediction")
    later = mean[grid - 1 :].T.numpy()
    axes.plot(*later, "--", color=COLOUR["vermillion"], label="extrapolation")
    half = margin * float(truth.abs().max())
    axes.set_xlim(-half, half)
    axes.set_ylim(-half, half)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color="#999999", linewidth=0.8)
    axes.grid(False)
