"""Density models that were trained before, from the weights beside their rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from reproduce.context import Context
from reproduce.ensembles import load
from reproduce.records import PROFILES

if TYPE_CHECKING:
    from lightning_modules import DensityModel

SHIPPED = Path(__file__).parent.parent / "results"


def moons(ctx: Context) -> tuple[DensityModel, list[int]]:
    """Return the continuous flow of Figure 5 that was trained on moons, and its members' seeds.

    Raises:
        FileNotFoundError: If there is none; the message says how to make it.
    """
    profiles = (ctx.profile,) if ctx.profile in ("paper", "short") else PROFILES
    places = [folder / "fig5" / "weights" for folder in (ctx.out, SHIPPED)]
    for path in (place / f"{p}-cnf_moons.safetensors" for p in profiles for place in places):
        if path.exists():
            model, facts = load(path)
            return model, list(facts["seeds"])
    raise FileNotFoundError(
        f"No weights of cnf_moons under {' or '.join(profiles)} in "
        f"{', '.join(map(str, places))}. Train it first: python -m reproduce fig5 --profile "
        f"{profiles[-1]}."
    )
