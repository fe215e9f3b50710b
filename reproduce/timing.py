"""Times alternatives side by side, so that a noisy machine disturbs all of them alike."""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Repeated measurements of one alternative.

    Args:
        seconds: Wall-clock time of each round, in order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, in seconds."""
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return (third - first) / 2

    def ratios_to(self, other: "Timing") -> list[float]:
        """This time divided by the other's in the same round, for every round."""
        return [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]

    def ratio_to(self, other: "Timing") -> float:
        """The median over rounds of this time divided by the other's in the same round."""
        return statistics.median(self.ratios_to(other))


def interleave(
    alternatives: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Time all alternatives once a round, after untimed rounds that compile and allocate.

    Args:
        alternatives: What to time, by name.
        rounds: Timed rounds, at least two.
        warm_up: Untimed rounds before them.

    Returns:
        The timings by name; round k of each was measured right after round k of the others.
    """
    if rounds < 2:
        raise ValueError(f"rounds is {rounds}; a spread needs at least 2.")
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(-warm_up, rounds):
        for name, work in alternatives.items():
            _, taken = timed(work)
            if number >= 0:
                seconds[name].append(taken)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what ``work`` returns and the seconds it took, a GPU's included."""
    _wait()
    start = time.perf_counter()
    result = work()
    _wait()
    return result, time.perf_counter() - start


def shares(work: Callable[[], object], kinds: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return which part of its time ``work`` spends in which kind of operator.

    The time of an operator is that of its kernels where anything ran on a GPU; else that on the
    CPU without the operators it calls, of which profiling makes each a little longer.

    Args:
        work: What to profile; it runs three times before.
        kinds: For each kind, beginnings of the names of its operators.

    Returns:
        Parts of the whole by kind, and those of all other operators as ``other``.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        work()
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for _ in range(3):
            work()
        _wait()
    found = dict.fromkeys([*kinds, "other"], 0.0)
    for operator, spent in _own_times(profiler.key_averages()).items():
        name = operator.removeprefix("aten::")
        fits = (kind for kind, starts in kinds.items() if name.startswith(tuple(starts)))
        found[next(fits, "other")] += spent
    total = sum(found.values())
    return {kind: time / total for kind, time in found.items()}


def _own_times(events: Iterable[Any]) -> Mapping[str, float]:
    """Return the times of operators by name, on the GPU if anything was there."""
    from torch.autograd import DeviceType

    # Kernels are events too, and their times also those of the operators that launch them.
    operators = [event for event in events if event.device_type == DeviceType.CPU]
    on_gpu, on_cpu = Counter[str](), Counter[str]()
    for event in operators:
        on_gpu[event.key] += event.self_device_time_total
        on_cpu[event.key] += event.self_cpu_time_total
    return on_gpu if any(on_gpu.values()) else on_cpu


def _wait() -> None:
    """Wait for the GPU: its work is only queued when a call returns."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
