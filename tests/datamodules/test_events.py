"""Events: how many there are, when they happen, what they depend on, and what is refused."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from datamodules import PoissonEvents

SHAPES = ["bumps", "wave"]


def _shares(data: PoissonEvents, sequences: list[Tensor]) -> Tensor:
    """Return Λ(t)/Λ(T) of all events: uniform for events of this intensity."""
    whole = data.expected_count(torch.tensor(data.horizon))
    return data.expected_count(torch.cat(sequences)) / whole


@pytest.mark.parametrize("shape", SHAPES)
def test_the_integral_is_that_of_the_intensity_and_the_rate_its_mean(shape: str) -> None:
    data = PoissonEvents(shape, rate=2.5, horizon=8.0)
    for end in (1.3, 4.0, 8.0):
        expected, _ = integrate.quad(lambda t: float(data.intensity(torch.tensor(t))), 0, end)
        assert float(data.expected_count(torch.tensor(end))) == pytest.approx(expected, rel=1e-6)
    assert float(data.expected_count(torch.tensor(8.0))) == pytest.approx(2.5 * 8.0)
    assert float(data.expected_count(torch.tensor(0.0))) == 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_have_the_mean_and_the_variance_of_a_poisson_distribution(shape: str) -> None:
    counts = torch.tensor(
        [len(s) for s in PoissonEvents(shape, rate=1.5, horizon=10.0).sequences("test", 800)]
    ).double()
    # Four standard errors: of a mean √(15/n), of a variance about 15 √(2/n).
    assert float(counts.mean()) == pytest.approx(15, abs=4 * math.sqrt(15 / 800))
    assert float(counts.var()) == pytest.approx(15, abs=4 * 15 * math.sqrt(2 / 800))


@pytest.mark.parametrize("shape", SHAPES)
def test_times_follow_the_intensity_and_no_other(shape: str) -> None:
    data = PoissonEvents(shape)
    sequences = data.sequences("test", 200)
    assert stats.kstest(_shares(data, sequences), "uniform").pvalue > 0.01
    other = PoissonEvents(next(s for s in SHAPES if s != shape))
    assert stats.kstest(_shares(other, sequences), "uniform").pvalue < 1e-10


def test_waiting_times_are_exponential_once_time_is_measured_by_the_integral() -> None:
    """One behind the other, sequences are one process of unit rate: nothing repels or attracts."""
    data = PoissonEvents("bumps")
    whole = float(data.expected_count(torch.tensor(data.horizon)))
    sequences = data.sequences("test", 200)
    rescaled = torch.cat([data.expected_count(s) + k * whole for k, s in enumerate(sequences)])
    assert stats.kstest(rescaled.diff(), "expon").pvalue > 0.01


def test_a_batch_has_the_sequences_one_behind_the_other_and_the_truth() -> None:
    data = PoissonEvents(test_size=30, data_seed=2)
    times, lengths, horizon, at, truth, at_events, expected = data.fixed("test")
    parts = times.split(lengths.tolist())
    assert all(torch.equal(a, b) for a, b in zip(parts, data.sequences("test", 30), strict=True))
    assert all(bool((part.diff() > 0).all()) for part in parts)
    assert times.dtype == torch.float64
    assert 0 <= float(times.min()) <= float(times.max()) <= float(horizon) == 10.0
    assert (float(at[0]), float(at[-1])) == (0.0, 10.0)
    torch.testing.assert_close(truth, data.intensity(at))
    torch.testing.assert_close(at_events, data.intensity(times))
    assert float(expected) == pytest.approx(30.0)
    assert len(data.fixed("val")[1]) == 30


def test_everything_depends_on_the_seed_and_few_sequences_are_the_first_of_many() -> None:
    few, many = (PoissonEvents(data_seed=3).sequences("train", count) for count in (2, 5))
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))
    first = {
        float(PoissonEvents(data_seed=seed).sequences(purpose, 1)[0][0])
        for seed in (3, 4)
        for purpose in ("train", "val", "test")
    }
    assert len(first) == 6
    assert float(few[0][0]) in first


def test_every_update_of_an_epoch_takes_all_sequences() -> None:
    data = PoissonEvents(batch_size=4, steps=3)
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.train_dataloader()) == 3
    for times, lengths, _ in batches:
        assert torch.equal(times, torch.cat(data.sequences("train", 4)))
        assert len(lengths) == 4


def test_ranks_share_the_sequences() -> None:
    parts = []
    for rank in range(2):
        data = PoissonEvents(batch_size=6)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        parts.append(next(iter(data.train_dataloader())))
    whole = next(iter(PoissonEvents(batch_size=6).train_dataloader()))
    for k in range(2):
        assert torch.equal(torch.cat([part[k] for part in parts]), whole[k])


def test_a_sequence_may_be_empty() -> None:
    data = PoissonEvents(rate=0.1, horizon=5.0, batch_size=20)
    times, lengths, _ = next(iter(data.train_dataloader()))
    assert 0 in lengths.tolist()
    assert int(lengths.sum()) == len(times) > 0


def test_where_nothing_happens_there_is_nothing_to_learn_or_to_test_with() -> None:
    data = PoissonEvents(rate=1e-9, batch_size=2)
    with pytest.raises(ValueError, match=r"Nothing happens in 2 sequence.*Raise rate"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="Nothing happens in 100"):
        data.test_dataloader()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rate": -1.0}, "rate is -1.0"),
        ({"rate": math.nan}, "rate is nan"),
        ({"horizon": 0.0}, "horizon is 0.0"),
        ({"horizon": math.inf}, "horizon is inf"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"test_size": 0}, "test_size is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"shape": "square"}, "Choose one of bumps, wave"),
    ],
)
def test_what_no_process_can_have_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoissonEvents(**given)
