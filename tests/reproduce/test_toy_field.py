"""The random tanh fields: how they are drawn, how their ends are told, and the rows."""

import math
from pathlib import Path

import pytest
import torch
from contexts import context

from reproduce import random_fields, statistics
from reproduce.experiments import toy_field
from reproduce.records import Record


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("toy")
    return toy_field.run(context(out, seeds=(9,)))


def test_weights_are_uniform_within_glorots_limit_and_belong_to_their_seed() -> None:
    drawn = torch.stack([random_fields.weights(seed) for seed in range(1000)])
    limit = math.sqrt(1.5)
    assert float(drawn.abs().max()) < limit
    assert float(drawn.abs().max()) > 0.999 * limit
    # The variance of a uniform number within ±limit is limit² / 3; 8,000 of them are drawn.
    assert float(drawn.var()) == pytest.approx(limit**2 / 3, rel=0.03)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.03)
    assert torch.equal(random_fields.weights(7), drawn[7])


def test_a_field_is_two_dense_layers_with_tanh_less_a_quarter_of_the_state() -> None:
    x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    first, second = torch.nn.Linear(2, 2).double(), torch.nn.Linear(2, 2).double()
    with torch.no_grad():
        for layer, w in zip((first, second), random_fields.weights(5), strict=True):
            layer.weight.copy_(w.T)
            layer.bias.zero_()
        expected = torch.tanh(second(torch.tanh(first(x)))) - 0.25 * x
    found = random_fields.field([5])(torch.tensor(0.0), x)
    torch.testing.assert_close(found, expected, atol=1e-15, rtol=0)
    # Without biases the field is odd, so the origin is always a place of rest.
    torch.testing.assert_close(random_fields.field([5])(torch.tensor(0.0), -x), -found)


def test_a_field_goes_the_same_way_alone_and_beside_others() -> None:
    times = random_fields.grid()[:200]
    together = random_fields.heun([3, 56, 9], times=times)
    torch.testing.assert_close(together[:, 1:2], random_fields.heun([56], times=times))


def test_one_step_of_heun_averages_the_slopes_at_both_ends() -> None:
    times, f = random_fields.grid()[:2], random_fields.field([4])
    x, h = torch.tensor([[1.0, -1.0]], dtype=torch.float64), float(times[1])
    k1 = f(times[0], x)
    k2 = f(times[1], x + h * k1)
    expected = x + h * (k1 + k2) / 2
    torch.testing.assert_close(
        random_fields.heun([4], times=times)[1], expected, atol=1e-15, rtol=0
    )


def test_the_reference_follows_the_same_field_and_heun_nears_it_as_a_second_order_does() -> None:
    ends = []
    for points in (200, 399):
        times = torch.linspace(0, 20, points, dtype=torch.float64)
        truth = random_fields.reference(56, times)
        ends.append(float((random_fields.heun([56], times=times)[-1, 0] - truth[-1]).norm()))
    assert math.log2(ends[0] / ends[1]) == pytest.approx(2, abs=0.1)


def _spiral(rate: float, length: float) -> torch.Tensor:
    """Return a path of a known kind, ``(time, 1, 2)``: radius exp(-rate t), a period's length."""
    times = random_fields.grid()
    angle = 2 * math.pi * times / length
    radius = torch.exp(-rate * times)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).unsqueeze(1)


@pytest.mark.parametrize(
    ("rate", "length", "kind"),
    [
        (0.0, 7.3, "cycle"),
        (0.0, 130.0, "cycle"),
        (1e-4, 7.3, "unsettled"),  # loses 2 % of its size from window to window
        (-1e-4, 7.3, "unsettled"),
        (0.05, 7.3, "rest"),
        (0.0, 450.0, "unsettled"),  # its period is longer than a window
    ],
)
def test_paths_of_known_kinds_are_told(rate: float, length: float, kind: str) -> None:
    assert random_fields.told(random_fields.grid(), _spiral(rate, length)) == [kind]


@pytest.mark.parametrize("length", [2.1, 10.26, 64.6, 130.0])
def test_the_period_of_a_circle_is_found(length: float) -> None:
    found = random_fields.period(random_fields.grid(), _spiral(0.0, length)[:, 0, 0])
    assert found == pytest.approx(length, rel=2e-4)


