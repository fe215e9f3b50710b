"""Which fields are solved by their parts."""

from functools import lru_cache
from typing import Any, TypeGuard

from torch import nn

from lightning_modules.solvers.identity import HOOKS
from lightning_modules.solvers.once import is_transformed
from lightning_modules.solvers.registry import FactoredField
from lightning_modules.solvers.state import has_tangents
from lightning_modules.solvers.tree import modules_of

_PARTS = ("coefficients", "slope", "pull")


def is_factored(field: object) -> TypeGuard[FactoredField]:
    """Return whether what a field says of its parts stands for what calling it does.

    Not where a subclass or an instance has another ``forward``, nor where there are hooks, by
    which pruning and old normalisations make their weights, nor where a layer is a kind of linear
    one that computes otherwise, nor where derivatives are taken that its parts know nothing of.
    There it is a field like any other.
    """
    if not isinstance(field, FactoredField) or has_tangents() or is_transformed():
        return False
    if not isinstance(field, nn.Module):
        return "__call__" not in getattr(field, "__dict__", ()) and _tells(type(field), "__call__")
    return all(map(_is_plain, modules_of(field)))


@lru_cache(maxsize=256)
def _tells(kind: type, called: str) -> bool:
    """Return whether the parts of a class are as new as the function that it is called by."""
    return _depth(kind, called) >= min(_depth(kind, part) for part in _PARTS)


def _depth(kind: type, name: str) -> int:
    """Return how many classes up ``name`` is defined, more than there are if in none."""
    depths = (n for n, base in enumerate(kind.__mro__) if name in vars(base))
    return next(depths, len(kind.__mro__))


def _is_plain(part: nn.Module) -> bool:
    own = part.__dict__
    if any(own[hooks] for hooks in HOOKS):
        return False
    kind: Any = type(part)
    if hasattr(part, "slope") and isinstance(part, FactoredField):
        return "forward" not in own and _tells(kind, "forward")
    if not isinstance(part, nn.Linear):
        return True
    return "forward" not in own and kind.forward is nn.Linear.forward
