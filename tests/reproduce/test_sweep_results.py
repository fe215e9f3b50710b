"""What a sweep shows: causes over seeds, and nothing by a single one."""

import math
from dataclasses import replace

import pytest

from reproduce import statistics, sweep_results
from reproduce.experiments import table2_sweep
from reproduce.records import Record

BASE, WIDE, HELD = "base-latent_ode", "units_100-latent_ode", "base-rnn_hold"
SEVERAL = {
    BASE: [0.50, 0.55, 0.60],
    WIDE: [0.07, 0.08, 0.09],
    "two_layers-latent_ode": [0.30, 0.60, 0.52],
    "base-rnn": [0.13, 0.12, 0.14],
    HELD: [0.47, 0.45, 0.46],
    "fast-latent_ode": [0.5],
}


def _rows(errors: dict[str, list[float]]) -> list[Record]:
    return [
        Record("table2_sweep", row, metric, value, "", seed, "short", 1, "2,000 updates of Adam",
               "", "cpu", f"{seed:012x}", "ok")
        for row, found in errors.items()
        for seed, value in enumerate(found)
        for metric in ("rmse", "rmse_span")
    ]  # fmt: skip


def test_failed_trainings_and_other_metrics_are_left_out() -> None:
    rows = _rows({BASE: [0.5, 0.6]})
    failed = replace(rows[0], seed=2, value=math.nan, status="diverged")
    assert sweep_results.values([*rows, failed], "rmse") == {BASE: [0.5, 0.6]}


def test_a_row_is_compared_with_the_row_that_it_changes_where_both_have_seeds() -> None:
    found = sweep_results.differences(SEVERAL)
    assert set(found) == {WIDE, "two_layers-latent_ode", HELD}
    expected = statistics.welch_interval(SEVERAL[WIDE], SEVERAL[BASE])
    assert found[WIDE] == expected
    assert found[HELD].value == pytest.approx(0.33)


def test_holms_procedure_says_what_is_shown() -> None:
    assert sweep_results.shown(SEVERAL) == [WIDE, HELD]
    assert sweep_results.shown({row: found[:1] for row, found in SEVERAL.items()}) == []


def test_one_seed_shows_no_cause_and_several_say_which() -> None:
    one = table2_sweep.findings(_rows({row: found[:1] for row, found in SEVERAL.items()}))
    assert "no cause is shown" in one
    assert f"`{HELD}` (0.470; paper 0.394)" in one
    assert f"`{WIDE}` (0.070)" in one
    assert "Welch" not in one
    several = table2_sweep.findings(_rows(SEVERAL))
    assert f"a cause is shown in `{WIDE}`, `{HELD}`." in several
    assert "over these 3" in several
    assert "All other rows are one seed each" in several


def test_the_table_has_means_intervals_and_differences() -> None:
    shown = table2_sweep.table(_rows(SEVERAL))
    assert shown.loc["base", "latent_ode"] == "0.550 ± 0.050, n = 3 [0.550]"
    assert shown.loc["units_100", "latent_ode against base"].startswith("-0.470 (")
    assert shown.loc["fast", "latent_ode"] == "0.500 [0.500]"
    single = table2_sweep.table(_rows({BASE: [0.5], "base-rnn": [0.1]}))
    assert list(single.columns) == ["rnn", "latent_ode", "rnn over latent_ode"]


def test_the_figure_has_differences_where_there_are_seeds() -> None:
    assert len(table2_sweep.plot(_rows(SEVERAL)).axes) == 2
    assert len(table2_sweep.plot(_rows({BASE: [0.5]})).axes) == 1
