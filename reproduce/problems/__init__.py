"""The problems of `benchmark`, in torch and, where there is one, in jax.numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reproduce.problems.base import Problem, Solve
from reproduce.problems.own import own
from reproduce.problems.systems import linear, van_der_pol, van_der_pol_stiff
from reproduce.problems.trainings import Cnf, Latent, OdeNet, Spiral

PROBLEMS: dict[str, Callable[..., Problem]] = {
    "linear": linear,
    "van_der_pol": van_der_pol,
    "van_der_pol_stiff": van_der_pol_stiff,
    "spiral": Spiral,
    "cnf": Cnf,
    "latent": Latent,
    "odenet": OdeNet,
    "own": own,
}

__all__ = ["PROBLEMS", "Problem", "Solve", "build"]


def build(name: str, **sizes: Any) -> Problem:
    """Return a problem, the same numbers at every call.

    Args:
        name: Name of a problem.
        sizes: ``batch`` and what else its builder takes.

    Raises:
        ValueError: If there is none of that name or a size does not fit.
    """
    if name not in PROBLEMS:
        raise ValueError(f"Unknown problem {name!r}. Choose one of {', '.join(PROBLEMS)}.")
    return PROBLEMS[name](**sizes)
