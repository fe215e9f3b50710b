"""Other libraries behind one signature; a library that is not there is a reason to skip a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reproduce.peers.base import Counts, Peer, Skip
from reproduce.peers.of_torchode import torchode_steps

if TYPE_CHECKING:
    from reproduce.problems import Problem

__all__ = [
    "ALTERNATIVES",
    "LIBRARIES",
    "ON",
    "Counts",
    "Peer",
    "Skip",
    "prepare",
    "torchode_steps",
]

# Library -> the ways in which it takes gradients, or steps samples apart.
LIBRARIES: dict[str, tuple[str, ...]] = {
    "ours": ("direct", "unfactored", "checkpoint", "adjoint", "compiled", "captured", "tf32"),
    "torchdiffeq": ("direct", "adjoint", "compiled"),
    "torchode": ("direct", "adjoint", "each", "compiled"),
    "torchdyn": ("direct", "adjoint"),
    "diffrax": ("recursive", "backsolve", "each"),
}
# The only type of device that an alternative is for.
ON = {"ours_compiled": "cpu", "ours_captured": "cuda", "ours_tf32": "cuda"}
ALTERNATIVES = tuple(f"{library}_{way}" for library, ways in LIBRARIES.items() for way in ways)


def prepare(alternative: str, problem: Problem) -> Peer:
    """Make a problem ready in a library, which is imported here.

    Args:
        alternative: Library and gradient, one of ``ALTERNATIVES``.
        problem: The problem.

    Raises:
        Skip: If the library is not installed or cannot solve this problem.
        ValueError: If there is no such alternative.
    """
    if alternative not in ALTERNATIVES:
        raise ValueError(f"Unknown {alternative!r}. Choose one of {', '.join(ALTERNATIVES)}.")
    library, way = alternative.split("_")
    if library == "ours":
        from reproduce.peers.ours import Captured, Compiled, Ours, Unfactored

        if way == "unfactored":
            return Unfactored(problem)
        if way == "compiled":
            return Compiled(problem)
        if way in ("captured", "tf32"):
            return Captured(problem, tf32=way == "tf32")
        return Ours(problem, way)  # type: ignore[arg-type]
    if library == "torchdiffeq":
        from reproduce.peers.of_torchdiffeq import Torchdiffeq

        return Torchdiffeq(problem, way)
    if library == "torchode":
        from reproduce.peers.of_torchode import Torchode

        return Torchode(problem, way)
    if library == "torchdyn":
        from reproduce.peers.of_torchdyn import Torchdyn

        return Torchdyn(problem, way)
    from reproduce.peers.of_diffrax import Diffrax

    return Diffrax(problem, way)
