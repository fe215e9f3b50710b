"""Known systems and windows of their paths: what is true, what is drawn, and what is refused."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from epochs import batches
from torch import Tensor

from datamodules import NoSolution, System, Windows, find_system

SPIRAL = find_system("spiral")
SMALL = {"span": 5.0, "grid": 200, "points": 6, "batch_size": 8, "steps": 4, "data_seed": 3}


def _times(*ticks: float) -> Tensor:
    return torch.tensor(ticks, dtype=torch.float64)


def test_a_reference_is_the_closed_form_where_there_is_one() -> None:
    turning = System("turning", lambda t, y: y @ np.array([[0.0, 1.0], [-1.0, 0.0]]), (1.0, 0.0))
    driven = System("driven", lambda t, y: t * y, (0.3,))
    times = torch.linspace(0, 20, 57, dtype=torch.float64)
    circle = torch.stack([times.cos(), times.sin()], dim=1)
    torch.testing.assert_close(turning.reference(times), circle, rtol=0, atol=1e-11)
    short = times / 10
    grown = 0.3 * (short.square() / 2).exp().unsqueeze(1)
    torch.testing.assert_close(driven.reference(short), grown, rtol=1e-11, atol=0)


def test_the_quartic_of_the_spiral_falls_by_what_its_sixth_powers_say() -> None:
    """d(x⁴ + y⁴)/dt = -0.4 (x⁶ + y⁶): what turns the state cancels."""
    times = torch.linspace(0, 6, 20_001, dtype=torch.float64)
    path = SPIRAL.reference(times)
    loss = 0.4 * path.pow(6).sum(dim=1)
    step = float(times[1])
    simpson = step / 3 * (loss[0:-2:2] + 4 * loss[1:-1:2] + loss[2::2]).sum()
    fallen = path[0].pow(4).sum() - path[-1].pow(4).sum()
    assert float(fallen - simpson) == pytest.approx(0, abs=1e-9)


def test_a_reference_goes_back_to_where_it_came_from() -> None:
    there = SPIRAL.reference(_times(0, 3, 12))
    back = SPIRAL.reference(_times(12, 3, 0), there[-1])
    torch.testing.assert_close(back.flip(0), there, rtol=0, atol=1e-9)


def test_slopes_are_those_of_the_reference() -> None:
    width = 1e-4
    path = SPIRAL.reference(torch.linspace(0, 1, 21, dtype=torch.float64))
    near = torch.stack([SPIRAL.reference(_times(0, width), y)[1] for y in path])
    far = torch.stack([SPIRAL.reference(_times(0, -width), y)[1] for y in path])
    found = SPIRAL.slopes(0.0, path)
    torch.testing.assert_close((near - far) / (2 * width), found, rtol=0, atol=1e-3)


def test_backwards_the_spiral_ends_in_finite_time_and_the_message_says_when() -> None:
    before = SPIRAL.reference(_times(0, -1.39))
    assert float(before[-1].norm()) > 50
    with pytest.raises(NoSolution, match="it ends at about -1\\.3908") as raised:
        SPIRAL.reference(_times(0, -2))
    assert raised.value.time == pytest.approx(-1.3908, abs=1e-3)


@pytest.mark.parametrize(
    ("times", "y0"),
    [
        (_times(0, 1, 1), None),
        (_times(0, 1, 0.5), None),
        (_times(0), None),
        (_times(0, math.inf), None),
        (torch.zeros(2, 2), None),
        (_times(0, 1), _times(1)),
        (_times(0, 1), _times(1, math.nan)),
    ],
)
def test_times_and_states_that_no_reference_has_are_refused(
    times: Tensor, y0: Tensor | None
) -> None:
    with pytest.raises(ValueError, match=r"give at least two|takes 2 finite numbers"):
        SPIRAL.reference(times, y0)


def test_windows_are_pieces_of_the_path() -> None:
    data = Windows(**SMALL)
    (times, whole), seen = next(iter(data.test_dataloader())), set()
    assert (times.shape, whole.shape) == ((200,), (1, 200, 2))
    torch.testing.assert_close(whole[0], SPIRAL.reference(times))
    for ticks, windows in batches(data):
        assert torch.equal(ticks, times[:6])
        first = torch.cdist(windows[:, 0], whole[0]).argmin(dim=1)
        assert len(set(first.tolist())) == 8
        assert torch.equal(windows, whole[0][first.unsqueeze(1) + torch.arange(6)])
        seen |= set(first.tolist())
    assert len(seen) > 20


def test_every_start_comes_up_and_none_leaves_the_path() -> None:
    data = Windows(**{**SMALL, "grid": 12, "batch_size": 7, "steps": 1})
    ((_, windows),) = batches(data)
    first = torch.cdist(windows[:, 0], data.path).argmin(dim=1)
    assert sorted(first.tolist()) == list(range(7))


def test_a_late_window_ends_one_point_further_and_is_else_the_same() -> None:
    late, path = Windows(**SMALL, late=1), Windows(**SMALL).path
    for _, windows in batches(late):
        first = torch.cdist(windows[:, 0], path).argmin(dim=1)
        assert torch.equal(windows[:, :-1], path[first.unsqueeze(1) + torch.arange(5)])
        assert torch.equal(windows[:, -1], path[first + 6])
    _, whole = next(iter(late.test_dataloader()))
    assert torch.equal(whole[0], path)


def test_windows_depend_on_seed_and_step_alone() -> None:
    first, again, other = (batches(Windows(**{**SMALL, "data_seed": s})) for s in (3, 3, 4))
    for (_, a), (_, b), (_, c) in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    longer = batches(Windows(**{**SMALL, "steps": 2}), epoch=1)
    for (_, a), (_, b) in zip(first[2:], longer, strict=True):
        assert torch.equal(a, b)


def test_windows_go_on_in_the_middle_of_an_epoch() -> None:
    loader = Windows(**SMALL).train_dataloader()
    whole = [path for _, path in loader]
    next(iter(loader))
    resumed = Windows(**SMALL).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    rest = [path for _, path in resumed]
    assert len(rest) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))


def test_ranks_share_the_global_batch_of_windows() -> None:
    whole, parts = batches(Windows(**SMALL))[0][1], []
    for rank in range(2):
        data = Windows(**SMALL)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        parts.append(batches(data)[0][1])
    assert torch.equal(torch.cat(parts), whole)
    data.trainer = SimpleNamespace(global_rank=0, world_size=3)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="8 windows cannot be shared equally by 3"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"system": "helix"}, "Choose one of spiral"),
        ({"span": 0.0}, "above 0"),
        ({"points": 1}, "points is 1; give at least 2"),
        ({"late": -1}, "late is -1; give at least 0"),
        ({"steps": 0}, "at least 1"),
        ({"batch_size": 196}, "begin at 195 different ones"),
        ({"grid": 5}, "begin at 0 different ones"),
    ],
)
def test_windows_that_cannot_be_drawn_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windows(**{**SMALL, **given})
