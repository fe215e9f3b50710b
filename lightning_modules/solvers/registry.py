"""Backends by name, and what each of them offers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from lightning_modules.solvers.base import AdjointNorm, Field, Gradient, SolverSettings, SolveStats
from lightning_modules.solvers.tree import parameters_of

Norm = Callable[[Tensor], Tensor]
TensorField = Callable[[Tensor, Tensor], Tensor]
StepControl = Literal["adaptive", "fixed"]


class Solve(Protocol):
    """The one function that a backend consists of."""

    def __call__(
        self,
        field: TensorField,
        y0: Tensor,
        times: Tensor,
        settings: SolverSettings,
        norm: Norm,
        stats: SolveStats,
    ) -> Tensor:
        """Solve dy/dt = field(t, y) with y(times[0]) = y0.

        The front end has checked the arguments, flattened tuple states and counts evaluations.

        Args:
            field: Called with a scalar ``t`` and ``y`` shaped like ``y0``; returns that shape.
            y0: Initial state, any shape.
            times: Strictly monotone output times, ``(time,)``, dtype and device of ``y0``.
            settings: Method and tolerances, already known to be offered by this backend;
                ``gradient`` is ``direct`` for the solves of the adjoint, which record no graph.
            norm: Norm of an error shaped like ``y0``; a step is accepted where it is at most 1.
            stats: ``steps_accepted`` and ``steps_rejected`` are counted up here, and
                ``max_steps`` limits their sum; they may start above 0, since the adjoint's
                backward solve is one solve interval by interval.

        Returns:
            States ``(time, *y0.shape)``; differentiable unless the backend offers only
            the adjoint. Raises ``SolverFailed`` where it cannot go on.
        """
        ...


@dataclass(frozen=True)
class Problem:
    """One solve, and what its backward pass needs beside tensors.

    Args:
        backend: Solves it.
        field: The field f over one tensor; evaluations are not counted.
        source: The user's field.
        settings: Method, tolerances and the norm of the backward solve.
        norm: Error norm of the state in this process; ``distributed.shared`` makes it joint.
        stats: Filled in as the solves run.
    """

    backend: "Backend"
    field: TensorField
    source: Field
    settings: SolverSettings
    norm: Norm
    stats: SolveStats

    @cached_property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters of f that want a gradient, as they were when first asked for."""
        return tuple(p for p in parameters_of(self.source) if p.requires_grad)


class SolveCheckpointed(Protocol):
    """The second function of a backend that offers ``gradient="checkpoint"``."""

    def __call__(self, problem: Problem, y0: Tensor, times: Tensor) -> Tensor:
        """Solve as ``Solve`` does; the gradient keeps accepted states and replays each step.

        Returns:
            States ``(time, *y0.shape)``, once differentiable with respect to ``y0`` and the
            parameters, equal to the gradient of ``direct`` up to rounding.
        """
        ...


Coefficients = tuple[Tensor, ...]


@runtime_checkable
class FactoredField(Protocol):
    """A field f(t, y) = g(c(t), y), called as any other field, whose parts are known.

    The parameters of the field reach the slope through ``coefficients`` alone.
    """

    def __call__(self, t: Tensor, y: Tensor, /) -> Tensor:
        """Return dy/dt, shaped like ``y``, at the scalar time ``t``."""
        ...

    def coefficients(self, times: Tensor) -> Coefficients:
        """Return c at the times ``(time,)``: tensors ``(time, …)``, with a graph where wanted."""
        ...

    def slope(self, c: Coefficients, y: Tensor, out: Tensor) -> Any:
        """Write g(c, y) to ``out`` and return what ``pull`` will need beside c and y.

        Tensors, or tuples and lists of them, may lie in ``out``; they are copied then.

        Args:
            c: The coefficients of one time, ``(…)``.
            y: State.
            out: Memory for dy/dt, shaped like ``y``.
        """
        ...

    def pull(self, c: Coefficients, y: Tensor, note: Any, kappa: Tensor) -> tuple[Tensor, ...]:
        """Return κᵀ ∂g/∂y, shaped like ``y``, and κᵀ ∂g/∂c, one tensor for each coefficient.

        Args:
            c: The coefficients that ``slope`` got.
            y: The state that it got.
            note: What it returned.
            kappa: Cotangent κ of the slope, shaped like ``y``.
        """
        ...


class SolveFactored(Protocol):
    """The function of a backend that makes use of factored fields."""

    def __call__(
        self, problem: Problem, field: FactoredField, y0: Tensor, times: Tensor
    ) -> Tensor:
        """Solve as ``Solve`` does, with the gradient that ``direct`` has.

        Returns:
            States ``(time, *y0.shape)``, once differentiable with respect to ``y0`` and the
            parameters; ``times`` does not require a gradient.
        """
        ...


