"""The front end: checks the problem, shapes it for a backend, returns answer and cost."""

import math
from itertools import pairwise
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lightning_modules.solvers.adjoint import solve_with_adjoint
from lightning_modules.solvers.base import (
    Field,
    S,
    Solution,
    SolverSettings,
    SolveStats,
    State,
    deliver,
)
from lightning_modules.solvers.distributed import shared
from lightning_modules.solvers.factoring import is_factored
from lightning_modules.solvers.fields import Counted, OnTensors
from lightning_modules.solvers.once import is_transformed
from lightning_modules.solvers.registry import (
    Norm,
    Problem,
    find_backend,
)
from lightning_modules.solvers.state import Layout, check_finite, has_tangents, rms
from lightning_modules.solvers.surroundings import unwritten


def odeint(
    field: Field, y0: S, times: Tensor, settings: SolverSettings, norm: Norm | None = None
) -> Solution[S]:
    """Solve dy/dt = field(t, y) with y(times[0]) = y0.

    Args:
        field: Called as ``field(t, y)`` with a scalar ``t`` and ``y`` shaped like ``y0``; returns
            that shape. With ``gradient="adjoint"`` gradients reach its ``parameters()``, ``y0``
            and ``times``, with ``"checkpoint"`` the first two, and ``times`` must not require
            one; a field that hides other tensors in need of one is refused in backward.
        y0: Initial state, ``(batch, *features)`` or any other shape, or a tuple of such tensors,
            whose error norm is the largest RMS of its parts.
        times: Strictly monotone output times, ``(time,)``, in either direction.
        settings: Backend, method, tolerances and how gradients are taken.
        norm: Norm of an error shaped like a ``y0`` that is one tensor, one number without a graph:
            a step is accepted where it is at most 1. By default the root mean square. It is tried
            on a copy of ``y0`` first.

    Returns:
        States ``(time, *y0.shape)`` and the evaluation and step counts of this solve.

    Raises:
        ValueError: If ``y0``, ``times``, ``settings`` or ``norm`` cannot be used as they are, if
            the tolerances are below what the dtype of ``y0`` resolves, or if a backend of the
            user's returns something else than states at the output times.
        SolverFailed: If the solve cannot go on or is not finite; carries time, step size, steps.

    Source: Chen et al. (2018), Section 2; Algorithm 1 for ``gradient="adjoint"``.
    """
    if torch.is_inference_mode_enabled():
        # Its tensors do not count what is written to them, and fields that do would go unseen.
        with torch.inference_mode(mode=False), torch.no_grad():
            return odeint(field, _usual(y0), _usual(times), settings, norm)
    backend = find_backend(settings)
    _check_field(field)
    _check_state(y0)
    if isinstance(y0, Tensor):
        layout, start, measure = None, cast(Tensor, y0), norm or rms
    else:
        layout = Layout(tuple(part.shape for part in y0))
        start, measure = layout.pack(y0), layout.largest_rms
    if norm is not None and (layout is not None or backend.norm is not None):
        raise ValueError(
            f"norm= was given to backend {backend.name!r} with a {type(y0).__name__} as y0. Only "
            "tensors have a norm of the caller's, and only where the backend has none of its own."
        )
    if norm is not None:
        _check_norm(norm, start)
    times = _checked_times(times, like=start)
    if backend.methods()[settings.method] == "adaptive":
        _check_tolerances(settings, start)
    stats = SolveStats()
    deliver(stats)
    tensor_field = OnTensors(field, layout)
    problem = Problem(backend, tensor_field, field, settings, measure, stats)
    recorded = times.requires_grad and torch.is_grad_enabled()
    if settings.gradient != "direct":
        _check_derivatives(problem)
    # Where nothing is known to want a gradient, no backward comes to notice what a field hides.
    unasked = settings.gradient != "direct" and torch.is_grad_enabled()
    unasked = unasked and not (start.requires_grad or times.requires_grad or problem.parameters)
    if unasked:
        _check_hidden(problem, times[0], start)
    if settings.gradient == "adjoint":
        ys = solve_with_adjoint(problem, start, times)
    elif settings.gradient == "checkpoint":
        assert backend.checkpointed is not None
        ys = backend.checkpointed(problem, start, times)
    elif backend.factored and layout is None and not recorded and is_factored(field):
        ys = backend.factored(problem, field, start, times)
    else:
        joint, counting = shared(measure, settings), Counted(tensor_field, stats)
        ys = backend.solve(counting, start, times, settings, joint, stats)
    _check_answer(ys, start, times, backend.name)
    check_finite(ys, times, settings, stats)
    if unasked:
        _check_hidden(problem, times[-1], ys[-1])
    return Solution(cast(S, layout.unpack(ys) if layout else ys), stats)


