"""A million steps: what a step takes by gradient, what is not begun, and what stops the rest."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contexts import context

from lightning_modules.solvers import state
from reproduce import claims, long_solve, memory, verdicts
from reproduce.children import measured
from reproduce.experiments import million_steps
from reproduce.records import Record

SMALL = {"batch": 4, "states": 3, "hidden": 5}
PER_STEP = {"direct": 50.0, "checkpoint": 17.0, "adjoint": 0.0}  # KiB, of a machine made up here


@pytest.fixture(autouse=True)
def one_thread_at_most() -> Any:
    """A point sets the threads of its process, which here is that of other tests."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def _peak(gradient: str, steps: int) -> float:
    field = long_solve.Perceptron(16, 16)
    y0 = torch.ones(128, 16, dtype=torch.float64)
    settings = long_solve._euler(gradient, steps)
    long_solve._gradients(field, y0, settings)
    return memory.peak(lambda: long_solve._gradients(field, y0, settings))


def test_a_step_takes_two_states_directly_one_by_checkpoint_and_none_by_the_adjoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state, "PIECE", 8)  # of the step ends; by default all of so short a solve
    a_state = 128 * 16 * 8 / memory.MIB
    grown = {g: (_peak(g, 60) - _peak(g, 20)) / 40 for g in long_solve.GRADIENTS}
    assert grown["direct"] == pytest.approx(2 * a_state, rel=0.05)  # input and hidden units
    assert grown["checkpoint"] == pytest.approx(a_state, rel=0.05)
    assert grown["adjoint"] == 0


def test_every_gradient_tends_to_the_same_limit_in_proportion_to_the_step() -> None:
    for gradient in long_solve.GRADIENTS:
        found = long_solve.measure({"gradient": gradient, "steps": [20, 40], **SMALL})
        assert found["error_20"] / found["error_40"] == pytest.approx(2, rel=0.1)
        assert set(found) == {f"{name}_{n}" for name in ("memory", "seconds", "error")
                              for n in (20, 40)}  # fmt: skip


