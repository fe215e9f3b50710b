"""Timing: every alternative once a round, and ratios within a round."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from reproduce.timing import Timing, _own_times, interleave, shares


def test_alternatives_take_turns_and_warm_up_is_not_timed() -> None:
    calls: list[str] = []
    timings = interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warm_up=2
    )
    assert calls == ["a", "b"] * 5
    assert {name: len(timing.seconds) for name, timing in timings.items()} == {"a": 3, "b": 3}


def test_a_time_is_at_least_what_the_work_took() -> None:
    timing = interleave({"sleep": lambda: time.sleep(0.01)}, rounds=2, warm_up=0)["sleep"]
    assert min(timing.seconds) >= 0.01


def test_median_spread_and_ratio_within_rounds() -> None:
    slow, fast = Timing((4.0, 40.0, 8.0)), Timing((1.0, 10.0, 4.0))
    assert (slow.median, slow.spread) == (8.0, 18.0)
    assert slow.ratio_to(fast) == 4.0


def test_a_spread_needs_two_rounds() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        interleave({}, rounds=1)


def test_shares_are_parts_of_the_whole_and_name_the_operator_that_takes_longest() -> None:
    matrix, row = torch.rand(300, 300), torch.rand(300)
    found = shares(lambda: (matrix @ matrix, row.exp()), {"products": ("mm",), "exp": ("exp",)})
    assert set(found) == {"products", "exp", "other"}
    assert sum(found.values()) == pytest.approx(1)
    assert found["products"] > found["exp"] > 0


def test_operators_on_a_gpu_take_the_time_of_their_kernels() -> None:
    def event(key: str, device: DeviceType, cpu: float, gpu: float) -> SimpleNamespace:
        return SimpleNamespace(
            key=key, device_type=device, self_cpu_time_total=cpu, self_device_time_total=gpu
        )

    launched = [event("aten::mm", DeviceType.CPU, 5.0, 70.0),
                event("aten::view", DeviceType.CPU, 2.0, 0.0)]  # fmt: skip
    kernel = event("gemm", DeviceType.CUDA, 0.0, 70.0)
    assert _own_times([*launched, kernel]) == {"aten::mm": 70.0, "aten::view": 0.0}
    for operator in launched:
        operator.self_device_time_total = 0.0
    assert _own_times(launched) == {"aten::mm": 5.0, "aten::view": 2.0}
