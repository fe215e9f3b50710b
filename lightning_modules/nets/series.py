"""Series that are observed each at times of its own, on the union of all times."""

from typing import NamedTuple

import torch
from torch import Tensor


class Series(NamedTuple):
    """Observed series.

    Args:
        times: The times at which any of them was observed, strictly increasing, ``(time,)``.
        seen: For each series, which of these times are its own, increasing, ``(series, points)``.
        x: What was observed then, ``(series, points, dim)``.
    """

    times: Tensor
    seen: Tensor
    x: Tensor

    @staticmethod
    def of(times: Tensor, x: Tensor) -> "Series":
        """Put series with times of their own on the union of these times.

        Args:
            times: Times of each series, ``(series, points)``, or of all, ``(points,)``.
            x: Observations, ``(series, points, dim)``.

        Raises:
            ValueError: If they do not fit, are not finite, or times are not strictly increasing.
        """
        if times.ndim == 1 and x.ndim == 3:
            times = times.expand(len(x), -1)
        if times.ndim != 2 or x.ndim != 3 or times.shape != x.shape[:2]:
            raise ValueError(
                f"times are {tuple(times.shape)}, observations {tuple(x.shape)}; give (points,) "
                "or (series, points), and (series, points, dim)."
            )
        if not bool(torch.isfinite(times).all()):
            raise ValueError("Some times are not finite. Leave these observations out.")
        union, seen = torch.unique(times, return_inverse=True)
        return Series(union, seen, x).checked()

    def checked(self) -> "Series":
        """Return it if a model can be given it.

        Raises:
            ValueError: If there is nothing in it, if observations are not finite, or if times are
                repeated or not in order.
        """
        series, points = self.seen.shape
        if not series or not points:
            raise ValueError(
                f"There are {series} series of {points} points; give at least one of one point."
            )
        if not bool(torch.isfinite(self.x).all()):
            raise ValueError("Some observations are not finite. Leave them out, with their times.")
        if not bool((self.times.diff() > 0).all()) or not bool((self.seen.diff(dim=1) > 0).all()):
            raise ValueError(
                "The times of a series must increase strictly; some are repeated or out of order. "
                "Sort each series and keep one observation a time."
            )
        return self

    @property
    def own_times(self) -> Tensor:
        """The times of each series, ``(series, points)``."""
        return self.times[self.seen]


def check_queries(at: Tensor) -> None:
    """Raise ValueError unless ``at`` is ``(time,)``, finite and strictly increasing."""
    fits = at.ndim == 1 and len(at) > 0 and bool(torch.isfinite(at).all())
    if not fits or not bool((at.diff() > 0).all()):
        raise ValueError(
            f"The times asked for are {tuple(at.shape)}; give finite ones in strictly increasing "
            "order, (time,)."
        )
