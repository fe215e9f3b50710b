import math
from dataclasses import replace

import pytest
from sample import ROW

from reproduce.compare import ComparisonRow, comparison, render

ONE = replace(ROW, value=1.93, profile="quick", budget="0.64 of an epoch, batch 128")
FAILED = replace(ONE, value=math.nan, status="solver_failed", hint="Loosen rtol.")
FIVE = [
    replace(ONE, seed=seed, value=value, profile="short")
    for seed, value in enumerate((0.5, 0.52, 0.54, 0.56, 0.58))
]


def _row(rows: list[ComparisonRow], row: str, metric: str) -> ComparisonRow:
    (found,) = [r for r in rows if (r.row, r.metric) == (row, metric)]
    return found


def _cells(text: str, row: str, metric: str) -> list[str]:
    """Return this run, shipped and paper of the line that begins with row and metric."""
    table = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines()]
    (found,) = [c for c in table if c[0] == row and c[1].split(" [")[0] == metric]
    return found[2:]


def test_without_any_record_the_paper_stands_alone() -> None:
    rows = comparison([], [], "table1")
    assert [r.row for r in rows if r.metric == "test_error"] == [
        "mlp",
        "mlp_deskewed",
        "resnet",
        "rknet",
        "odenet",
    ]
    text = render(rows)
    assert _cells(text, "odenet", "test_error") == ["–", "–", "0.42"]
    assert _cells(text, "resnet", "parameters") == ["–", "–", "600,000"]
    assert "verdict" not in text


def test_one_seed_is_shown_as_such_and_carries_no_verdict() -> None:
    text = render(comparison([ONE], FIVE, "table1"))
    this, shipped, paper = _cells(text, "odenet", "test_error")
    assert this == "1.93 (1 seed, quick)"
    assert shipped == "0.54 ± 0.03 (5 seeds, short)"
    assert paper == "0.42"
    assert text.splitlines()[-1] == "No verdict below 5 seeds: one seed carries none."


def test_five_seeds_are_not_told_that_they_are_too_few() -> None:
    assert "No verdict" not in render(comparison(FIVE, [], "table1"))


def test_failures_are_counted_beside_the_values() -> None:
    failures = [replace(FAILED, seed=1), replace(FAILED, seed=2)]
    this = _cells(render(comparison([ONE, *failures], [], "table1")), "odenet", "test_error")[0]
    assert this == "1.93 (1 seed, quick); failed: solver_failed (2 of 3)"
    this = _cells(render(comparison(failures, [], "table1")), "odenet", "test_error")[0]
    assert this == "failed: solver_failed (2 of 2)"


@pytest.mark.parametrize("order", [1, -1])
def test_the_shipped_evidence_that_says_most_is_shown(order: int) -> None:
    changed = replace(ONE, profile="paper", overrides="model.stem=conv")
    shipped = [ONE, *FIVE, changed, replace(ONE, profile="smoke", protocol=9)][::order]
    row = _row(comparison([], shipped, "table1"), "odenet", "test_error")
    assert row.shipped is not None
    assert (row.shipped.profile, row.shipped.n_ok) == ("short", 5)


def test_measured_memory_and_time_stand_beside_the_papers_orders_of_growth() -> None:
    memory = replace(ONE, metric="peak_memory", value=412.25, unit="MiB")
    rows = comparison([memory, replace(memory, row="mlp")], [], "table1")
    assert not [r for r in rows if r.metric == "peak_memory"]
    text = render(rows)
    assert "memory [MiB]" in text
    assert "parameters [" not in text
    assert _cells(text, "odenet", "memory") == ["412.2 (1 seed, quick)", "–", "O(1)"]
    assert _cells(text, "odenet", "time") == ["–", "–", "O(L~)"]
    assert _cells(text, "mlp", "memory")[2] == "–"


def test_changed_settings_are_marked_and_stand_on_their_own_line() -> None:
    changed = replace(ONE, overrides="model.solver.rtol=0.1", value=2.5)
    text = render(comparison([ONE, changed], [], "table1"))
    lines = [line for line in text.splitlines() if line.startswith("odenet") and "%" in line]
    assert "1.93 (1 seed, quick) " in lines[0]
    mark = lines[1].split("quick) ")[1][:3]
    assert f"{mark} Settings changed: model.solver.rtol=0.1; not comparable" in text


def test_rows_of_different_protocols_are_said_not_to_compare() -> None:
    text = render(comparison([replace(ONE, protocol=2)], FIVE, "table1"))
    assert "Shipped under protocol 1, this run under protocol 2" in text


def test_a_footnote_of_the_paper_is_printed_once() -> None:
    text = render(comparison([], [], "table1"))
    assert _cells(text, "mlp", "test_error")[2] == "1.60 [1]"
    assert _cells(text, "mlp_deskewed", "test_error")[2] == "1.60 [1]"
    assert text.count("LeCun et al. (1998)") == 1
    notes = [line for line in text.splitlines() if "|" not in line and "-+-" not in line]
    assert max(len(line) for line in notes) <= 100


def test_rows_and_metrics_that_the_paper_lacks_come_after_its_own() -> None:
    mine = [replace(ONE, row="my_model"), replace(ONE, metric="nfe", unit="", value=20.0)]
    rows = comparison(mine, [], "table1")
    assert rows[-1].row == "my_model"
    assert [r.metric for r in rows if r.row == "odenet"][-1] == "nfe"
    assert rows[-1].paper is None


def test_records_of_other_experiments_are_left_out() -> None:
    other = replace(ONE, experiment="other")
    assert comparison([other], [other], "table1") == comparison([], [], "table1")
    assert render(comparison([ONE], [], "unheard_of")) == "Nothing to compare."


def test_the_columns_of_the_table_line_up() -> None:
    text = render(comparison([ONE, replace(FAILED, row="rknet")], FIVE, "table1"))
    table = [line for line in text.splitlines() if " | " in line]
    assert len({tuple(i for i, c in enumerate(line) if c == "|") for line in table}) == 1
