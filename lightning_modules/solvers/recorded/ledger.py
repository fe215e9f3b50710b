"""What a solve on the device tells the host: a few numbers, fetched in one piece."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_modules.solvers.sweep import Taken
from lightning_modules.solvers.tableaus import ButcherTableau

GOING, DONE, AT_LIMIT, STUCK, NOT_STARTED = range(5)
"""States of a solve: still to be stepped, at its end, out of steps, without a step to take."""


Number = TypeVar("Number", float, Tensor)


class Clock(NamedTuple):
    """An accepted step as the host gets to know it.

    Args:
        t: Time at its start.
        dt: Its size, negative backwards in time.
        end: Time at its end.
    """

    t: float
    dt: float
    end: float


class Standing(NamedTuple, Generic[Number]):
    """Where a solve is, in scalars of the device or in numbers of the host.

    Args:
        t: Time reached.
        size: Size that the control wants for the next step.
        dt: Size of the step tried last, or that was to be tried when the solve stopped.
        ratio: Error of the step tried last over the tolerance.
        accepted: Steps taken.
        rejected: Steps given up.
        status: One of the states above.
    """

    t: Number
    size: Number
    dt: Number
    ratio: Number
    accepted: Number
    rejected: Number
    status: Number

    @property
    def trials(self) -> int:
        """Steps tried."""
        return int(self.accepted) + int(self.rejected)


@dataclass(frozen=True)
class Ledger:
    """The standing of a solve and the clocks of its last accepted steps, in one vector.

    Args:
        numbers: ``(7 + 3 * (rows + 1),)`` in float64; the last clock is where those of rejected
            steps go.
    """

    numbers: Tensor

    @staticmethod
    def of(rows: int, device: torch.device) -> "Ledger":
        """Return a ledger with room for so many clocks."""
        size = len(Standing._fields) + len(Clock._fields) * (rows + 1)
        return Ledger(torch.zeros(size, dtype=torch.float64, device=device))

    @property
    def standing(self) -> Standing[Tensor]:
        """Views of the scalars, to be read and written on the device."""
        return Standing(*self.numbers[: len(Standing._fields)].unbind())

    @property
    def clocks(self) -> Tensor:
        """A view of the clocks, ``(rows + 1, 3)``."""
        return self.numbers[len(Standing._fields) :].view(-1, len(Clock._fields))

    @staticmethod
    def parse(numbers: list[float], clocks: int) -> tuple[Standing[float], list[Clock]]:
        """Return what the host has fetched, with the first ``clocks`` of its clocks."""
        first = len(Standing._fields)
        places = range(first, first + 3 * clocks, 3)
        return Standing(*numbers[:first]), [Clock(*numbers[i : i + 3]) for i in places]


def taken(
    clocks: Sequence[Clock], ticks: Sequence[float], tableau: ButcherTableau, like: Tensor
) -> list[Taken]:
    """Return the steps with the output times in them, compared as the device compares.

    Args:
        clocks: The accepted steps.
        ticks: Output times.
        tableau: The method.
        like: Gives dtype and device of the weights.
    """
    ends, weights, reached = [], [], 1
    for t, dt, end in clocks:
        inside: list[float] = []
        while reached < len(ticks) and math.copysign(1, dt) * (end - ticks[reached]) >= 0:
            inside.append(ticks[reached])
            reached += 1
        ends.append(bool(inside) and inside[-1] == end)
        fractions = [(tick - t) / dt for tick in inside[: len(inside) - ends[-1]]]
        weights.append(tableau.weights_at_all(fractions) if fractions else None)
    there = _brought(weights, like)
    return [
        Taken(t, dt, int(last), own)
        for (t, dt, _), last, own in zip(clocks, ends, there, strict=True)
    ]


def _brought(weights: Sequence[Tensor | None], like: Tensor) -> list[Tensor | None]:
    """Return weights in the dtype and on the device of ``like``, there in one piece."""
    some = [own for own in weights if own is not None]
    if like.is_cuda and some:  # a copy for each step would be a wait for each
        whole = torch.cat(some).to(like.dtype).pin_memory().to(like.device, non_blocking=True)
        some = list(whole.split([len(own) for own in some]))
    left = iter(some)
    return [None if own is None else next(left).to(like) for own in weights]
