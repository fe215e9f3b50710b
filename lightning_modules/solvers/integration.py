"""From the first to the last output time, by fixed or by adaptive steps."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, pairwise

import torch
from torch import Tensor

from lightning_modules.solvers.base import SolverSettings, SolveStats
from lightning_modules.solvers.controller import Controller
from lightning_modules.solvers.failures import no_step, step_limit
from lightning_modules.solvers.registry import Norm
from lightning_modules.solvers.state import grid_pieces
from lightning_modules.solvers.stepping import Stages, Time, number
from lightning_modules.solvers.watching import watchers


@dataclass(frozen=True)
class Accepted:
    """A step that was taken, and where in it output times lie.

    Args:
        t: Time at its start.
        dt: Its size, negative backwards in time.
        y0: State at its start, ``(numbers,)``.
        y1: State at its end, ``(numbers,)``.
        fractions: For each output time in it the fraction of the step; None stands for its end.
    """

    t: Time
    dt: Time
    y0: Tensor
    y1: Tensor
    fractions: tuple[Time | None, ...]


def accepted_steps(
    stages: Stages,
    y0: Tensor,
    times: Tensor,
    settings: SolverSettings,
    norm: Norm,
    stats: SolveStats,
) -> Iterator[Accepted]:
    """Yield step after step until the last output time; ``stages`` holds the slopes of the last.

    Args:
        stages: Takes the steps; decides whether there is a graph.
        y0: Initial state, any shape.
        times: Output times, ``(time,)``. A graph reaches them if they require a gradient.
        settings: Tolerances or step size, and ``max_steps``.
        norm: Norm of an error shaped like ``y0``.
        stats: Steps are counted here.
    """
    if stages.tableau.error is None:
        places = fixed_places(times, settings, stats)
        return _fixed_steps(stages, y0.reshape(-1), places, stats)
    walk = _AdaptiveWalk(stages, y0.shape, ticks_of(times), settings, norm, stats)
    return walk.steps(y0.reshape(-1))


def outputs_of(stages: Stages, step: Accepted) -> list[Tensor]:
    """Return the states at the output times within the step that was yielded last."""
    inside = [x for x in step.fractions if x is not None]
    found = stages.interpolate(step.y0, step.dt, inside) if inside else []
    return found + [step.y1] * (len(step.fractions) - len(inside))  # the end comes last


def ticks_of(times: Tensor) -> list[Time]:
    """Return numbers in float64, or scalars with a graph where autograd must reach ``times``."""
    if times.requires_grad and torch.is_grad_enabled():
        return list(times.double().unbind())
    return times.detach().double().tolist()


def fixed_places(
    times: Tensor, settings: SolverSettings, stats: SolveStats
) -> Iterator[tuple[Time, Time, bool]]:
    """Return start and size of every step of a fixed-step method, and if it ends at an output.

    Arguments and failures are those of `grid_pieces`.
    """
    pieces = grid_pieces(times, settings, stats)
    return _places(chain.from_iterable(map(ticks_of, pieces)), ticks_of(times))


def _places(grid: Iterable[Time], ticks: list[Time]) -> Iterator[tuple[Time, Time, bool]]:
    reached = 1
    for t, end in pairwise(grid):
        dt = end - t
        if number(dt) == 0.0:  # far from zero, steps within the rounding of times fall together
            continue
        lands = number(end) == number(ticks[reached])  # the grid holds the output times exactly
        reached += lands
        yield t, dt, lands


def _fixed_steps(
    stages: Stages, y: Tensor, places: Iterable[tuple[Time, Time, bool]], stats: SolveStats
) -> Iterator[Accepted]:
    callbacks = watchers()
    for t, dt, lands in places:
        y1 = stages.step(t, dt, y)
        stats.steps_accepted += 1
        for callback in callbacks:
            callback(stages.shown(t, dt, y, y1, math.nan, accepted=True))
        yield Accepted(t, dt, y, y1, (None,) if lands else ())
        y = y1


class _AdaptiveWalk:
    """One solve by adaptive steps: where it is, what it tries next, when it gives up."""

    def __init__(
        self,
        stages: Stages,
        shape: torch.Size,
        ticks: list[Time],
        settings: SolverSettings,
        norm: Norm,
        stats: SolveStats,
    ) -> None:
        self._stages = stages
        self._ticks = ticks
        self._end = number(ticks[-1])
        self._direction = 1 if self._end > number(ticks[0]) else -1
        self._settings, self._stats = settings, stats
        self._control = Controller(stages.tableau.order, settings, norm, shape)
        self._callbacks = watchers()

    def steps(self, y: Tensor) -> Iterator[Accepted]:
        stages, stats, t, reached = self._stages, self._stats, self._ticks[0], 1
        stages.open(t, y)
        size = self._control.first_size(stages, t, y, self._direction)
        if math.isnan(size):
            raise self._stuck(t, y, 0.0, finite=False)
        ratio = 0.0
        while reached < len(self._ticks):
            t1, dt = self._aim(t, size, self._ticks[reached])
            self._check(t, y, dt, ratio)
            y1 = stages.step(t, dt, y)
            ratio = stages.ratio(self._control, dt, y, y1)
            accepted = ratio <= 1.0
            for callback in self._callbacks:
                callback(stages.shown(t, dt, y, y1, ratio, accepted=accepted))
            size = self._control.next_size(number(dt), ratio)
            if not accepted:
                stats.steps_rejected += 1
                continue
            stats.steps_accepted += 1
            fractions = self._fractions(t, t1, dt, reached)
            reached += len(fractions)
            yield Accepted(t, dt, y, y1, fractions)
            stages.advance()
            t, y = t1, y1

    def _aim(self, t: Time, size: float, tick: Time) -> tuple[Time, Time]:
        """Return end and size of the next step, which may have to land on an output time."""
        interpolates = self._stages.tableau.interpolant is not None
        if interpolates or self._direction * (number(tick) - (number(t) + size)) >= 0:
            return t + size, size
        return tick, tick - t

    def _fractions(self, t: Time, t1: Time, dt: Time, reached: int) -> tuple[Time | None, ...]:
        found: list[Time | None] = []
        for tick in islice(self._ticks, reached, None):
            left = self._direction * (number(t1) - number(tick))
            if left < 0:
                break
            exact = left == 0 and not isinstance(tick, Tensor)
            found.append(None if exact or tick is t1 else (tick - t) / dt)
        return tuple(found)

    def _check(self, t: Time, y: Tensor, dt: Time, ratio: float) -> None:
        now, size = number(t), number(dt)
        if self._stats.steps >= self._settings.max_steps:
            raise step_limit(now, self._end, size, self._settings, self._stats)
        # Times near 0 resolve steps that add nothing to the interval. A step that was only cut
        # short by an output time may be as small as that.
        span = abs(self._end - number(self._ticks[0]))
        vanished = not ratio <= 1.0 and abs(size) < 1e-16 * span
        if now + size == now or vanished:
            raise self._stuck(t, y, size, finite=math.isfinite(ratio))

    def _stuck(self, t: Time, y: Tensor, dt: float, *, finite: bool) -> Exception:
        return no_step(
            self._stages.field_of_vectors,
            number(t),
            y,
            dt,
            self._end,
            self._settings,
            self._stats,
            finite=finite,
        )
