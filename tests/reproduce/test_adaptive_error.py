"""The time-dependent net: what is solved, what the errors rest on, and what claim D06 reads."""

import math
from types import SimpleNamespace

import pytest
import torch
from contexts import context

from reproduce.claims import claims
from reproduce.experiments import adaptive_error
from reproduce.records import Record


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("adaptive")
    ctx = context(out, seeds=(3,))
    return adaptive_error.run(ctx)


def _values(rows: list[Record], row: str) -> dict[str, float]:
    return {r.metric: r.value for r in rows if r.row == row}


def test_the_net_is_the_decks_and_its_seed_draws_weights_and_states() -> None:
    net, t = adaptive_error.draw(5), 1.7
    first, second = (torch.nn.Linear(3, 3).double() for _ in range(2))
    with torch.no_grad():
        for layer, w in ((first, net.w1), (second, net.w2)):
            layer.weight.copy_(w.T)
            layer.bias.zero_()
        expected = torch.tanh(second(t * torch.tanh(first(t * net.x0))))
    found = net(torch.tensor(t, dtype=torch.float64), net.x0)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)
    assert net.x0.shape == (7, 3)
    assert max(float(net.w1.abs().max()), float(net.w2.abs().max())) < 1
    assert torch.equal(net.x0, adaptive_error.draw(5).x0)
    assert not torch.equal(net.x0, adaptive_error.draw(6).x0)


def test_rows_belong_to_the_seed_that_was_asked_for(rows: list[Record]) -> None:
    assert {r.seed for r in rows} == {3}


def test_rk4_has_its_order_and_the_reference_is_far_more_exact(rows: list[Record]) -> None:
    rk4 = _values(rows, "rk4")
    assert rk4["order"] == pytest.approx(4, abs=0.1)
    assert _values(rows, "reference")["difference"] < 0.01 * min(
        value for metric, value in rk4.items() if metric.startswith("error")
    )


def test_the_error_of_the_adaptive_solver_falls_with_its_tolerance(rows: list[Record]) -> None:
    found = _values(rows, "dopri5")
    assert found["error_slope_low"] <= found["error_slope"] <= found["error_slope_high"]
    assert found["error_slope"] == pytest.approx(1, abs=0.3)
    assert found["error_1e-10"] < 1e-8 < found["error_1e-2"]


def test_a_step_of_rk4_costs_four_evaluations() -> None:
    for steps in (1, 24):
        settings = adaptive_error._settings("rk4")
        assert adaptive_error.draw(0).solved(settings, steps)[1].nfe_forward == 4 * steps


class _Known:
    """Errs by its tolerance to a power, at a cost that is given."""

    def __init__(self, power: float, costs: list[int]) -> None:
        self.power, self.costs = power, costs

    def solved(self, settings: SimpleNamespace) -> tuple[torch.Tensor, SimpleNamespace]:
        error = torch.full((7, 3), settings.rtol**self.power, dtype=torch.float64)
        return error, SimpleNamespace(nfe_forward=self.costs.pop(0))


def test_what_claim_d06_reads_is_what_it_says() -> None:
    # Of eight steps to a tighter tolerance one costs as much and one costs less.
    net = _Known(0.7, [20, 26, 26, 40, 38, 50, 60, 70, 80])
    found = adaptive_error._adaptive(net, torch.zeros(7, 3))  # type: ignore[arg-type]
    assert found["evaluations_increases"] == 6 / 8
    assert found["error_slope"] == pytest.approx(0.7)
    (claim,) = (claim for claim in claims() if claim.id == "D06")
    assert {(q.row, q.metric) for q in claim.quantities} == {
        ("dopri5", "error_slope"), ("dopri5", "evaluations_increases")
    }  # fmt: skip


def test_tolerances_go_down_by_decades() -> None:
    assert [round(-math.log10(float(name))) for name in adaptive_error.TOLERANCES] == [
        *range(2, 11)
    ]


def test_the_figure_has_evaluations_on_its_axis_and_the_table_a_line_a_seed(
    rows: list[Record],
) -> None:
    left, right = adaptive_error.plot(rows).axes
    assert "evaluations" in left.get_xlabel()
    assert list(left.lines[1].get_xdata()) == [4 * n for n in adaptive_error.STEPS]
    assert "tolerance" in right.get_xlabel()
    assert list(adaptive_error.table(rows).index) == [3]
