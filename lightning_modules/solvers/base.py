"""What every solver shares: settings, statistics, the answer and the failure."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor

State = Tensor | tuple[Tensor, ...]
S = TypeVar("S", bound=State)
Gradient = Literal["direct", "adjoint", "checkpoint"]
AdjointNorm = Literal["per_tensor", "rms", "seminorm"]


class Field(Protocol):
    """The right-hand side f of dy/dt = f(t, y); usually an ``nn.Module``."""

    def __call__(self, t: Tensor, y: Any, /) -> Any:
        """Return dy/dt, shaped like ``y``, at the scalar time ``t``."""
        ...


@dataclass(frozen=True)
class SolverSettings:
    """How an initial value problem is solved and how its gradient is taken.

    Args:
        backend: Name of a registered solver library.
        method: Integration method; a name means the same in every backend.
        rtol: Relative tolerance of adaptive and implicit methods.
        atol: Absolute tolerance of adaptive and implicit methods.
        step_size: Longest step of a fixed-step method: every output interval is split into
            ceil(length / step_size) equal steps. Unset, an output interval is one step.
        max_steps: Most steps, accepted and rejected together, of one whole solve.
        gradient: ``direct`` differentiates through the solver's steps; ``checkpoint`` gives the
            same gradient, but stores the accepted states only and replays each step in backward;
            ``adjoint`` solves the continuous adjoint backwards in time and stores the output
            times only. The last two evaluate the field again in backward, so it must give the
            same values there: no random numbers, no buffers that change in between.
        adjoint_rtol: Relative tolerance of the backward solve; unset, ``rtol``.
        adjoint_atol: Absolute tolerance of the backward solve; unset, ``atol``.
        adjoint_norm: Error norm of the backward solve: ``per_tensor`` (the largest RMS of state,
            adjoint and each parameter), ``rms`` (one RMS over everything) or ``seminorm`` (state
            and adjoint only).
        sync_norm: Whether the error norm is the largest over all processes of the distributed
            training, so that every rank takes the same steps; else each controls its own. A
            process on its own has nothing to synchronise and ignores it.
    """

    backend: str = "torchdiffeq"
    method: str = "dopri5"
    rtol: float = 1e-3
    atol: float = 1e-3
    step_size: float | None = None
    max_steps: int = 10_000
    gradient: Gradient = "direct"
    adjoint_rtol: float | None = None
    adjoint_atol: float | None = None
    adjoint_norm: AdjointNorm = "per_tensor"
    sync_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no backend can use; names are looked up when a solve begins."""
        _require_number("rtol", self.rtol, allow_zero=True)
        _require_number("atol", self.atol)
        if self.step_size is not None:
            _require_number("step_size", self.step_size)
        if self.adjoint_rtol is not None:
            _require_number("adjoint_rtol", self.adjoint_rtol, allow_zero=True)
        if self.adjoint_atol is not None:
            _require_number("adjoint_atol", self.adjoint_atol)
        if type(self.max_steps) is not int or self.max_steps < 1:
            raise ValueError(
                f"max_steps is {self.max_steps!r}; it must be an integer of at least 1. "
                "Leave it at its default of 10000 or raise it."
            )
        _require_choice("gradient", self.gradient, get_args(Gradient))
        _require_choice("adjoint_norm", self.adjoint_norm, get_args(AdjointNorm))
        if type(self.sync_norm) is not bool:
            raise ValueError(f"sync_norm is {self.sync_norm!r}; it must be true or false.")
        self._refuse_unread_adjoint_options()

    def _refuse_unread_adjoint_options(self) -> None:
        optional = ("adjoint_rtol", "adjoint_atol")
        given = [name for name in optional if getattr(self, name) is not None]
        given += ["adjoint_norm"] if self.adjoint_norm != "per_tensor" else []
        if given and self.gradient != "adjoint":
            raise ValueError(
                f"{' and '.join(given)} given with gradient={self.gradient!r}, which has no "
                "backward solve to read it. Set gradient='adjoint' or leave it out."
            )


