"""Step times: the alternatives do the same work, and the rows say how much of it."""

from pathlib import Path

import pytest

from reproduce.context import Context
from reproduce.experiments import step_time
from reproduce.records import Record, read


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("step_time")
    ctx = Context(profile="smoke", device="cpu", device_text="cpu", seeds=(0,), out=out)
    returned = step_time.run(ctx)
    assert read(Path(out) / "step_time" / "smoke.csv") == sorted(
        returned, key=lambda r: (r.row, r.metric)
    )
    return returned


def test_every_alternative_solves_with_the_same_evaluations(rows: list[Record]) -> None:
    forward = {r.row: r.value for r in rows if r.metric == "nfe_forward"}
    assert set(forward) == set(step_time.ROWS)
    assert len(set(forward.values())) == 1
    assert (next(iter(forward.values())) - 2) % 6 == 0
    backward = {r.row: r.value for r in rows if r.metric == "nfe_backward"}
    assert backward["native_direct"] == backward["torchdiffeq_direct"] == 0
    assert backward["native_adjoint"] == backward["torchdiffeq_adjoint"]


def test_ratios_are_to_the_public_example(rows: list[Record]) -> None:
    ratios = {r.row: r.value for r in rows if r.metric == "ratio"}
    assert ratios[step_time.REFERENCE] == 1
    assert all(ratio > 0 for ratio in ratios.values())


def test_table_and_figure_come_from_the_rows(rows: list[Record]) -> None:
    assert list(step_time.table(rows).index) == list(step_time.ROWS)
    axes = step_time.plot(rows).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "example, adjoint"
