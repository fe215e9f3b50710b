"""Fields of the plane and the paths that follow them: how they are solved and shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from lightning_modules import VectorFieldModel

CELLS = 21  # along either axis, as in the authors' example
ARROWS = 15
MAX_STEPS = 200_000


def path(model: VectorFieldModel, y0: Tensor, times: Tensor, tolerance: float = 1e-7) -> Tensor:
    """Return the states ``(time, 2)`` of a learned field from y0, without a graph.

    Args:
        model: The field, in float64.
        y0: State at ``times[0]``, ``(2,)``.
        times: Strictly monotone, ``(time,)``.
        tolerance: Absolute and relative; by default far below the error of any trained field.

    Raises:
        SolverFailed: If it cannot be followed to the last time.
    """
    import torch

    from lightning_modules.solvers import SolverSettings

    settings = SolverSettings(
        "native", "dopri5", rtol=tolerance, atol=tolerance, max_steps=MAX_STEPS
    )
    with torch.no_grad():
        return model.predict(y0, times, settings)


def line(axes: Axes, states: Tensor, **look: Any) -> None:
    """Show a path over the plane, or what of it lies within reach of a picture."""
    shown = states.clamp(-1e3, 1e3).T.numpy()
    axes.plot(*shown, **look)


def streams(axes: Axes, slopes: Callable[[Tensor], Tensor], half: float) -> None:
    """Show the directions of a field over a square around 0 as lines that follow them.

    Args:
        axes: Where.
        slopes: Returns the field at states ``(points, 2)``.
        half: Half the side of the square.
    """
    axis, u, v = _directions(slopes, half, CELLS)
    # Lines and heads are pixels in the SVG too, or else it would have megabytes.
    axes.set_rasterization_zorder(1.5)
    look: dict[str, Any] = {"density": 0.8, "linewidth": 0.7, "arrowsize": 0.7, "zorder": 1}
    axes.streamplot(axis, axis, u, v, color="#BBBBBB", **look)
    square(axes, half)


def arrows(axes: Axes, slopes: Callable[[Tensor], Tensor], half: float) -> None:
    """Show the same as arrows of one length, which takes a hundredth of the time."""
    axis, u, v = _directions(slopes, half, ARROWS)
    look: dict[str, Any] = {"pivot": "mid", "scale": 1.4 * ARROWS, "width": 0.005, "zorder": 1}
    axes.quiver(axis, axis, u, v, color="#999999", **look)
    square(axes, half)


def square(axes: Axes, half: float) -> None:
    """Show a square around 0, without a grid."""
    axes.set_xlim(-half, half)
    axes.set_ylim(-half, half)
    axes.set_aspect("equal")
    axes.grid(False)


def _directions(
    slopes: Callable[[Tensor], Tensor], half: float, cells: int
) -> tuple[Any, Any, Any]:
    """Return the coordinates of a grid, and the field there, each of length 1."""
    import torch

    axis = torch.linspace(-half, half, cells, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    with torch.no_grad():
        found = slopes(points.view(-1, 2)).view(points.shape)
    found = found / found.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return axis.numpy(), found[..., 0].numpy(), found[..., 1].numpy()