def _usual(x: Any) -> Any:
    """Return tensors as ones that were not made in inference mode."""
    if type(x) is tuple:
        return tuple(map(_usual, x))
    return x.clone() if isinstance(x, Tensor) and x.is_inference() else x


def _check_field(field: Field) -> None:
    """Refuse what is often given in the place of a field."""
    if isinstance(field, type) or not callable(field):
        what = f"the class {field.__name__}" if isinstance(field, type) else type(field).__name__
        raise ValueError(f"field is {what}; pass what is called as field(t, y).")


def _check_norm(norm: Norm, y0: Tensor) -> None:
    """Refuse a norm that is none, before a solver stumbles over it."""
    if not callable(norm):
        raise ValueError(
            f"norm is {norm!r}; pass what is called as norm(error) and returns one number."
        )
    with torch.no_grad():
        found = norm(y0.detach().clone())  # which it may write to
    is_tensor = isinstance(found, Tensor)
    if not (found.numel() == 1 if is_tensor else isinstance(found, Real)):
        got = f"shape {tuple(found.shape)}" if is_tensor else f"a {type(found).__name__}"
        raise ValueError(
            f"norm returned {got} for an error of shape {tuple(y0.shape)}; it must return one "
            "number, for example error.abs().max()."
        )


def _check_answer(ys: Tensor, y0: Tensor, times: Tensor, backend: str) -> None:
    """Refuse what a backend returns if it is not a state for each output time."""
    wanted = (len(times), *y0.shape)
    if not isinstance(ys, Tensor) or ys.shape != wanted:
        got = f"shape {tuple(ys.shape)}" if isinstance(ys, Tensor) else f"a {type(ys).__name__}"
        raise ValueError(
            f"Backend {backend!r} returned {got}; states at {len(times)} output times have shape "
            f"{wanted}, the first of them y0."
        )


def _check_state(y0: State) -> None:
    parts = (y0,) if isinstance(y0, Tensor) else y0
    if not isinstance(parts, tuple):
        raise ValueError(f"y0 is a {type(y0).__name__}; pass a tensor or a tuple of tensors.")
    names = getattr(parts, "_fields", None)
    if names:
        raise ValueError(
            f"y0 is a {type(y0).__name__}, whose parts have names; the field would get a plain "
            "tuple without them. Pass tuple(y0), and name the parts within the field: "
            f"{', '.join(names)} = y."
        )
    others = [type(part).__name__ for part in parts if not isinstance(part, Tensor)]
    if others:
        raise ValueError(f"y0 has a {others[0]} as a part; pass a flat tuple of tensors.")
    if not parts or any(part.numel() == 0 for part in parts):
        raise ValueError("y0 holds no numbers: there is nothing to solve. Pass a non-empty state.")
    kinds = {(part.dtype, part.device) for part in parts}
    if len(kinds) > 1:
        raise ValueError(
            f"The parts of y0 differ in dtype or device: {sorted(map(str, kinds))}. "
            "Convert them to one with .to()."
        )
    dtype = parts[0].dtype
    if dtype.is_complex:
        raise ValueError(
            f"y0 is {dtype}; a solver needs real numbers. Pass the real and imaginary part as a "
            "tuple, (y0.real, y0.imag), or side by side, torch.view_as_real(y0)."
        )
    if not dtype.is_floating_point:
        raise ValueError(
            f"y0 is {dtype}; a state changes continuously. Convert it with .float() or .double()."
        )
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"y0 is {dtype}; a solver needs float32 or float64, since the error estimate "
            "of a step is a difference that drowns in the rounding of shorter numbers. Convert "
            "it with .float(); the field may compute in less under autocast."
        )