def test_a_path_at_rest_has_no_period() -> None:
    assert math.isnan(
        random_fields.period(random_fields.grid(), torch.ones(2000, dtype=torch.float64))
    )


def test_all_fields_are_counted_once_with_wilsons_intervals(rows: list[Record]) -> None:
    values = {(r.row, r.metric): r.value for r in rows}
    for metric in ("count", "count_later"):
        assert sum(values[kind, metric] for kind in random_fields.KINDS) == 60
    for kind in random_fields.KINDS:
        low, high = statistics.binomial_interval(int(values[kind, "count"]), 60)
        assert (values[kind, "share_low"], values[kind, "share_high"]) == (low, high)
        assert low <= values[kind, "share"] <= high


def test_fields_that_settle_late_are_told_when_they_are_followed() -> None:
    seeds = [435, 80]
    paths = random_fields.heun(seeds)
    assert random_fields.told(random_fields.grid(), paths) == ["unsettled"] * 2
    assert toy_field.followed(seeds, paths[-1], 4500.0) == ["cycle", "rest"]
    assert toy_field.followed([], paths[-1, :0], 4500.0) == []


def test_a_path_is_followed_on_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(toy_field, "told", lambda times, paths, windows: seen.append(paths))
    start = torch.tensor([[0.4, 0.2]], dtype=torch.float64)
    toy_field.followed([7], start, 1500.0)
    times = torch.linspace(500, 1500, 2 * 1999 + 1, dtype=torch.float64)
    whole = random_fields.heun([7], start, times)
    torch.testing.assert_close(seen[0][-1], whole[-1], atol=1e-9, rtol=0)


def test_what_settles_later_is_counted_in_place_of_the_unsettled() -> None:
    kinds = ["rest", "unsettled", "cycle", "unsettled", "unsettled"]
    found = toy_field._counts(kinds, ["cycle", "unsettled", "cycle"])
    assert {kind: values["count"] for kind, values in found.items()} == {
        "rest": 1, "cycle": 1, "unsettled": 3
    }  # fmt: skip
    assert {kind: values["count_later"] for kind, values in found.items()} == {
        "rest": 1, "cycle": 3, "unsettled": 1
    }  # fmt: skip


def test_the_speed_is_how_fast_the_path_goes_at_its_end(rows: list[Record]) -> None:
    found = {r.row: r.value for r in rows if r.metric == "speed"}
    for row, seed in (("drawn", 9), ("shown", 56)):
        times = torch.tensor([0.0, 499.999, 500.0], dtype=torch.float64)
        _, before, end = random_fields.reference(seed, times)
        assert found[row] == pytest.approx(float((end - before).norm()) / 1e-3, rel=2e-3)


def test_a_seed_has_all_rows_of_the_figure(rows: list[Record]) -> None:
    assert {r.seed for r in rows} == {9}
    assert {r.row for r in rows} == {*random_fields.KINDS, "shown", "drawn"}


def test_the_seed_asked_for_is_measured_beside_the_lowest_clear_cycle(rows: list[Record]) -> None:
    drawn = {r.metric: r.value for r in rows if (r.row, r.seed) == ("drawn", 9)}
    assert (drawn["is_cycle"], drawn["is_rest"]) == (1, 0)
    assert drawn["period"] < toy_field.CLEAR_PERIOD
    shown = {r.metric: r.value for r in rows if r.row == "shown"}
    assert shown["seed"] == 56
    assert shown["period"] == pytest.approx(shown["heun_period"], rel=1e-3)
    assert 0 < shown["heun_error"] < 0.1
    assert shown["amplitude_1"] > toy_field.CLEAR_AMPLITUDE


def test_figures_show_the_seed_asked_for_above_the_cycle(
    rows: list[Record], tmp_path: Path
) -> None:
    drawn = toy_field.figures(rows, tmp_path)
    titles = [axes.get_title() for axes in drawn[""].axes]
    assert titles[::2] == ["seed 9: limit cycle", "seed 56: limit cycle"]
    colours = [[line.get_color() for line in axes.lines] for axes in drawn[""].axes[::2]]
    assert colours[0] == colours[1]  # of x₁ and x₂, whichever way they end
    assert len(drawn["seeds"].axes) == 28
    without = [r for r in rows if r.row != "shown"]
    assert len(toy_field.figures(without, tmp_path)[""].axes) == 2
    assert not toy_field.table(rows).empty
