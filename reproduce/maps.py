"""Densities over the box of Figure 4, from energies and from weights, and how they are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from torch import Tensor

    from lightning_modules import DensityModel

CELLS = 100
SAMPLES = 1500


def grid(half: float, cells: int = CELLS) -> Tensor:
    """Return the centres of cells on a square around 0, ``(cells, cells, 2)``, x along columns."""
    import torch

    axis = (torch.arange(cells) + 0.5) / cells * 2 * half - half
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)


def target_on_box(name: str) -> Tensor:
    """Return the density of an energy over the box, ``(cells, cells)``."""
    from lightning_modules.nets import BOX, find_energy, log_normaliser

    return (-find_energy(name)(grid(BOX).double()) - log_normaliser(name)).exp()


def on_box(model: DensityModel, member: int) -> Tensor:
    """Return the density of a member over the box, ``(cells, cells)``."""
    import torch

    from lightning_modules.nets import BOX

    points = grid(BOX)
    with torch.no_grad():
        found = model.log_prob(points.view(-1, 2)).exp()
    return (found if found.ndim == 1 else found[member]).view(points.shape[:2])


def density_and_samples(
    model: DensityModel, half: float, generator: torch.Generator, part: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the density of the first member over a square, and samples of it.

    Args:
        model: The model.
        half: Half the side of the square around 0.
        generator: Draws the samples.
        part: How much of the way from base to data has been gone.

    Returns:
        ``(cells, cells)`` and ``(samples, 2)``.
    """
    import torch

    points = grid(half)
    with torch.no_grad():
        found = model.log_prob(points.view(-1, 2), part).exp()
        samples = model.sample(SAMPLES, generator, part)
    first = found if found.ndim == 1 else found[0]
    return first.view(points.shape[:2]), samples if samples.ndim == 2 else samples[0]


def show(axes: Axes, density: Tensor | None, *, up: bool = True) -> None:
    """Show a density over a square: dark is dense.

    Args:
        axes: Where.
        density: ``(cells, cells)``; None says that there are no weights.
        up: Whether the second axis points up.
    """
    _bare(axes)
    if density is None:
        axes.text(0.5, 0.5, "no weights", ha="center", va="center", transform=axes.transAxes)
        return
    origin: Any = "lower" if up else "upper"
    # Cells as they are: smoothed ones take several times as many bytes.
    look: dict[str, Any] = {"cmap": "magma_r", "interpolation": "nearest", "aspect": "equal"}
    axes.imshow(density.numpy(), vmin=0, origin=origin, **look)


def scatter(axes: Axes, samples: Tensor | None, half: float) -> None:
    """Show samples on a square."""
    _bare(axes)
    if samples is None:
        return
    axes.plot(*samples.T.numpy(), ".", color="#000000", markersize=1.0, rasterized=True)
    axes.set_xlim(-half, half)
    axes.set_ylim(-half, half)
    axes.set_aspect("equal")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