# So that a module that saves its arguments as they are is loaded with weights_only=True.
torch.serialization.add_safe_globals([SolverSettings])


def _require_number(name: str, value: object, *, allow_zero: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or (value == 0 and not allow_zero):  # type: ignore[arg-type, operator]
        allowed = "at least 0" if allow_zero else "above 0"
        raise ValueError(
            f"{name} is {value!r}; it must be a finite number {allowed}. Pass for example 1e-3."
        )


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}. Choose one of {', '.join(choices)}.")


@dataclass
class SolveStats:
    """The cost of one solve.

    The backward counts are 0 until backward has run, and summed if it runs more than once. Direct
    gradients re-evaluate nothing and leave them at 0; checkpointed ones re-evaluate the field but
    take no steps of their own.

    Args:
        nfe_forward: Evaluations of the field in the forward solve.
        nfe_backward: Evaluations of the field, each with its vector-Jacobian product, in backward.
        steps_accepted: Steps that the forward solve took.
        steps_rejected: Steps that the forward solve tried and gave up.
        steps_accepted_backward: Steps that the backward solve took.
        steps_rejected_backward: Steps that the backward solve tried and gave up.
    """

    nfe_forward: int = 0
    nfe_backward: int = 0
    steps_accepted: int = 0
    steps_rejected: int = 0
    steps_accepted_backward: int = 0
    steps_rejected_backward: int = 0

    @property
    def steps(self) -> int:
        """Steps of the forward solve, accepted and rejected together."""
        return self.steps_accepted + self.steps_rejected


@dataclass(frozen=True)
class Solution(Generic[S]):
    """What a solve returns.

    Args:
        ys: States at the output times, ``(time, *state)``, or a tuple of such tensors.
        stats: The cost of this solve.
    """

    ys: S
    stats: SolveStats


class SolverFailed(RuntimeError):
    """A solve that could not reach its last output time.

    Args:
        message: What happened and what to change, in terms of ``SolverSettings`` fields.
        time: Time that the solve had reached.
        step_size: Size of the step tried last, 0 if none was; the mean step of a solve that ended
            without noticing that its states are not finite.
        steps: Steps taken, accepted and rejected together.
    """

    kind: ClassVar[Literal["solver_failed", "underflow"]] = "solver_failed"

    def __init__(self, message: str, time: float, step_size: float, steps: int) -> None:
        super().__init__(message)
        self.time = time
        self.step_size = step_size
        self.steps = steps

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.time, self.step_size, self.steps)


class StepUnderflow(SolverFailed):
    """A solve whose step size vanished although state and field stayed finite."""

    kind = "underflow"


_open_collectors: ContextVar[tuple["StatsCollector", ...]] = ContextVar("collectors", default=())


class StatsCollector:
    """Gathers the statistics of every solve between ``start`` and ``stop``.

    For callers that open in one hook and close in another; elsewhere ``collect_stats`` reads
    better. Collectors may overlap and close in any order.
    """

    def __init__(self) -> None:
        self.stats: list[SolveStats] = []

    def start(self) -> list[SolveStats]:
        """Begin to gather; return the list that fills, emptied."""
        self.stop()
        self.stats = []
        _open_collectors.set((*_open_collectors.get(), self))
        return self.stats

    def stop(self) -> list[SolveStats]:
        """Cease to gather; return what was gathered. Harmless when not started."""
        _open_collectors.set(tuple(c for c in _open_collectors.get() if c is not self))
        return self.stats


@contextmanager
def collect_stats() -> Iterator[list[SolveStats]]:
    """Gather the statistics of every solve that runs inside, wherever in a model it runs.

    Yields:
        A list that grows by one ``SolveStats`` a solve. Their backward counts are filled in when
        backward runs, be it after the context has closed.
    """
    collector = StatsCollector()
    try:
        yield collector.start()
    finally:
        collector.stop()


def deliver(stats: SolveStats) -> None:
    """Hand the statistics of a solve that begins to every open collector."""
    for collector in _open_collectors.get():
        collector.stats.append(stats)
