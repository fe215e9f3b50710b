"""Costs: memory as each gradient promises it, and rows that say what was measured."""

import pytest

from reproduce import point
from reproduce.children import measured
from reproduce.experiments import costs
from reproduce.records import Record

SMALL = {"batch": 2, "rounds": 2, "width": 8, "groups": 4}


def _memory(body: str, size: int) -> dict[str, float]:
    return point.measure({"body": body, "size": size, **SMALL})


def test_the_adjoints_memory_does_not_know_the_number_of_steps() -> None:
    assert _memory("adjoint", 40)["memory"] == _memory("adjoint", 10)["memory"]


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
    with pytest.raises(RuntimeError, match=r"Measuring .*bach.* failed: ValueError"):
        measured(body="direct", bach=3)


def _records() -> list[Record]:
    by_size = {
        n: {"memory": 2.0 * n, "units": 3.0 * n, "seconds": 0.1 * n, "resident": 1.0,
            "state": 0.5, "nfe_forward": n, "nfe_backward": 0} for n in (1, 2, 4, 8)
    }  # fmt: skip
    from reproduce.context import Context

    ctx = Context(profile="quick", device="cpu", device_text="cpu", seeds=(0,))
    settings = {"batch": 32, "rounds": 5}
    return [
        record
        for row in costs.SIZED
        for record in costs._records(ctx, settings, row, costs._fits(by_size))
    ]


def test_rows_have_points_fits_and_units() -> None:
    rows = {(r.row, r.metric): r for r in _records()}
    assert rows["direct", "memory_8"].value == 16
    assert rows["direct", "memory_8"].unit == "MiB"
    assert rows["direct", "memory_exponent"].value == pytest.approx(1)
    assert rows["direct", "memory_r_squared"].value == pytest.approx(1)
    assert rows["direct", "memory_max_over_min"].value == 8
    assert rows["direct", "nfe_forward_4"].unit == "evaluations"


def test_table_and_figure_come_from_the_rows() -> None:
    table = costs.table(_records())
    assert list(table.index) == list(costs.SIZED)
    assert "memory_8" not in table.columns
    legend = costs.plot(_records()).axes[0].get_legend()
    assert legend is not None
    assert "exponent 1.00" in legend.get_texts()[0].get_text()
