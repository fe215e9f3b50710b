"""Spirals: how they turn, what is observed of them, and what they depend on."""

import math
from types import SimpleNamespace

import pytest
import torch
from epochs import batches
from torch import Tensor

from datamodules import Spirals
from datamodules.spirals import INNER, OUTER, SPACING

SHAPES = ["inward", "example", "example_reversed"]
SMALL = {"train_size": 40, "test_size": 60, "batch_size": 10, "steps": 3}


def _turning(xy: Tensor) -> Tensor:
    """Return the sum of the angles between successive displacements of each curve."""
    step = xy.double().diff(dim=1)
    a, b = step[:, :-1], step[:, 1:]
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return torch.atan2(cross, (a * b).sum(dim=2)).sum(dim=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_half_turn_clockwise_and_the_label_says_which(shape: str) -> None:
    *_, truth, clockwise = Spirals(shape, **SMALL).fixed("test")
    assert int(clockwise.sum()) == 30
    turned = _turning(truth)
    assert torch.equal(turned < 0, clockwise)
    assert bool((turned.abs() > math.pi).all())


def test_inward_spirals_near_their_centre_and_those_of_the_example_leave_it() -> None:
    *_, truth, clockwise = Spirals("inward", **SMALL).fixed("test")
    radius = truth.norm(dim=2)
    # r falls by 0.3 for every radian, times the scale.
    expected = torch.full_like(radius[:, 1:], -0.3 * 0.3 * SPACING)
    torch.testing.assert_close(radius.diff(dim=1), expected, rtol=0, atol=1e-6)
    for shape, sign in (("example", 1), ("example_reversed", -1)):
        *_, truth, clockwise = Spirals(shape, **SMALL, scale=1.0).fixed("test")
        falling = clockwise if shape == "example" else ~clockwise
        centre = torch.where(falling, -5.0, 5.0)
        radius = (truth - torch.stack([centre, torch.zeros(60)], dim=1)[:, None]).norm(dim=2)
        assert bool((sign * radius.diff(dim=1) > 0).all())


def test_a_mirrored_inward_spiral_is_one_of_the_other_kind() -> None:
    data = Spirals(**SMALL)
    one, other = data.curve(data.times.expand(2, -1), torch.tensor([[True], [False]]))
    assert torch.equal(one * torch.tensor([1.0, -1.0]), other)


def test_the_example_reversed_is_the_example_run_backwards() -> None:
    ahead, back = (Spirals(shape, **SMALL) for shape in ("example", "example_reversed"))
    gone = ahead.times.unsqueeze(0)
    for clockwise in (True, False):
        forwards = ahead.curve(gone, torch.tensor([[clockwise]]))
        backwards = back.curve(OUTER - INNER - gone, torch.tensor([[not clockwise]]))
        torch.testing.assert_close(forwards, backwards, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_test_lies_where_training_trajectories_were_observed(shape: str) -> None:
    sizes = {"train_size": 2000, "batch_size": 2000, "test_size": 500, "steps": 1}

    def innermost(data: Spirals, purpose: str) -> float:
        _, _, truth, clockwise = data.trajectories(purpose, 500)
        kind = truth[clockwise] if shape == "inward" else truth[~clockwise]
        return float(kind.norm(dim=2).min())

    wide, narrow = (Spirals(shape, wide_starts=w, **sizes) for w in (True, False))
    assert innermost(wide, "test") == innermost(narrow, "test")
    if shape == "inward":
        assert innermost(wide, "train") == pytest.approx(innermost(wide, "test"), abs=0.02)
        assert innermost(narrow, "train") > innermost(wide, "train") + 0.2


@pytest.mark.parametrize("points", [30, 50, 100])
def test_points_are_drawn_without_repetition_and_none_lies_in_the_future(points: int) -> None:
    data = Spirals(points=points, **SMALL)
    times, seen, x, at, truth, _ = data.fixed("test")
    assert (seen.shape, x.shape) == ((60, points), (60, points, 2))
    assert len({tuple(own) for own in seen.tolist()}) == (1 if points == 100 else 60)
    assert bool((seen.diff(dim=1) > 0).all())
    assert 0 <= int(seen.min()) <= int(seen.max()) < len(times) == 100
    assert bool((at[100:] > times[-1]).all())
    assert (len(at), truth.shape) == (200, (60, 200, 2))
    torch.testing.assert_close(at.diff(), torch.full((199,), SPACING), rtol=1e-4, atol=0)


def test_observations_are_the_truth_and_noise_of_the_size_asked_for() -> None:
    data = Spirals(points=100, noise=0.2, train_size=40, batch_size=40, test_size=500)
    _, seen, x, _, truth, _ = data.fixed("test")
    noise = x - truth[torch.arange(500).unsqueeze(1), seen]
    assert float(noise.std()) == pytest.approx(0.2, rel=0.02)
    assert abs(float(noise.mean())) < 4 * 0.2 / math.sqrt(noise.numel())
    _, seen, x, _, truth, _ = Spirals(noise=0.0, **SMALL).fixed("test")
    assert torch.equal(x, truth[torch.arange(60).unsqueeze(1), seen])


def test_everything_depends_on_the_seed_alone() -> None:
    first, again, other = (Spirals(data_seed=s, **SMALL) for s in (3, 3, 4))
    for a, b in zip(batches(first), batches(again), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(first.fixed("test")[2], other.fixed("test")[2])
    purposes = [first.fixed(purpose)[4].sum() for purpose in ("train", "val", "test")]
    assert len(set(map(float, purposes))) == 3


def test_every_pass_takes_each_trajectory_once_in_an_order_of_its_own() -> None:
    data = Spirals(**{**SMALL, "steps": 8})
    drawn = [x for _, _, x in batches(data)]
    first, second = torch.cat(drawn[:4]), torch.cat(drawn[4:])
    assert not torch.equal(first, second)
    assert torch.equal(first.flatten(1).sum(1).sort()[0], second.flatten(1).sum(1).sort()[0])


def test_a_loader_goes_on_in_the_middle_of_an_epoch() -> None:
    loader = Spirals(**SMALL).train_dataloader()
    whole = [x for _, _, x in loader]
    iterator = iter(loader)
    next(iterator)
    resumed = Spirals(**SMALL).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    rest = [x for _, _, x in resumed]
    assert len(rest) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], rest, strict=True))


@pytest.mark.parametrize("size", [10, 40])
def test_ranks_share_the_global_batch_of_spirals(size: int) -> None:
    given = {**SMALL, "batch_size": size}
    whole = batches(Spirals(**given))[0][2]
    parts = []
    for rank in range(2):
        data = Spirals(**given)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        parts.append(batches(data)[0][2])
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"points": 101}, "only 100 times"),
        ({"points": 0}, "at least 1"),
        ({"test_size": 0}, "at least 1"),
        ({"noise": -1.0}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"scale": 0.0}, "scale"),
        ({"spacing": 0.2}, "leave the spiral"),
        ({"batch_size": 41}, "only 40 trajectories"),
        ({"shape": "outward"}, "Choose one of inward"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spirals(**{**SMALL, **given})


def test_spirals_that_devices_cannot_share_are_refused() -> None:
    data = Spirals(**{**SMALL, "batch_size": 5})
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="multiple of 2"):
        data.train_dataloader()
