"""Costs: memory as each gradient promises it, and rows that say what was measured."""

from pathlib import Path
from typing import Any

import pytest
from contexts import context

from reproduce import point
from reproduce.children import measured
from reproduce.experiments import costs
from reproduce.memory import MIB
from reproduce.records import Record

SMALL = {"batch": 2, "rounds": 2, "width": 8, "groups": 4}


def _memory(body: str, size: int) -> dict[str, float]:
    return point.measure({"body": body, "size": size, **SMALL})


def test_the_adjoints_memory_does_not_know_the_number_of_steps() -> None:
    few, many = _memory("adjoint", 10), _memory("adjoint", 40)
    assert 0 <= many["memory"] - few["memory"] <= 30 * 8 / MIB  # times in float64
    assert 30 * 8 / MIB < few["state"]


def test_checkpoints_take_one_state_a_step() -> None:
    few, many = _memory("checkpoint", 10), _memory("checkpoint", 40)
    assert many["memory"] - few["memory"] == pytest.approx(30 * few["state"])


@pytest.mark.parametrize(("body", "tensors"), [("direct", 5), ("resnet", 4)])
def test_the_memory_of_a_graph_grows_with_every_step(body: str, tensors: int) -> None:
    sizes = (10, 20, 40)
    found = [_memory(body, size) for size in sizes]
    slopes = [
        (found[k + 1]["memory"] - found[k]["memory"]) / (sizes[k + 1] - sizes[k]) for k in (0, 1)
    ]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.05)
    assert slopes[0] > tensors * found[0]["state"]


@pytest.mark.parametrize("body", ["direct", "checkpoint", "adjoint"])
def test_a_step_is_one_evaluation_and_in_backward_one_more(body: str) -> None:
    found = _memory(body, 6)
    assert (found["nfe_forward"], found["nfe_backward"]) == (6, 0 if body == "direct" else 6)


def test_equal_depth_compares_with_as_many_blocks_as_evaluations() -> None:
    found = point.measure({"body": "equal_depth", **SMALL})
    assert (found["blocks"] - 2) % 6 == 0
    assert found["time_ratio"] > 0


def test_a_point_that_is_misspelt_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match="A point has body and size, batch"):
        point.measure({"body": "direct", "bach": 3})
    with pytest.raises(ValueError, match=r"Unknown body 'drect'.*direct"):
        point.measure({"body": "drect"})
    with pytest.raises(ValueError, match="size is 0"):
        point.measure({"body": "direct", "size": 0})
    with pytest.raises(RuntimeError, match=r"Measuring .*bach.* failed: ValueError"):
        measured(body="direct", bach=3)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Record]:
    """The rows of an experiment whose points follow known laws."""

    def law(body: str, size: int, **_: Any) -> dict[str, float]:
        if body == "equal_depth":
            return {"time_ratio": 1.5, "time_ratio_low": 1.4, "time_ratio_high": 1.6}
        memory = 5.0 if body == "adjoint" else 7.0 + 2.0 * size
        return {"memory": memory, "units": 3.0 * size, "units_low": 2.9 * size,
                "units_high": 3.1 * size, "seconds": 0.1 * size, "resident": 1.0, "state": 0.5,
                "nfe_forward": size, "nfe_backward": 0}  # fmt: skip

    monkeypatch.setattr("reproduce.children.measured", law)
    ctx = context(tmp_path, "quick")
    return costs.run(ctx)


def test_rows_have_points_fits_and_units(records: list[Record]) -> None:
    rows = {(r.row, r.metric): r for r in records}
    assert rows["direct", "memory_8"].value == 23
    assert rows["direct", "memory_8"].unit == "MiB"
    for end in ("", "_low", "_high"):
        assert rows["direct", f"memory_exponent{end}"].value == pytest.approx(1, abs=1e-4)
    assert rows["direct", "memory_r_squared"].value == pytest.approx(1)
    assert rows["direct", "memory_max_over_min"].value == pytest.approx(1031 / 23)
    assert rows["equal_depth", "time_ratio_low"].value == 1.4
    assert rows["adjoint", "memory_exponent"].value == 0
    assert rows["adjoint", "memory_max_over_min"].value == 1
    assert ("adjoint", "memory_r_squared") not in rows
    assert rows["direct", "nfe_forward_16"].unit == "evaluations"


def test_the_papers_orders_of_growth_stand_beside_the_exponents(records: list[Record]) -> None:
    table = costs.table(records)
    assert list(table.index) == list(costs.SIZED)
    assert table.loc["resnet", "memory, paper"] == "O(L)"
    assert table.loc["adjoint", "memory, paper"] == "O(1)"
    assert table.loc["direct", "time, paper"] == table.loc["adjoint", "time, paper"] == "O(L~)"
    assert table.loc["direct", "memory exponent"] == "1.00 (1.00 to 1.00)"


def test_the_figure_names_exponents_with_their_intervals(records: list[Record]) -> None:
    legend = costs.plot(records).axes[0].get_legend()
    assert legend is not None
    assert "1.00 (1.00 to 1.00)" in legend.get_texts()[0].get_text()


def test_what_the_process_grows_by_follows_the_graph() -> None:
    # In a process of its own: another test may have made this one large.
    graph = measured(body="direct", size=128, batch=8, rounds=2)
    assert graph["resident"] > 0.5 * graph["memory"]
