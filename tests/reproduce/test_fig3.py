"""Figure 3: marks, what is derived from them, and the course of a training."""

from pathlib import Path

import pytest
from contexts import context

from reproduce import provenance, trained, weights
from reproduce.claims import claims
from reproduce.experiments import fig3
from reproduce.experiments.fig3 import _Mark
from reproduce.records import Record


@pytest.fixture
def rows(small_odenet: Path, mnist_root: str) -> list[Record]:
    ctx = context(small_odenet, data_root=mnist_root)
    return fig3.run(ctx)


def _marks(scale: float) -> dict[str, list[_Mark]]:
    """Marks whose error is a tenth of the tolerance and whose time is linear in evaluations."""
    marks = {}
    for k, tolerance in enumerate(fig3.TOLERANCES):
        forward = 10 + 20 * k
        mark = _Mark(forward, round(scale * forward), 0.1 * float(tolerance), 1 + forward, 1e-4)
        marks[tolerance] = [mark] * 3
    return marks


def test_medians_ratios_and_fits_follow_from_the_marks() -> None:
    values = fig3._summaries(_marks(0.5))
    assert values["nfe_forward_1e-2"] == values["nfe_forward_1e-2_low"] == 50
    assert values["nfe_ratio_1e-3"] == 0.5
    assert values["error_increases"] == 0
    assert values["least_error_over_tolerance"] == pytest.approx(0.1)
    assert values["largest_median_error_over_tolerance"] == pytest.approx(0.1)
    assert values["time_1e-5"] == 1
    assert values["time_fit_r_squared"] == pytest.approx(1)
    assert values["time_fit_intercept"] == pytest.approx(1 / 111)


def test_an_error_that_grows_at_a_tighter_tolerance_is_counted() -> None:
    marks = _marks(1.0)
    marks["1e-3"] = [_Mark(70, 70, 0.5, 71, 1e-4)] * 3
    values = fig3._summaries(marks)
    assert values["error_increases"] == 1
    assert values["largest_error_over_tolerance"] == pytest.approx(500)


def test_a_training_is_judged_by_its_ends_and_its_trend() -> None:
    growing = [(50 * (k + 1), 14.0 + k) for k in range(20)]
    values = fig3._training(growing)
    assert values["nfe_rank_correlation"] == pytest.approx(1)
    assert values["nfe_growth"] == pytest.approx(32.5 / 14.5)
    assert fig3._training([(50, 20.0), (100, 20.0)])["nfe_rank_correlation"] == 0
    assert fig3._training([]) == {}


def test_tighter_tolerances_cost_more_and_err_less(rows: list[Record]) -> None:
    found = {(r.row, r.metric): r.value for r in rows}
    for solver in fig3.SOLVERS:
        assert found[solver, "error_1e-5"] < 0.1 * found[solver, "error_1"]
        assert found[solver, "nfe_forward_1e-5"] > found[solver, "nfe_forward_1"]
        assert found[solver, "nfe_backward_1e-5"] > 0
        assert found[solver, "gradient_scale_1e-3"] > 0
    assert found["training", "nfe_at_250"] == 38
    assert found["training", "nfe_growth"] == pytest.approx(38 / 14)


def test_every_quantity_that_a_claim_names_is_measured(rows: list[Record]) -> None:
    measured = {(r.row, r.metric) for r in rows}
    named = {
        (q.row, q.metric) for claim in claims() for q in claim.quantities if q.experiment == "fig3"
    }
    assert len(named) > 20
    assert named <= measured


def test_table_and_figure_come_from_the_rows(rows: list[Record]) -> None:
    table = fig3.table(rows)
    assert set(table.index) == {(s, t) for s in fig3.SOLVERS for t in fig3.TOLERANCES}
    a, _, c, d = fig3.plot(rows).axes
    assert a.get_yscale() == "log"
    assert c.get_ylabel() == "backward evaluations"
    assert len(d.lines) == 2


def test_rows_say_by_which_norm_and_tolerances_backward_counts_were_made(
    rows: list[Record], small_odenet: Path
) -> None:
    made = provenance.read(small_odenet / "fig3" / "smoke.csv")[rows[0].run]
    solvers = made["settings"]["solvers"]
    assert solvers["dopri5"]["adjoint_norm"] == "per_tensor"
    assert solvers["vode_adams"]["adjoint_norm"] == "rms"


def test_nets_of_all_seeds_are_found_in_their_order(small_odenet: Path) -> None:
    first = small_odenet / "table1" / "weights" / "paper-odenet-seed0.safetensors"
    state, facts = weights.load(first)
    for seed in (10, 2):
        other = first.with_name(f"paper-odenet-seed{seed}.safetensors")
        weights.save(other, state, {**facts, "seed": seed, "run": f"{seed:012}"})
    ctx = context(small_odenet, seeds=(0, 1, 2, 3))
    nets = trained.odenets(ctx, None)
    assert [net.seed for net in nets] == [0, 2, 10]
    assert nets[0].curve("nfe_forward")[0] == (50, 14.0)
    assert nets[1].curve("nfe_forward") == []
    assert trained.odenet(ctx, None).seed == 0
