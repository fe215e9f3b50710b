"""Step times: the alternatives do the same work, and the rows say how much of it."""

from pathlib import Path

import pytest
import torch
from contexts import context
from host_recorder import HostRecorder, recorders
from torch import nn

from reproduce.experiments import step_time
from reproduce.records import Record, read

__all__ = ["recorders"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    out = tmp_path_factory.mktemp("step_time")
    ctx = context(out)
    returned = step_time.run(ctx)
    kept = read(Path(out) / "step_time" / "smoke.csv")
    # As text: the nan of a skipped row equals nothing.
    assert list(map(str, kept)) == sorted(map(str, returned))
    return returned


def test_every_alternative_solves_with_the_same_evaluations(rows: list[Record]) -> None:
    forward = {r.row: r.value for r in rows if r.metric == "nfe_forward"}
    assert set(forward) == set(step_time.ROWS) - set(step_time.CAPTURED)
    assert len(set(forward.values())) == 1
    assert (next(iter(forward.values())) - 2) % 6 == 0
    backward = {r.row: r.value for r in rows if r.metric == "nfe_backward"}
    assert backward["native_direct"] == backward["torchdiffeq_direct"] == 0
    assert backward["native_adjoint"] == backward["torchdiffeq_adjoint"]


def test_ratios_are_to_the_public_example(rows: list[Record]) -> None:
    ratios = {r.row: r.value for r in rows if r.metric == "ratio"}
    assert ratios[step_time.REFERENCE] == 1
    assert all(ratio > 0 for ratio in ratios.values())


def test_what_a_gradient_costs_is_told_with_an_interval_beside_the_same_backends_direct_one(
    rows: list[Record],
) -> None:
    found = {(r.row, r.metric): r.value for r in rows if r.metric.startswith("ratio_to_direct")}
    told = {row for row, _ in found}
    assert told == {"native_adjoint", "native_checkpoint", "torchdiffeq_adjoint"}
    for row in told:
        low, value, high = (found[row, f"ratio_to_direct{end}"] for end in ("_low", "", "_high"))
        assert low <= value <= high
        assert value > 0


def test_without_a_gpu_nothing_is_recorded_and_the_rows_say_so(rows: list[Record]) -> None:
    skipped = {r.row: r.hint for r in rows if r.status == "skipped"}
    assert skipped == dict.fromkeys(step_time.CAPTURED, step_time.NEEDS_A_GPU)


def test_what_is_solved_natively_after_all_is_no_row_of_recorded_steps(
    recorders: list[HostRecorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = torch.rand(2, 1, 28, 28), torch.tensor([3, 4])
    assert not step_time._refusal(step_time._step("captured_checkpoint", images, labels))
    assert recorders[0].recorded
    of_ours = step_time._ours

    def hooked(backend: str, gradient: str) -> nn.Sequential:
        model = of_ours(backend, gradient)
        model[1].field.register_forward_hook(lambda *_: None)
        return model

    monkeypatch.setattr(step_time, "_ours", hooked)
    step = step_time._step("captured_checkpoint", images, labels)
    assert "a ConvField has hooks" in step_time._refusal(step)


def test_table_and_figure_come_from_the_rows(rows: list[Record]) -> None:
    measured = [row for row in step_time.ROWS if row not in step_time.CAPTURED]
    assert list(step_time.table(rows).index) == measured
    axes = step_time.plot(rows).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "example, adjoint"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_recorded_steps_are_timed_with_the_same_evaluations(tmp_path: Path) -> None:
    ctx = context(tmp_path, device="cuda", device_text="cuda")
    rows = step_time.run(ctx)
    assert all(r.status == "ok" for r in rows)
    for metric in ("nfe_forward", "nfe_backward"):
        count = {r.row: r.value for r in rows if r.metric == metric}
        assert count["captured_checkpoint"] == count["native_checkpoint"]
