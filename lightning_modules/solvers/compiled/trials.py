"""A whole adaptive solve, and its way back, as functions of tensors alone.

`Trials.opening` and then `Trials.trial` again and again, as long as `Trials.going`, are a solve;
`Trials.back` from the last step to the first goes back through it. What changes from call to call
comes first among the arguments and is returned anew.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_modules.solvers.compiled.steps import StepFunctions
from lightning_modules.solvers.recorded.control import DeviceController
from lightning_modules.solvers.recorded.ledger import (
    AT_LIMIT,
    DONE,
    GOING,
    NOT_STARTED,
    STUCK,
    Standing,
)
from lightning_modules.solvers.registry import Norm, TensorField
from lightning_modules.solvers.tableaus import ButcherTableau


class Forward(NamedTuple):
    """What a trial changes.

    Args:
        numbers: A `Standing`, ``(7,)`` in float64.
        clocks: Start, size and end of the accepted steps, ``(1 + rows, 3)`` in float64; the first
            is that of the step before them.
        y: State that was reached, ``(numbers,)``.
        first: Slope there, ``(numbers,)``.
        outputs: States at the output times after the first, ``(outputs, numbers)``.
        starts: States at the starts of the accepted steps, ``(rows, numbers)``.
    """

    numbers: Tensor
    clocks: Tensor
    y: Tensor
    first: Tensor
    outputs: Tensor
    starts: Tensor


class Given(NamedTuple):
    """What is given to the trials of a solve.

    Args:
        span: Start, end, steps allowed, least step size, and the steps accepted before these
            ones, ``(5,)`` in float64.
        direction: 1 or -1, ``(1,)`` in float64.
        ticks: Output times after the first, ``(outputs,)`` in float64; infinite where there is
            room for more.
        tolerances: The relative and the absolute one, ``(2,)``.
    """

    span: Tensor
    direction: Tensor
    ticks: Tensor
    tolerances: Tensor


class Trials:
    """What is compiled of an embedded pair with an interpolant, its last stage the next first.

    Args:
        field: The field over one tensor, its evaluations not counted.
        tableau: The method.
        like: A state; gives shape and dtype.
        norm: Norm of an error shaped like the state.
    """

    def __init__(
        self, field: TensorField, tableau: ButcherTableau, like: Tensor, norm: Norm
    ) -> None:
        self._steps = StepFunctions(field, tableau, like.shape, norm)
        self._field, self._tableau, self._norm = field, tableau, norm
        self._like = torch.empty_like(like)

    def opening(self, *arguments: Tensor) -> Forward:
        """Evaluate the first slope and choose the first size; arguments as for `trial`."""
        state, given = Forward(*arguments[:6]), Given(*arguments[6:10])
        start, direction = given.span[0], given.direction[0]
        first = self._slope(start, state.y)

        def probe(dt: Tensor) -> Tensor:
            return self._slope(start + dt, state.y + dt.to(state.y.dtype) * first)

        size, finite = self._control(given).first_size(first, probe, state.y, direction)
        status = torch.where(finite, float(GOING), float(NOT_STARTED)).double()
        zero = torch.zeros_like(start)
        numbers = _vector(Standing(start, size, zero, zero, zero, zero, status))
        return state._replace(numbers=numbers, first=first)

    def going(self, *arguments: Tensor) -> Tensor:
        """Return whether there is a step to try, and room for it; arguments as for `trial`."""
        state, given = Forward(*arguments[:6]), Given(*arguments[6:10])
        now = Standing(*state.numbers.unbind())
        return (now.status == GOING) & (now.accepted - given.span[4] < len(state.starts))

    def trial(self, *arguments: Tensor) -> Forward:
        """Try a step; arguments are a `Forward` and a `Given`, one tensor after the other."""
        state, given = Forward(*arguments[:6]), Given(*arguments[6:10])
        now, y = Standing(*state.numbers.unbind()), state.y
        _, last, allowed, least, before = given.span.unbind()
        direction = given.direction[0]
        dt, end = now.size, now.t + now.size
        spent = now.accepted + now.rejected >= allowed
        vanished = ~(now.ratio <= 1.0) & (dt.abs() < least)
        stuck = ~spent & ((end == now.t) | vanished)
        going = ~spent & ~stuck
        clock = self._clock(now.t, dt)
        y1, slopes, error = self._steps.tried(clock, given.tolerances, y, state.first)
        ratio = dt.abs() * error.double()
        accepted = going & (ratio <= 1.0)
        over = accepted & (direction * (end - last) >= 0)
        status = now.status + AT_LIMIT * spent + STUCK * stuck + DONE * over
        standing = Standing(
            torch.where(accepted, end, now.t),
            torch.where(going, self._control(given).next_size(dt, ratio), now.size),
            dt,
            torch.where(going, ratio, now.ratio),
            now.accepted + accepted,
            now.rejected + (going & ~accepted),
            status,
        )
        # A step that is not accepted writes where the next one will.
        slot = (now.accepted - before).long().view(1)
        reached = accepted & _within(given.ticks, now.t, end, direction)
        x = torch.where(reached, given.ticks - now.t, 0.0) / dt
        shares = zip(self._weights(x, dt), slopes, strict=True)
        states = sum((w.unsqueeze(1) * k for w, k in shares), y)
        return Forward(
            _vector(standing),
            _put(state.clocks, slot + 1, _vector((now.t, dt, end))),
            torch.where(accepted, y1, y),
            torch.where(accepted, slopes[-1], state.first),
            torch.where(reached.unsqueeze(1), states, state.outputs),
            _put(state.starts, slot, y),
        )

    def back(self, count: int, parameters: Sequence[Tensor], *arguments: Tensor) -> list[Tensor]:
        """Go back through the first ``count`` stages of a step.

        Args:
            count: All of them, or all but the last.
            parameters: The parameters of the field.
            arguments: Number of the step, 1 for the first of its chunk, in float64; cotangent of
                the state at its end, ``(numbers,)``; what outputs pass to its slopes,
                ``(stages, numbers)``, and to the state at its start; what has reached each of the
                parameters so far. Then the same for all steps: clocks and starts as in `Forward`,
                direction and output times as in `Given`, the cotangents of the states at those.

        Returns:
            What of it changes from step to step, for the step before.
        """
        n, at_end, shares, through, *totals = arguments[: 4 + len(parameters)]
        clocks, starts, direction, ticks, grads = arguments[4 + len(parameters) :][:5]
        before, through_before = self.passed(n - 1, clocks, direction, ticks, grads)
        # The slope at the end of a step is the first of the next, where it is evaluated again.
        received = [shares[0] + before[-1], *shares[1:]]
        index = n.long().view(1)
        t, dt, _ = clocks.index_select(0, index)[0].unbind()
        y = starts.index_select(0, index - 1)[0]
        pulled, *totals = self._steps.back(
            count, parameters, self._clock(t, dt), y, at_end, received, *totals
        )
        return [n - 1, pulled + through, before, through_before, *totals]

    def begin(self, full: bool, parameters: Sequence[Tensor], *arguments: Tensor) -> list[Tensor]:
        """Make ready for the last step of a chunk; arguments as for `back`.

        Args:
            full: Whether to go back through all stages of that step at once: it is the last of
                the solve, and outputs in it depend on its last slope.
            parameters: The parameters of the field.
            arguments: As for `back`; what outputs pass is not read.
        """
        n, at_end, _, _, *totals = arguments[: 4 + len(parameters)]
        fixed = arguments[4 + len(parameters) :]
        state = [n, at_end, *self.passed(n, *fixed[:1], *fixed[2:5]), *totals]
        return self.back(self._tableau.stages, parameters, *state, *fixed) if full else state

    def left(self, *arguments: Tensor) -> Tensor:
        """Return whether there is a step to go back through; arguments as for `back`."""
        return arguments[0] >= 1

    def passed(
        self, n: Tensor, clocks: Tensor, direction: Tensor, ticks: Tensor, grads: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what outputs pass to the slopes of a step and to the state at its start.

        Arguments as for `back`.
        """
        t, dt, end = clocks.index_select(0, n.long().view(1))[0].unbind()
        reached = _within(ticks, t, end, direction)
        x = torch.where(reached, ticks - t, 0.0) / dt
        weights = [*self._weights(x, dt), reached.to(grads.dtype)]  # those of x = 0 are zeros
        rows = [(w.unsqueeze(1) * grads).sum(0) for w in weights]
        return torch.stack(rows[:-1]), rows[-1]

    def _slope(self, t: Tensor, y: Tensor) -> Tensor:
        slope = self._field(t.to(y.dtype), y.view(self._like.shape))
        return slope.reshape(-1).clone()  # a field may return the same buffer again

    def _clock(self, t: Tensor, dt: Tensor) -> list[Tensor]:
        """Return size and times of a step as `StepFunctions` takes them."""
        times = [t + c * dt for c in self._tableau.c]
        return [number.to(self._like.dtype) for number in (dt, *times)]

    def _weights(self, x: Tensor, dt: Tensor) -> list[Tensor]:
        """Return the weight of each slope at fractions of a step, ``(outputs,)``."""
        weights = self._tableau.weights_at(x)
        return [(dt * weight).to(self._like.dtype) for weight in weights]

    def _control(self, given: Given) -> DeviceController:
        """Return what chooses sizes; its constants are made where they are compiled."""
        rtol, atol = given.tolerances.unbind()
        return DeviceController(self._tableau.order, rtol, atol, self._norm, self._like)


def _within(ticks: Tensor, t: Tensor, end: Tensor, direction: Tensor) -> Tensor:
    """Return which output times a step from ``t`` to ``end`` reaches."""
    return (direction * (ticks - t) > 0) & (direction * (end - ticks) >= 0)


def _put(rows: Tensor, slot: Tensor, row: Tensor) -> Tensor:
    return rows.index_put((slot,), row.unsqueeze(0))


def _vector(scalars: Sequence[Tensor]) -> Tensor:
    """Return a vector; a stack of scalars is compiled to a copy of each by itself."""
    places = torch.arange(len(scalars), device="cpu")
    found = torch.zeros(len(scalars), dtype=torch.float64, device="cpu")
    for place, scalar in enumerate(scalars):
        found = torch.where(places == place, scalar, found)
    return found
