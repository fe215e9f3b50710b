"""How trainings fail: kinds, hints, what is taken up again, and that their rows stay readable."""

import errno
import math
import os
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from contexts import context

from lightning_modules.callbacks import Diverged
from lightning_modules.solvers import SolverFailed, SolverSettings, StepUnderflow, odeint
from reproduce import (
    classification,
    compare,
    failures,
    jobs,
    plotting,
    publication,
    records,
    train,
)
from reproduce.context import Profile
from reproduce.jobs import Job, Result
from reproduce.launchers import Slots
from reproduce.records import Record, Status

JOB = Job("table1", "mlp", "mlp.yaml", {"trainer.max_epochs": 1}, seed=0, protocol=1)
FAILED = [kind for kind in get_args(Status) if kind not in ("ok", "skipped")]


def _run(tmp_path: Path, **given: Any) -> Result:
    return jobs.run(JOB, tmp_path / "runs", lambda state: None, **given)


def _stiff(settings: SolverSettings) -> None:
    def field(t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y * y  # reaches infinity at t=1

    y0 = torch.ones(1, dtype=torch.float64)
    odeint(field, y0, torch.tensor([0.0, 2.0], dtype=torch.float64), settings)


def test_a_step_size_that_vanishes_is_told_from_a_step_limit() -> None:
    settings = {"backend": "native", "method": "dopri5", "rtol": 1e-6, "atol": 1e-6}
    with pytest.raises(StepUnderflow) as vanished:
        _stiff(SolverSettings(**settings, max_steps=100_000))  # type: ignore[arg-type]
    with pytest.raises(SolverFailed) as limited:
        _stiff(SolverSettings(**settings, max_steps=5))  # type: ignore[arg-type]
    assert [train._kind(e.value) for e in (vanished, limited)] == ["underflow", "solver_failed"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Diverged("the loss is nan"), "diverged"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "disk_full"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "disk_full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), "disk_full"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), "error"),
        (RuntimeError("out of luck"), "error"),
    ],
    ids=str,
)  # fmt: skip
def test_an_error_of_a_training_has_its_kind(error: Exception, kind: str) -> None:
    assert train._kind(error) == kind


def test_a_full_disk_is_found_behind_the_error_that_it_led_to(tmp_path: Path) -> None:
    error = ValueError("no checkpoint")
    error.__cause__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert train._kind(error) == "disk_full"
    assert "REPRODUCE_RUNS" in train._hint(error, tmp_path)


@pytest.mark.parametrize(
    ("end", "kind", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed", "out of memory"),
        ("sys.exit(137)", "killed", "out of memory"),  # what srun makes of it
        ("os.kill(os.getpid(), signal.SIGTERM)", "killed", "signal 15"),
        ("sys.exit(74)", "disk_full", "REPRODUCE_RUNS"),
        ("sys.exit(1)", "error", "no output"),
    ],
)
def test_an_end_without_a_summary_has_its_kind(
    end: str, kind: str, said: str, tmp_path: Path, child: Any
) -> None:
    child(end)
    result = _run(tmp_path)
    assert result.status == kind
    assert said in result.hint


def test_whatever_a_training_printed_last_its_row_can_be_read_again(
    tmp_path: Path, child: Any
) -> None:
    child("os.write(1, b'\\x1b[31mno\\0luck \\xe2\\x82'); sys.exit(1)")
    result = _run(tmp_path)
    row = Record("table1", "mlp", "test_error", math.nan, "%", 0, "smoke", 1, "", "", "cpu",
                 JOB.run, result.status, result.hint)  # fmt: skip
    records.append(tmp_path / "smoke.csv", [row])
    (again,) = records.read(tmp_path / "smoke.csv")
    assert again.hint == row.hint == " [31mno luck \N{REPLACEMENT CHARACTER}"


def test_a_disk_that_is_full_for_the_command_itself_is_a_result_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert _run(tmp_path).status == "disk_full"


def test_a_training_that_has_had_its_time_is_ended_and_goes_on_later(
    tmp_path: Path, child: Any
) -> None:
    child("(folder / 'pid').write_text(str(os.getpid())); time.sleep(60)\n")
    result = _run(tmp_path, time_limit=3.0)
    assert result.status == "time_out"
    assert "--time-limit 0.05" in result.hint
    assert "--retry-failed" in result.hint
    with pytest.raises(ProcessLookupError):
        os.kill(int((result.folder / "pid").read_text()), 0)
    child("(folder / 'summary.json').write_text(json.dumps(summary))\n")
    assert _run(tmp_path, time_limit=60.0).status == "ok"


