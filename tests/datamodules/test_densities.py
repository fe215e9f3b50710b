"""Points for density models: their distribution, and what they depend on."""

import math
from types import SimpleNamespace

import pytest
import torch
from epochs import batches

from datamodules import BaseNoise, PlaneData
from datamodules.densities import BLOCK


def _points(data: BaseNoise | PlaneData, epoch: int = 0) -> list[torch.Tensor]:
    return [points for (points,) in batches(data, epoch)]


def test_batches_have_members_points_and_coordinates() -> None:
    data = BaseNoise(dim=3, batch_size=4, steps=2, member_seeds=[5, 6], test_points=7)
    assert [batch.shape for batch in _points(data)] == [(2, 4, 3)] * 2
    assert [batch.shape for (batch,) in data.test_dataloader()] == [(2, 7, 3)]


def test_points_depend_on_the_members_seed_and_the_step_alone() -> None:
    given = {"batch_size": 4, "steps": BLOCK + 3}
    both = _points(PlaneData(member_seeds=[5, 6], **given))
    alone = _points(PlaneData(member_seeds=[6], **given))
    assert all(torch.equal(a[1], b[0]) for a, b in zip(both, alone, strict=True))
    whole = _points(PlaneData(member_seeds=[6], batch_size=4, steps=2 * (BLOCK + 3)))
    second = _points(PlaneData(member_seeds=[6], **given), epoch=1)
    halves = [*alone, *second]
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_no_point_trains_validates_and_tests() -> None:
    data = PlaneData(member_seeds=[0], batch_size=10, steps=1, test_points=10)
    sets = [_points(data)[0], data.fixed("val"), data.fixed("test")]
    assert len({float(points.sum()) for points in sets}) == 3


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_share_the_global_batch(ranks: int) -> None:
    parts = []
    for rank in range(ranks):
        data = BaseNoise(batch_size=4, steps=1, member_seeds=[1])
        data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
        parts.append(_points(data)[0])
    whole = _points(BaseNoise(batch_size=4, steps=1, member_seeds=[1]))[0]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_a_batch_that_devices_cannot_share_is_refused() -> None:
    data = BaseNoise(batch_size=5)
    data.trainer = SimpleNamespace(global_rank=0, world_size=2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="multiple of 2"):
        data.train_dataloader()


def test_a_loader_goes_on_inside_an_epoch() -> None:
    data = BaseNoise(batch_size=2, steps=5, member_seeds=[0])
    loader = data.train_dataloader()
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    other = data.train_dataloader()
    other.load_state_dict(loader.state_dict())
    rest = [batch for (batch,) in other]
    assert torch.equal(torch.stack(rest), torch.stack(_points(data)[3:]))


@pytest.mark.parametrize(
    ("name", "noise", "floor"),
    [
        ("moons", 0.08, 0.7756),
        ("moons", 0.10, 1.0078),
        ("circles", 0.06, 0.7876),
        ("circles", 0.08, 1.0709),
    ],
)
def test_the_entropy_of_the_data_is_that_of_the_fact_sheet(
    name: str, noise: float, floor: float
) -> None:
    data = PlaneData(name, noise=noise, test_points=40_000, member_seeds=[0])
    values = -data.log_density(data.fixed("test")[0])
    error = float(values.std()) / math.sqrt(len(values))
    assert float(values.mean()) == pytest.approx(floor, abs=4 * error + 1e-4)


@pytest.mark.parametrize("name", ["moons", "circles"])
def test_the_density_of_the_data_integrates_to_one(name: str) -> None:
    axis = torch.linspace(-2.5, 2.5, 201)
    points = torch.cartesian_prod(axis, axis)
    mass = PlaneData(name).log_density(points).exp().sum() * (5 / 200) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("given", [{"batch_size": 0}, {"steps": 0}, {"test_points": 0},
                                   {"noise": 0.0}, {"name": "spiral"}])  # fmt: skip
def test_sizes_and_names_that_cannot_be_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"give|Choose"):
        PlaneData(**given)  # type: ignore[arg-type]
