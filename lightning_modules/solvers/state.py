"""What a backend is given: one tensor, a norm over it, and the grid of fixed steps."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_modules.solvers.base import SolverFailed, SolverSettings, SolveStats

PIECE = 4096  # step ends of a fixed-step method that are made at once, or nearly as many again


@dataclass(frozen=True)
class Layout:
    """How several tensors lie one behind the other in a vector.

    Args:
        shapes: Shape of each tensor.
    """

    shapes: tuple[torch.Size, ...]

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the parts as one vector, ``(sum of sizes,)``."""
        return torch.cat([part.reshape(-1) for part in parts])

    def unpack(self, vector: Tensor) -> tuple[Tensor, ...]:
        """Return the parts of ``(*lead, sum of sizes)``, each ``(*lead, *shape)``."""
        lead = vector.shape[:-1]
        pieces = vector.split([shape.numel() for shape in self.shapes], dim=-1)
        return tuple(p.reshape((*lead, *s)) for p, s in zip(pieces, self.shapes, strict=True))

    def largest_rms(self, error: Tensor) -> Tensor:
        """Return the largest root mean square of the parts, torchdiffeq's norm of tuples."""
        return torch.stack([rms(part) for part in self.unpack(error)]).max()


def rms(error: Tensor) -> Tensor:
    """Return the root mean square, a scalar.

    Detached: step sizes are constants of the discrete gradient. torchdiffeq alone would
    differentiate its first step size and no other.
    """
    return error.detach().pow(2).mean().sqrt()


def fixed_grid(times: Tensor, settings: SolverSettings, stats: SolveStats) -> Tensor:
    """Return the step ends of a fixed-step method as one tensor, ``(steps + 1,)``.

    Arguments and values are those of `grid_pieces`.
    """
    return torch.cat(list(grid_pieces(times, settings, stats)))


def grid_pieces(times: Tensor, settings: SolverSettings, stats: SolveStats) -> Iterator[Tensor]:
    """Yield the step ends of a fixed-step method, some thousands at a time.

    Every output interval is split into ceil(length / step_size) equal steps, so that the output
    times, which the grid holds exactly, are never interpolated. A solve that stores no steps thus
    holds a few thousand of its times, be it a million steps long.

    Args:
        times: Output times, ``(time,)``.
        settings: Read for ``step_size`` and ``max_steps``.
        stats: Steps taken before, which count against ``max_steps``.

    Returns:
        Times, ``(steps + 1,)`` in all, differentiable with respect to ``times``.

    Raises:
        SolverFailed: If there are too many; at once, not when the first is asked for.
    """
    counts = _steps_per_interval(times, settings.step_size)
    if stats.steps + sum(counts) > settings.max_steps:
        start, end = float(times[0]), float(times[-1])
        raise SolverFailed(
            f"{settings.method} needs {stats.steps + sum(counts)} steps to reach t={end:.6g}, "
            f"more than max_steps={settings.max_steps}. Raise step_size or max_steps.",
            start,
            abs(end - start) / sum(counts),
            stats.steps,
        )
    return _pieces(times, counts)


def _pieces(times: Tensor, counts: Sequence[int]) -> Iterator[Tensor]:
    held: list[Tensor] = []
    count = 0
    for start, end, n in zip(times[:-1], times[1:], counts, strict=True):
        for first in range(0, n, PIECE):
            places = torch.arange(
                first, min(first + PIECE, n), dtype=times.dtype, device=times.device
            )
            held.append(start + (end - start) * (places / n))
            count += len(places)
            # Many short intervals make one piece: on a GPU the host waits for each.
            if count >= PIECE:
                yield torch.cat(held)
                held, count = [], 0
    yield torch.cat([*held, times[-1:]])


def _steps_per_interval(times: Tensor, step_size: float | None) -> list[int]:
    ticks = times.detach().tolist()
    if step_size is None:
        return [1] * (len(ticks) - 1)
    # Rounded times must not turn a whole number of steps into one more.
    slack = min(4 * torch.finfo(times.dtype).eps * max(map(abs, ticks)) / step_size, 0.5)
    lengths = [abs(end - start) for start, end in pairwise(ticks)]
    return [max(1, math.ceil(length / step_size - slack)) for length in lengths]


def times_written(x: Tensor) -> int:
    """Return how often a tensor was written to; tensors of inference mode do not count."""
    return 0 if x.is_inference() else x._version


def writable(x: Tensor) -> bool:
    """Return whether anybody may write to a tensor in place.

    Nobody may where one number in memory stands for several, or outside inference mode to what was
    made in it; tensors without memory of their own, sparse ones too, are left out.
    """
    if x.is_inference() or x.is_meta or x.layout != torch.strided:
        return False
    return not any(step == 0 and n > 1 for step, n in zip(x.stride(), x.shape, strict=True))


def has_tangents() -> bool:
    """Return whether derivatives are being taken in forward mode, with or without torch.func."""
    return forward_ad._current_level >= 0


def check_finite(ys: Tensor, times: Tensor, settings: SolverSettings, stats: SolveStats) -> None:
    """Raise ``SolverFailed`` where ``ys``, ``(time, *state)``, is not finite.

    Args:
        ys: Solution at the output times.
        times: Output times, ``(time,)``.
        settings: How it was solved, for the message.
        stats: Steps that the solve took.
    """
    if math.isfinite(ys.detach().sum().item()):  # quicker than a look at each
        return
    finite = torch.isfinite(ys.detach())
    if bool(finite.all()):
        return
    first = int(finite.flatten(1).all(dim=1).logical_not().nonzero()[0])
    ticks = times.detach().tolist()
    size = settings.step_size or abs(ticks[-1] - ticks[0]) / max(stats.steps, 1)
    dial = "rtol/atol (fixed steps: set step_size)" if settings.step_size is None else "step_size"
    raise SolverFailed(
        f"{settings.method} returned a state that is not finite at t={ticks[first]:.6g} "
        f"of {ticks[-1]:.6g} after {stats.steps} steps (dt={size:.1e}): the solution diverges, or "
        f"the field or y0 is not finite. Lower {dial}, shorten the time span, or check the field.",
        ticks[first],
        size,
        stats.steps,
    )
