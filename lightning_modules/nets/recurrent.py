"""Recurrent networks that predict the next observation: the baselines of Table 2.

Each takes an observation and returns a prediction of the next one. All states come first in time,
``(time, series, …)``, since a recurrent network goes through them one by one.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_modules.nets.elman import Cell
from lightning_modules.nets.series import Series

Fill = Literal["mean", "last", "zero"]


class NextStep(nn.Module, ABC):
    """A recurrent network that predicts the mean of the next observation.

    Args:
        dim: Numbers of an observation.
        extra: Further numbers of an input.
        hidden: Units.
    """

    def __init__(self, dim: int, extra: int, hidden: int) -> None:
        super().__init__()
        self.dim = dim
        self.cell = Cell(dim + extra, hidden)
        self.out = nn.Linear(hidden, dim)

    @abstractmethod
    def one_ahead(self, series: Series) -> Tensor:
        """Return for each observation but the first its mean, given those before it.

        Returns:
            ``(series, points - 1, dim)``.
        """

    @abstractmethod
    def predict(self, series: Series, at: Tensor) -> Tensor:
        """Return the mean at the times ``at``, ``(time,)``, strictly increasing.

        Within the observed span, at a time t, given what was observed before t; beyond it, the
        network is fed its own mean from time to time.

        Returns:
            ``(time, series, dim)``; nan up to the first observation of a series.
        """


class GridRNN(NextStep):
    """The network that knows no gaps: one step for every time in the union of all series.

    It is given the observation where the series has one. Since a step is a time of the union, give
    it series on one regular grid, and times asked for that go on with it.

    Args:
        dim: Numbers of an observation.
        hidden: Units.
        fill: What it is given within the observed span where the series has no observation: its
            own ``mean``, the ``last`` observation (its mean before the first) or ``zero``. Beyond
            the span it is fed its own mean.
    """

    def __init__(self, dim: int, hidden: int, fill: Fill = "mean") -> None:
        super().__init__(dim, 0, hidden)
        self.fill = fill

    def one_ahead(self, series: Series) -> Tensor:
        """Return for each observation but the first its mean, given those before it."""
        means = self._means(series, torch.arange(len(series.times)), len(series.times))
        return _of_series(means, series.seen)[:, 1:]

    def predict(self, series: Series, at: Tensor) -> Tensor:
        """Return the mean at the times ``at``; a step also for each of those."""
        known = len(series.times)
        times, where = torch.unique(torch.cat([series.times, at]), return_inverse=True)
        means = self._means(series, where[:known], len(times))[where[known:]]
        return _masked(means, at, series)

    def _means(self, series: Series, places: Tensor, steps: int) -> Tensor:
        """Return the mean of each step, given those before it; observed times are at ``places``.

        Returns:
            ``(steps, series, dim)``.
        """
        count, x = len(series.x), series.x
        columns = torch.arange(count).unsqueeze(1).expand_as(series.seen)
        rows = places.to(series.seen.device)[series.seen]
        values = x.new_zeros(steps, count, self.dim)
        given = x.new_zeros(steps, count, 1)
        values[rows, columns], given[rows, columns] = x, 1.0
        h = x.new_zeros(count, self.cell.hidden)
        mean, means, span = self.out(h).to(x), [], int(places.max()) + 1
        held, seen = mean, x.new_zeros(count, 1)
        for step, (value, mask) in enumerate(zip(values.unbind(), given.unbind(), strict=True)):
            means.append(mean)
            filled = mean
            if self.fill == "zero" and step < span:
                filled = torch.zeros_like(mean)
            elif self.fill == "last" and step < span:
                held, seen = torch.lerp(held, value, mask), torch.maximum(seen, mask)
                filled = torch.lerp(mean, held, seen)
            h = self.cell(torch.lerp(filled, value, mask), h)
            mean = self.out(h).to(x)  # under autocast it comes in half precision
        return torch.stack(means)


class ObservationRNN(NextStep):
    """The network that takes one step for every observation of a series.

    With ``gaps`` the time to the observation that it predicts is appended to its input, so it can
    be asked for any time after an observation; without, it does not know how far ahead it looks,
    and every time asked for within the span gets the prediction of the next observation.

    Args:
        dim: Numbers of an observation.
        hidden: Units.
        gaps: Whether it is told the gaps.
        paced: Whether, beyond the span, it is fed its own mean in paces of about the mean gap
            between observations, on which it was trained, and asked from there for the times
            between; else it is fed its mean at every time.
    """

    def __init__(self, dim: int, hidden: int, gaps: bool, paced: bool = False) -> None:
        super().__init__(dim, int(gaps), hidden)
        self.gaps, self.paced = gaps, paced

    def one_ahead(self, series: Series) -> Tensor:
        """Return for each observation but the first its mean, given those before it."""
        gaps = series.own_times.diff(dim=1).T
        units = self.cell.run(self._input(series.x[:, :-1].transpose(0, 1), gaps))
        means: Tensor = self.out(units[1:])
        return means.transpose(0, 1)

    def predict(self, series: Series, at: Tensor) -> Tensor:
        """Return the mean at the times ``at``: in the span a jump from the last observation."""
        own, x = series.own_times, series.x.transpose(0, 1)
        units = self.cell.run(self._input(x[:-1], own.diff(dim=1).T))
        inside = int((at <= series.times[-1]).sum())
        # Index of the last observation before each time; the first one for times without any.
        last = torch.searchsorted(own, at[:inside].expand(len(own), -1).contiguous()) - 1
        last = last.clamp_min(0).T
        columns = torch.arange(len(own)).expand_as(last)
        gaps = at[:inside].unsqueeze(1) - own.T[last, columns]
        drive = self._input(x[last, columns], gaps).flatten(0, 1)
        within = self.out(self.cell(drive, units[last, columns].flatten(0, 1)))
        pace = self._pace(series, at[inside:]) if self.paced else 1
        beyond = self._own_way(x[-1], units[-1], own[:, -1], at[inside:], pace)
        means = torch.cat([within.view(inside, len(own), self.dim), *beyond])
        return _masked(means, at, series)

    def _own_way(
        self, x: Tensor, h: Tensor, before: Tensor, at: Tensor, pace: int
    ) -> list[Tensor]:
        """Return the means at ``at``; fed the observation x, then every ``pace``-th mean."""
        means = []
        for number, t in enumerate(at.unbind(), start=1):
            units = self.cell(self._input(x, t - before), h)
            mean = self.out(units)
            means.append(mean.unsqueeze(0))
            if number % pace == 0:
                x, h, before = mean, units, t.expand_as(before)
        return means

    @staticmethod
    def _pace(series: Series, at: Tensor) -> int:
        """Return how many of the times ``at`` the mean gap between observations takes."""
        points = series.seen.shape[1]
        if len(at) < 2 or points < 2:
            return 1
        gap = (series.times[-1] - series.times[0]) / (points - 1)
        return max(1, round(float(gap / at.diff().mean())))

    def _input(self, x: Tensor, gaps: Tensor) -> Tensor:
        return torch.cat([x, gaps.unsqueeze(-1)], dim=-1) if self.gaps else x


def _of_series(values: Tensor, seen: Tensor) -> Tensor:
    """Pick from ``(time, series, dim)`` what each series has seen: ``(series, points, dim)``."""
    return values[seen, torch.arange(len(seen)).unsqueeze(1)]


def _masked(means: Tensor, at: Tensor, series: Series) -> Tensor:
    """Return ``means`` with nan up to the first observation, before which nothing is known."""
    early = at.unsqueeze(1) <= series.own_times[:, 0]
    return means.masked_fill(early.unsqueeze(-1), torch.nan)
