"""The order in which the page tells of the experiments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Chapter:
    """Experiments that belong together.

    Args:
        id: Its anchor on the page.
        title: Its heading.
        names: Names of its experiments, in the order of reading.
    """

    id: str
    title: str
    names: tuple[str, ...]


CHAPTERS = (
    Chapter("images", "Images: Table 1", ("table1", "ablations", "fig3", "solver_swap")),
    Chapter(
        "gradients-and-costs",
        "Gradients and costs",
        ("gradients", "costs", "step_time", "benchmark", "startup"),
    ),
    Chapter("densities", "Densities", ("fig4", "fig5", "two_moons", "flow_checks")),
    Chapter(
        "series-and-fields",
        "Time series and fields",
        ("table2", "table2_sweep", "fig8", "fig9", "fig10", "fig7", "latent_step", "spiral"),
    ),
    Chapter(
        "demonstrations",
        "The slide deck's demonstrations",
        (
            "decay",
            "resnet_euler",
            "toy_field",
            "adjoint_jumps",
            "adjoint_toy",
            "bullet",
            "adaptive_error",
            "reverse_mode",
            "million_steps",
            "springs",
        ),
    ),
)


def chapters(names: Iterable[str]) -> list[Chapter]:
    """Return the chapters of these experiments; those that no chapter names come last."""
    left = dict.fromkeys(names)
    found = []
    for chapter in CHAPTERS:
        here = tuple(name for name in chapter.names if name in left)
        for name in here:
            del left[name]
        found.append(Chapter(chapter.id, chapter.title, here))
    found.append(Chapter("further", "Further experiments", tuple(left)))
    return [chapter for chapter in found if chapter.names]