def _check_derivatives(problem: Problem) -> None:
    """Refuse derivatives that would be lost without a word."""
    gradient = problem.settings.gradient
    if torch.is_grad_enabled() and any(map(is_lazy, problem.parameters)):
        raise RuntimeError(
            "A layer of the field gets its shape when it is first called, too late for "
            f"gradient={gradient!r}. Call field(times[0], y0) once before."
        )
    if has_tangents():
        raise RuntimeError(
            f"Derivatives in forward mode do not pass gradient={gradient!r}. Use "
            "gradient='direct'."
        )
    if torch.is_grad_enabled() and is_transformed():
        raise RuntimeError(
            f"Transformations of torch.func do not pass gradient={gradient!r}. Use "
            "gradient='direct' with backend='native'; instead of vmap, make the batch a dimension "
            "of y0."
        )


def _check_hidden(problem: Problem, t: Tensor, y: Tensor) -> None:
    """Refuse a field that uses a tensor of its own at ``t`` and ``y``, an end of the solve.

    A tensor that is used in between alone is not seen.
    """
    with unwritten(problem.source):
        slope = problem.field(t, y)
    if slope.requires_grad:
        raise RuntimeError(
            "The field uses a tensor that requires a gradient and is no parameter of it, so "
            f"gradient={problem.settings.gradient!r} would drop that gradient. Pass an nn.Module "
            "that owns it, make it part of the state, or use gradient='direct'."
        )


def _check_tolerances(settings: SolverSettings, y0: Tensor) -> None:
    """Refuse tolerances that the numbers of the state cannot resolve."""
    rounding = torch.finfo(y0.dtype).eps / 2
    pairs = {"": (settings.rtol, settings.atol)}
    if settings.gradient == "adjoint":
        rtol, atol = settings.adjoint_rtol, settings.adjoint_atol
        pairs["adjoint_"] = (
            settings.rtol if rtol is None else rtol,
            settings.atol if atol is None else atol,
        )
    if all(rtol >= rounding for rtol, _ in pairs.values()):
        return  # whatever the state; nobody waits for a GPU here
    largest = float(y0.detach().abs().max())
    for which, (rtol, atol) in pairs.items():
        if rtol * largest + atol < rounding * largest < math.inf:
            remedy = " or pass a float64 y0" if y0.dtype == torch.float32 else ""
            raise ValueError(
                f"{which}rtol={rtol:g} and {which}atol={atol:g} ask for less than the rounding of "
                f"{y0.dtype} at |y| = {largest:.3g}, which is {rounding * largest:.1e}: no step "
                f"could be accepted on its merits. Loosen them{remedy}."
            )


def _checked_times(times: Tensor, like: Tensor) -> Tensor:
    """Return ``times`` in dtype and on the device of the state, or say what is wrong."""
    if not isinstance(times, Tensor) or not times.is_floating_point() or times.ndim != 1:
        is_tensor = isinstance(times, Tensor)
        kind = type(times).__name__
        given = f"{times.dtype}, {tuple(times.shape)}" if is_tensor else f"a {kind}"
        raise ValueError(f"times is {given}; pass a floating point tensor of shape (time,).")
    times = times.to(dtype=like.dtype, device=like.device)
    ticks = times.detach().tolist()
    if len(ticks) < 2 or not all(map(math.isfinite, ticks)):
        raise ValueError(f"times is {_shown(ticks)}; pass at least two finite times.")
    lengths = [end - start for start, end in pairwise(ticks)]
    if 0.0 in lengths:
        at = ticks[lengths.index(0.0)]
        raise ValueError(
            f"times holds an interval of length zero at t={at:.6g} (in {like.dtype}): its state "
            "is known already. Drop the repeated time."
        )
    if len({length > 0 for length in lengths}) > 1:
        raise ValueError(
            f"times must be strictly monotone, increasing or decreasing; it is {_shown(ticks)}. "
            "Sort it."
        )
    return times


def _shown(ticks: list[float]) -> str:
    shown = ", ".join(f"{tick:.6g}" for tick in ticks[:6])
    return f"[{shown}{', …' if len(ticks) > 6 else ''}]"