def test_a_process_grows_by_its_graph_and_is_stopped_at_its_limit() -> None:
    graph = long_solve.measure({"gradient": "direct", "steps": [1500], "limit": 4096})
    assert 2 * 1500 / 64 < graph["memory_1500"] < 6 * 1500 / 64  # states of 1/64 MiB
    with pytest.raises(RuntimeError, match=r"MemoryError: 1,500 steps took more than the 20 MiB"):
        measured("reproduce.long_solve", gradient="direct", steps=[1500], limit=20)


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"gradient": "direct", "stesp": [3]}, "A point has gradient, steps and batch"),
        ({"gradient": "drect", "steps": [3]}, "Unknown gradient 'drect'. Choose one of direct"),
        ({"gradient": "direct", "steps": [3, 0]}, "give at least 1 each"),
    ],
)
def test_a_point_that_is_none_is_refused_with_what_there_is(
    point: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        long_solve.measure(point)


def _law(module: str, gradient: str, steps: list[int], **given: Any) -> dict[str, float]:
    """Measure nothing: memory in proportion to the steps, time and error as they should be."""
    assert module == "reproduce.long_solve"
    kib = 9.0 if "batch" in given else PER_STEP[gradient]
    found: dict[str, float] = {}
    for n in steps:
        found |= {f"memory_{n}": 0.5 + kib * n / 1024, f"seconds_{n}": 3e-4 * n,
                  f"error_{n}": 1 / n}  # fmt: skip
    return found


def _run(
    tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch, gib: float
) -> list[Record]:
    monkeypatch.setattr(million_steps, "_memory", lambda: gib)
    ctx = context(tmp_path, profile)
    return million_steps.run(ctx)


def _claim(records: list[Record]) -> str:
    claim = next(c for c in claims.claims() if c.id == "D02")
    return verdicts.judge_claim(claim, verdicts.Evidence(records)).kind


def test_what_would_need_too_much_is_not_begun_and_says_what_it_would_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reproduce.children.measured", _law)
    rows = _run(tmp_path, "short", monkeypatch, gib=24.0)
    values = {(r.row, r.metric): r.value for r in rows if r.status == "ok"}
    skipped = {r.row: r.hint for r in rows if r.status == "skipped"}
    assert values["machine", "limit"] == 12
    assert values["direct", "largest_steps"] == values["checkpoint", "largest_steps"] == 100_000
    assert values["adjoint", "largest_steps"] == 1_000_000
    assert values["direct", "needs_1000000"] == pytest.approx(50e6 / 1024**2)
    assert skipped == {
        "direct_1000000": "would need 47.7 GiB, more than the 12.0 GiB that it may take",
        "checkpoint_1000000": "would need 16.2 GiB, more than the 12.0 GiB that it may take",
    }
    assert values["adjoint", "time_exponent"] == pytest.approx(0, abs=1e-9)
    assert values["direct_small", "needs_1000000"] == pytest.approx(9e6 / 1024**2)
    assert ("direct_small", "largest_steps") not in values
    assert _claim(rows) == "holds"
    figure = million_steps.plot(rows)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["would need\n48 GiB", "would need\n16 GiB", "12.0 GiB may be taken"]
    assert list(million_steps.table(rows).index) == [*million_steps.ROWS, "direct_small"]


def test_a_profile_that_never_asks_for_a_million_steps_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reproduce.children.measured", _law)
    rows = _run(tmp_path, "quick", monkeypatch, gib=24.0)
    values = {(r.row, r.metric): r.value for r in rows if r.status == "ok"}
    assert values["direct", "largest_steps"] == 10_000
    assert ("adjoint", "largest_steps") not in values
    assert ("adjoint", "memory_10000") in values
    hints = {r.row: r.hint for r in rows if r.status == "skipped"}
    assert hints["adjoint_1000000"] == "left to the profiles short and paper"
    assert _claim(rows) in ("not run", "undecided")


def test_no_more_is_allowed_than_a_laptop_has_and_a_direct_pass_that_fits_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reproduce.children.measured", _law)
    monkeypatch.setitem(PER_STEP, "direct", 9.0)
    rows = _run(tmp_path, "short", monkeypatch, gib=1024.0)
    values = {(r.row, r.metric): r.value for r in rows if r.status == "ok"}
    assert values["machine", "limit"] == million_steps.MOST_GIB
    assert values["direct", "largest_steps"] == 1_000_000
    assert _claim(rows) == "does not hold"


def test_a_process_that_is_stopped_ends_its_row_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stops(module: str, gradient: str, steps: list[int], **given: Any) -> dict[str, float]:
        if gradient == "direct" and steps[-1] > 1000:
            raise RuntimeError("Measuring failed: MemoryError: 10,000 steps took more")
        return _law(module, gradient, steps, **given)

    monkeypatch.setattr("reproduce.children.measured", stops)
    monkeypatch.setitem(PER_STEP, "direct", 0.1)
    monkeypatch.setattr(million_steps, "_small", lambda most: [100, 1000])
    rows = _run(tmp_path, "short", monkeypatch, gib=24.0)
    values = {(r.row, r.metric): r.value for r in rows if r.status == "ok"}
    assert values["direct", "largest_steps"] == 1000
    assert values["adjoint", "largest_steps"] == 1_000_000
    hints = {r.row: r.hint for r in rows if r.status == "skipped"}
    stopped = "stopped where it had taken the 12.0 GiB that it may take"
    for n in (10_000, 100_000, 1_000_000):
        assert hints[f"direct_{n}"] == stopped


def test_another_failure_of_a_measurement_is_not_taken_for_a_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(module: str, **given: Any) -> dict[str, float]:
        raise RuntimeError("Measuring failed: ImportError")

    monkeypatch.setattr("reproduce.children.measured", fails)
    with pytest.raises(RuntimeError, match="ImportError"):
        _run(tmp_path, "smoke", monkeypatch, gib=24.0)


def test_a_pass_that_the_system_kills_ends_its_row_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(module: str, gradient: str, steps: list[int], **given: Any) -> dict[str, float]:
        if gradient == "direct" and steps[-1] > 1000:
            raise RuntimeError("Measuring failed: exit status -9")
        return _law(module, gradient, steps, **given)

    monkeypatch.setattr("reproduce.children.measured", killed)
    monkeypatch.setattr(million_steps, "_small", lambda most: [100, 1000])
    rows = _run(tmp_path, "short", monkeypatch, gib=24.0)
    hints = {r.row: r.hint for r in rows if r.status == "skipped"}
    assert hints["direct_10000"] == "killed by the system, which was out of memory"
    assert ("adjoint", "largest_steps") in {(r.row, r.metric) for r in rows}
    assert million_steps.plot([r for r in rows if r.row in ("direct", "machine")]).axes


def test_a_fault_in_a_measured_pass_is_not_taken_for_a_lack_of_memory() -> None:
    def faulty() -> list[Any]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        long_solve._pass(faulty, 10, 1000.0)


def test_a_container_allows_no_more_than_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    monkeypatch.setattr(million_steps, "CONTAINER", tmp_path / "memory.max")
    assert million_steps._memory() == 1.0
    (tmp_path / "memory.max").write_text("max\n")
    assert million_steps._memory() > 1.0
