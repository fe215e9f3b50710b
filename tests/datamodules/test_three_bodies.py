"""Three bodies on springs: what is conserved, what is observed, and what is refused."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from epochs import batches

from datamodules import SpringObservations, springs

STIFFNESS, REST = (4.0, 2.0, 3.0), (1.0, 1.2, 1.1)
SMALL = {"span": 2.0, "observations": 12, "future": 2.0, "grid": 9, "batch_size": 12, "steps": 3}
SMALL |= {"first": 4, "data_seed": 3}


def _data(**given: Any) -> SpringObservations:
    return SpringObservations(**{**SMALL, **given})


def test_springs_pull_as_computed_by_hand() -> None:
    """Sides of 3, 4 and 5 with rest lengths of 1 pull by 2 · 2, 3 · 3 and 5 · 4."""
    system = springs((2.0, 3.0, 5.0), (1.0, 1.0, 1.0))
    y = torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    expected = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 9.0, -16.0, 16.0, 12.0, -25.0]
    found = system.slopes(0.0, torch.stack([y, y])).tolist()
    assert found[0] == pytest.approx(expected)
    assert found[1] == found[0]


def test_equal_springs_breathe_in_a_closed_form() -> None:
    """With all bodies pulled outwards alike, a side s obeys s'' = -3 k (s - l)."""
    system = springs((2.0, 2.0, 2.0), (1.0, 1.0, 1.0))
    start = torch.tensor(system.start, dtype=torch.float64) * 1.2
    times = torch.linspace(0, 12, 49, dtype=torch.float64)
    path = system.reference(times, start)
    side = (path[:, 0:2] - path[:, 2:4]).norm(dim=1)
    expected = 1 + 0.2 * (math.sqrt(6.0) * times).cos()
    torch.testing.assert_close(side, expected, rtol=0, atol=1e-10)


def test_bodies_at_rest_on_the_triangle_stay_there() -> None:
    system = springs(STIFFNESS, REST)
    start = torch.tensor(system.start, dtype=torch.float64)
    assert float(system.slopes(0.0, start).abs().max()) < 1e-12
    corners = start[:6].view(3, 2)
    assert torch.pdist(corners).tolist() == pytest.approx(REST)


def test_the_truth_conserves_energy_momentum_and_angular_momentum() -> None:
    data = SpringObservations(data_seed=1)
    path = data.system.reference(data.at, data.start)
    x, v = path[:, :6].view(-1, 3, 2), path[:, 6:].view(-1, 3, 2)
    sides = [(x[:, i] - x[:, j]).norm(dim=1) for i, j in ((0, 1), (0, 2), (1, 2))]
    springs_hold = zip(STIFFNESS, sides, REST, strict=True)
    energy = v.square().sum(dim=(1, 2)) / 2
    energy = energy + sum(k * (side - rest) ** 2 / 2 for k, side, rest in springs_hold)
    turning = (x[..., 0] * v[..., 1] - x[..., 1] * v[..., 0]).sum(dim=1)
    assert float((energy - energy[0]).abs().max()) < 1e-9
    assert float((turning - turning[0]).abs().max()) < 1e-9
    assert float(turning[0].abs()) > 0.5
    assert float(v.sum(dim=1).abs().max()) < 1e-9
    assert float(x.sum(dim=1).abs().max()) < 1e-9
    assert float(max(side.max() - side.min() for side in sides)) > 0.2  # they do swing


def test_observations_are_the_truth_and_noise_of_the_stated_size() -> None:
    data = _data(observations=400, batch_size=400, noise=0.05)
    noise = data.observed - data.true_positions(data.times)
    assert float(noise.std()) == pytest.approx(0.05, rel=0.05)
    assert abs(float(noise.mean())) < 0.005
    later = data.true_positions(torch.tensor([0.7, 1.3]))
    whole = data.true_positions(torch.tensor([0.0, 0.7, 1.3]))
    torch.testing.assert_close(later, whole[1:], rtol=0, atol=1e-10)


def test_the_test_has_all_observations_and_the_truth_behind_them() -> None:
    data = _data()
    times, x, seen, at, truth = next(iter(data.test_dataloader()))
    assert torch.equal(seen, torch.arange(12))
    assert torch.equal(x, data.observed)
    assert (float(times[-1]), float(at[-1])) == (2.0, 4.0)
    torch.testing.assert_close(truth[0], data.start[:6])


def test_everything_depends_on_seed_and_step_alone() -> None:
    first, again, other = (_data(data_seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.start, again.start)
    assert torch.equal(first.observed, again.observed)
    assert not torch.allclose(first.start, other.start)
    noises = [d.observed - d.true_positions(d.times) for d in (first, other)]
    assert not torch.allclose(*noises)
    part = {"batch_size": 5, "first": 12}
    whole = batches(_data(**part))
    resumed = batches(_data(**part, steps=1), epoch=2)
    assert torch.equal(whole[2][2], resumed[0][2])
    assert not torch.equal(whole[1][2], whole[2][2])


def test_the_span_grows_from_its_beginning() -> None:
    data = _data(growth=6, steps=8)
    assert [data.seen(step) for step in range(8)] == [4, 4, 8, 8, 12, 12, 12, 12]
    for step, (times, x, seen) in enumerate(batches(data)):
        assert torch.equal(seen, torch.arange(data.seen(step)))
        assert (len(times), len(x)) == (12, 12)
    assert _data().seen(0) == 12
    # Thirds of a growth that they do not divide, and a last part that is smaller.
    uneven = [_data(first=5, growth=7).seen(step) for step in range(8)]
    assert uneven == [5, 5, 5, 10, 10, 12, 12, 12]


def test_ranks_share_the_observations_of_an_update() -> None:
    whole, parts = batches(_data(growth=4)), []
    for rank in range(2):
        data = _data(growth=4)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        parts.append(batches(data))
    for both, one, other in zip(whole, *parts, strict=True):
        assert len(one[2]) == len(other[2])
        assert torch.equal(torch.cat([one[2], other[2]]).sort().values, both[2])
    data.trainer = SimpleNamespace(global_rank=0, world_size=3)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="cannot be shared equally by 3"):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stiffness": (1.0, -1.0, 1.0)}, "stiffness is .* above 0"),
        ({"stiffness": (1.0, 1.0)}, "give three finite numbers"),
        ({"rest_lengths": (1.0, 0.0, 1.0)}, "rest_lengths is .* above 0"),
        ({"rest_lengths": (1.0, 1.0, 2.0)}, "sides of no triangle"),
        ({"span": 0.0}, "span is 0.0"),
        ({"future": math.inf}, "future is inf"),
        ({"noise": 0.0}, "noise is 0.0; give a finite number above 0"),
        ({"speed": -1.0}, "speed is -1.0"),
        ({"observations": 4}, "observations is 4; give at least 5"),
        ({"first": 0}, "first is 0"),
        ({"growth": -1}, "growth is -1"),
        ({"steps": 0}, "steps is 0"),
        ({"grid": 1}, "grid is 1; give at least 2"),
        ({"batch_size": 13}, "there are 12 observations"),
        ({"first": 13}, "there are 12 observations"),
    ],
)
def test_observations_that_cannot_be_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _data(**given)


def test_the_path_has_no_times_before_it_begins() -> None:
    with pytest.raises(ValueError, match="begins at 0"):
        _data().true_positions(torch.tensor([-1.0, 1.0]))
