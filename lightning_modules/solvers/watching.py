"""Looking on while a solver steps, as a figure or an animation does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One step that was tried.

    Args:
        t: Time at its start.
        dt: Its size, negative backwards in time.
        y0: State at its start; tuple states as one vector.
        y1: State at its end, whether or not it was accepted.
        error_ratio: Norm of its error over the tolerance; nan for methods of fixed steps.
        accepted: Whether the solve went on from ``y1``.
    """

    t: float
    dt: float
    y0: Tensor
    y1: Tensor
    error_ratio: float
    accepted: bool


Watcher = Callable[[Step], None]
_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("watchers", default=())


@contextmanager
def watch_steps(callback: Watcher) -> Iterator[None]:
    """Call ``callback`` after every step of every native solve that runs inside.

    The adjoint's backward solve counts, where backward runs inside: its state is the vector of
    state, adjoint and parameter gradients. ``captured`` and ``compiled`` solve natively meanwhile;
    torchdiffeq and SciPy are not watched.
    """
    token = _watchers.set((*_watchers.get(), callback))
    try:
        yield
    finally:
        _watchers.reset(token)


def watchers() -> tuple[Watcher, ...]:
    """Return the callbacks of the contexts that are open."""
    return _watchers.get()