def test_a_training_that_ends_as_its_time_does_is_a_result(tmp_path: Path, child: Any) -> None:
    child("(folder / 'summary.json').write_text(json.dumps(summary)); time.sleep(60)\n")
    assert _run(tmp_path, time_limit=3.0).status == "ok"


def test_a_limit_reaches_trainings_in_slots_and_is_no_part_of_their_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[str, float]] = []

    def run(job: Job, *_: object, time_limit: float, **__: object) -> Result:
        limits.append((job.run, time_limit))
        return Result(job, tmp_path, "time_out", "longer")

    monkeypatch.setattr(jobs, "run", run)
    for limit in (60.0, 120.0):
        list(context(tmp_path, launcher=Slots(time_limit=limit)).train([JOB]))
    assert limits == [(JOB.run, 60.0), (JOB.run, 120.0)]


@pytest.mark.parametrize("kind", FAILED)
def test_a_failure_lasts_until_it_is_to_be_retried_unless_the_machine_was_at_fault(
    kind: Status,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried: list[str] = []

    def run(job: Job, *_: object, **__: object) -> Result:
        tried.append(job.row)
        return Result(job, tmp_path, kind, "why")

    monkeypatch.setattr(jobs, "run", run)
    monkeypatch.setattr("datamodules.MNIST.prepare_data", lambda self: None)
    profile = Profile({}, 1, None)
    counts = []
    for retry in (False, False, True):
        ctx = context(tmp_path, retry_failed=retry)
        rows = classification.run(ctx, "table1", profile, ["mlp"])
        assert [(r.row, r.status, r.hint) for r in rows] == [("mlp", kind, "why")]
        counts.append(len(tried))
    lasts = kind not in failures.TAKEN_UP
    assert counts == ([1, 1, 2] if lasts else [1, 2, 3])
    said = f"Left as they failed: mlp, seed 0 ({kind}). --retry-failed takes them up again."
    assert (said in capsys.readouterr().out) is lasts


@pytest.mark.parametrize("flags", [["--retry-failed"], ["--time-limit", "5"]])
def test_experiments_without_trainings_read_neither_flag(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from reproduce.__main__ import main

    assert main(["step-time", *flags]) == 2
    assert f"reads no {flags[0]}" in capsys.readouterr().err
    for wrong in ("0", "-1", "nan", "inf"):
        assert main(["table1", f"--time-limit={wrong}"]) == 2
        assert f"--time-limit {wrong}: give minutes" in capsys.readouterr().err


def test_rows_of_every_kind_are_compared_reported_and_drawn(tmp_path: Path) -> None:
    def row(name: str, seed: int, value: float, kind: Status = "ok") -> Record:
        hint = "" if kind == "ok" else f"hint of {kind}"
        run = f"{seed:012x}"
        return Record("table1", name, "test_error", value, "%", seed, "short", 1, "3 epochs", "",
                      "cpu, 1 threads", run, kind, hint)  # fmt: skip

    rows = [row("odenet", seed, 0.5 + seed / 100) for seed in range(5)]
    rows += [row("odenet", 10 + i, math.nan, kind) for i, kind in enumerate(FAILED)]
    rows += [row("rknet", i, math.nan, kind) for i, kind in enumerate(FAILED)]
    records.append(tmp_path / "table1" / "short.csv", rows)
    assert records.read(tmp_path / "table1" / "short.csv") != []
    (both,) = [s for s in records.summary(rows, "test_error") if s.row == "odenet"]
    assert both.n_failed == len(FAILED)
    assert dict(both.failures) == dict.fromkeys(FAILED, 1)
    figure = classification.plot(rows, ("odenet", "rknet"), "Table 1")
    plotting.save(figure, tmp_path / "figure")
    assert not classification.table(rows, ("odenet", "rknet")).empty
    printed = compare.render(compare.comparison(rows, [], "table1"))
    assert all(f"failed: {kind} (1 of {5 + len(FAILED)})" in printed for kind in FAILED)
    publication.write(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert all(f"{kind} (hint of {kind})" in page for kind in FAILED)