@dataclass(frozen=True)
class Backend:
    """A solver library behind the suite's interface.

    Args:
        name: What ``SolverSettings.backend`` calls it.
        solve: The solve itself.
        methods: Returns how each offered method controls its step; called on first use, so that
            naming a backend imports nothing.
        gradients: The values of ``SolverSettings.gradient`` that it supports.
        checkpointed: Solves with ``gradient="checkpoint"``; given if and only if that is offered.
        factored: Solves with factored fields and ``gradient="direct"``; None treats them as any.
        absent: Methods that one might expect here, and the reason why they are not offered.
        norm: The one error norm that it can use; None if it takes the one it is given.
    """

    name: str
    solve: Solve
    methods: Callable[[], Mapping[str, StepControl]]
    gradients: tuple[Gradient, ...]
    checkpointed: SolveCheckpointed | None = None
    factored: SolveFactored | None = None
    absent: Mapping[str, str] = field(default_factory=dict)
    norm: AdjointNorm | None = None

    def __post_init__(self) -> None:
        """Refuse a table of gradients that promises more or less than there is."""
        if ("checkpoint" in self.gradients) != (self.checkpointed is not None):
            raise ValueError(
                f"Backend {self.name!r} must list 'checkpoint' in gradients if and only if it is "
                "given checkpointed=."
            )


_BACKENDS: dict[str, Backend] = {}


def register_backend(backend: Backend) -> None:
    """Make a backend available under its name."""
    if _BACKENDS.get(backend.name, backend) is not backend:
        raise ValueError(
            f"A backend named {backend.name!r} is registered already. "
            "Choose another name or call unregister_backend first."
        )
    _BACKENDS[backend.name] = backend


def unregister_backend(name: str) -> None:
    """Forget the backend of that name, if there is one."""
    _BACKENDS.pop(name, None)


def backends() -> dict[str, Backend]:
    """Return the registered backends by name."""
    return dict(_BACKENDS)


def gradient_table() -> dict[str, tuple[Gradient, ...]]:
    """Return which backend offers which gradient."""
    return {name: backend.gradients for name, backend in _BACKENDS.items()}


def find_backend(settings: SolverSettings) -> Backend:
    """Return the backend that ``settings`` names.

    Raises:
        ValueError: If these are no settings, if the backend, its method or the gradient does not
            exist, or if an option is set that the method does not read.
    """
    if not isinstance(settings, SolverSettings):
        raise ValueError(
            f"settings is a {type(settings).__name__}; pass SolverSettings(…), of a dictionary "
            "SolverSettings(**dictionary)."
        )
    backend = _BACKENDS.get(settings.backend)
    if backend is None:
        raise ValueError(
            f"Unknown backend {settings.backend!r}. Choose one of {', '.join(_BACKENDS)}, or "
            "register one of your own first: register_backend, import_backend."
        )
    if settings.gradient not in backend.gradients:
        able = [name for name, offered in gradient_table().items() if settings.gradient in offered]
        raise ValueError(
            f"Backend {backend.name!r} does not offer gradient={settings.gradient!r}, only "
            f"{', '.join(backend.gradients)}. Backends that do: {', '.join(able) or 'none'}."
        )
    _check_method(backend, settings)
    _check_norm(backend, settings)
    return backend


def _check_norm(backend: Backend, settings: SolverSettings) -> None:
    if backend.norm is None:
        return
    if settings.gradient == "adjoint" and settings.adjoint_norm != backend.norm:
        raise ValueError(
            f"Backend {backend.name!r} measures every error by one norm of its own; "
            f"adjoint_norm is {settings.adjoint_norm!r}. Set adjoint_norm={backend.norm!r}."
        )
    if settings.sync_norm:
        raise ValueError(
            f"Backend {backend.name!r} measures every error by a norm of its own, which cannot be "
            "shared between processes. Leave sync_norm out or choose another backend."
        )


def _check_method(backend: Backend, settings: SolverSettings) -> None:
    methods = backend.methods()
    if settings.method not in methods:
        reason = backend.absent.get(settings.method, "")
        raise ValueError(
            f"Backend {backend.name!r} has no method {settings.method!r}. "
            f"{reason}{' ' if reason else ''}Choose one of {', '.join(methods)}."
        )
    fixed = sorted(name for name, control in methods.items() if control == "fixed")
    if settings.step_size is not None and methods[settings.method] == "adaptive":
        others = f" or choose a fixed-step method: {', '.join(fixed)}" if fixed else ""
        raise ValueError(
            f"step_size={settings.step_size:g} given with {settings.method!r}, which chooses its "
            f"own steps. Leave it out{others}."
        )
    unread = {
        "adjoint_norm": settings.adjoint_norm != "per_tensor",
        "sync_norm": settings.sync_norm,
    }
    if any(unread.values()) and methods[settings.method] == "fixed":
        name = next(name for name, given in unread.items() if given)
        raise ValueError(
            f"{name}={getattr(settings, name)!r} given with {settings.method!r}, whose steps "
            "are fixed and read no norm. Leave it out or choose an adaptive method."
        )
