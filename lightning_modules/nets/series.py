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
        union, seen = torch.unique(times, return_inverse=True)
        return Series(union, seen, x).checked()

    def checked(self) -> "Series":
        """Return it if a model can be given it.

        Raises:
            ValueError: If its parts do not fit, if there is nothing in it, if times or
                observations are not finite, or if times are repeated or not in order.
        """
        times, seen, x = self
        shapes = f"times are {tuple(times.shape)}, seen {tuple(seen.shape)}, x {tuple(x.shape)}"
        if times.ndim != 1 or seen.ndim != 2 or x.ndim != 3 or seen.shape != x.shape[:2]:
            raise ValueError(
                f"The {shapes}; give (time,), (series, points) and (series, points, dim)."
            )
        if not seen.numel():
            raise ValueError(
                f"There are {len(seen)} series of {seen.shape[1]} points; give at least one of "
                "one point."
            )
        if seen.is_floating_point() or int(seen.min()) < 0 or int(seen.max()) >= len(times):
            raise ValueError(
                f"seen must hold places in the times, whole numbers from 0 to {len(times) - 1}."
            )
        if not bool(torch.isfinite(times).all()) or not bool(torch.isfinite(x).all()):
            raise ValueError(
                "Some times or observations are not finite. Leave these observations out."
            )
        if not bool((times.diff() > 0).all()) or not bool((seen.diff(dim=1) > 0).all()):
            raise ValueError(
                "The times of a series must increase strictly; some are repeated or out of order. "
                "Sort each series and keep one observation a time."
            )
        return self

    def like(self, weight: Tensor) -> "Series":
        """Return it in the precision and on the device of a model's weights.

        Raises:
            ValueError: If different times are the same in that precision.
        """
        times = self.times.to(weight)
        if not bool((times.diff() > 0).all()):
            raise ValueError(
                f"Some times are the same in {weight.dtype}. Count time from nearer to the first "
                "one, or take a float64 model."
            )
        return Series(times, self.seen.to(weight.device), self.x.to(weight))

    @property
    def whole(self) -> bool:
        """Whether every series was observed at all times, if they are in order (`checked`)."""
        return self.seen.shape[1] == len(self.times)

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
