"""Sequences of events, each on the same window of time."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Events(NamedTuple):
    """Sequences of events on a window [0, T].

    Args:
        times: Times of all events, one sequence behind the other, each in order, ``(events,)``.
        lengths: How many events each sequence has; 0 is legal, ``(sequences,)``.
        horizon: T, a scalar.
    """

    times: Tensor
    lengths: Tensor
    horizon: Tensor

    @staticmethod
    def of(sequences: Sequence[Tensor], horizon: float) -> "Events":
        """Put sequences one behind the other.

        Args:
            sequences: The times of each, in order, ``(events of this sequence,)``; may be empty.
            horizon: T, in the unit of the times.

        Raises:
            ValueError: If there is no sequence, or if one cannot be on the window as it is.
        """
        shapes = [tuple(times.shape) for times in sequences]
        if not shapes or any(len(shape) != 1 for shape in shapes):
            raise ValueError(
                f"The sequences have the shapes {shapes}; give at least one, each (events,)."
            )
        times = torch.cat([times.double() for times in sequences])
        lengths = torch.tensor([len(times) for times in sequences], device=times.device)
        return Events(times, lengths, times.new_tensor(horizon)).checked()

    def checked(self) -> "Events":
        """Return them if they are what the class says.

        Raises:
            ValueError: If sizes do not fit, or if times are not finite, outside of the window or
                out of order within a sequence.
        """
        times, end = self.times, float(self.horizon)
        fits = times.ndim == self.lengths.ndim == 1 and len(self.lengths) > 0
        if not fits or bool((self.lengths < 0).any()) or int(self.lengths.sum()) != len(times):
            raise ValueError(
                f"There are times of shape {tuple(times.shape)} for lengths of shape "
                f"{tuple(self.lengths.shape)}; give (events,) and (sequences,), at least one "
                "sequence, lengths of at least 0 that add up to the number of events."
            )
        if not 0 < end < math.inf:
            raise ValueError(f"The window ends at {end}; give a finite time above 0.")
        if not bool(torch.isfinite(times).all()):
            raise ValueError("Some event times are not finite. Leave these events out.")
        outside = times[(times < 0) | (times > end)]
        if len(outside):
            raise ValueError(
                f"{len(outside)} of {len(times)} events lie outside of the window [0, {end:g}], "
                f"the first of them at {float(outside[0]):g}. Shift them, leave them out or end "
                "the window later."
            )
        falls = (times.diff() < 0) & (self.owners.diff() == 0)
        if bool(falls.any()):
            raise ValueError(
                f"The events of sequence {int(self.owners[1:][falls][0])} are out of order. Sort "
                "the times of each sequence."
            )
        return self

    @property
    def owners(self) -> Tensor:
        """The sequence of each event, ``(events,)``."""
        indices = torch.arange(len(self.lengths), device=self.lengths.device)
        return indices.repeat_interleave(self.lengths)
