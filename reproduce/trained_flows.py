"""Density models that were trained before, from the weights beside their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproduce import evidence
from reproduce.context import Context
from reproduce.ensembles import load

if TYPE_CHECKING:
    from lightning_modules import DensityModel


def moons(ctx: Context) -> tuple[DensityModel, list[int]]:
    """Return the continuous flow of Figure 5 that was trained on moons, and its members' seeds.

    Raises:
        FileNotFoundError: If there is none; the message says how to make it.
    """
    model, facts = load(evidence.find_weights("fig5", "cnf_moons", [ctx.out], ctx.profile)[0])
    return model, list(facts["seeds"])
