"""What an experiment is given in a test."""

from pathlib import Path
from typing import Any

from reproduce.context import Context


def context(out: Path, profile: str = "smoke", **given: Any) -> Context:
    """Return a context of seed 0 on the CPU, whose runs lie beside its results."""
    fixed = {"device": "cpu", "device_text": "cpu", "seeds": (0,), "runs": out / "runs"}
    return Context(profile=profile, out=out, **{**fixed, **given})
