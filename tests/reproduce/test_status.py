"""``status``: what is done, running, interrupted, failed and to do, from what lies there."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from contexts import context
from filelock import FileLock
from rich.console import Console

from reproduce import jobs, plans, records, status, status_table, tether
from reproduce.__main__ import main
from reproduce.context import Context
from reproduce.jobs import BadSettings, Job, Result
from reproduce.records import Record, Status

WORK = [Job("table1", row, f"{row}.yaml", {}, seed, 1) for row in ("mlp", "odenet")
        for seed in (0, 1)]  # fmt: skip


def _ctx(tmp_path: Path, **given: Any) -> Context:
    return context(tmp_path, "short", device_text="cpu, 1 threads", seeds=(0, 1), **given)


def _row(job: Job, metric: str, value: float, kind: Status = "ok", hint: str = "") -> Record:
    return Record(job.experiment, job.row, metric, value, "", job.seed, "short", 1, "", "", "cpu",
                  job.run, kind, hint)  # fmt: skip


def _folder(tmp_path: Path, job: Job, **files: object) -> Path:
    folder = job.folder(tmp_path / "runs")
    (folder / "checkpoints").mkdir(parents=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def _printed(tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    assert main(["status", "--out", str(tmp_path), *more]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def _runs_beside_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPRODUCE_RUNS", raising=False)


def _broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep of four that the user stops after the first, in the second."""

    def run(job: Job, *_: object, **__: object) -> Result:
        if job is not WORK[0]:
            raise KeyboardInterrupt
        return Result(job, tmp_path, "ok")

    monkeypatch.setattr(jobs, "run", run)
    ctx = _ctx(tmp_path)
    ended = ctx.train(WORK)
    ctx.save([_row(next(ended).job, "train_seconds", 90.0)], {})
    with pytest.raises(KeyboardInterrupt):
        next(ended)


def test_a_sweep_that_was_broken_off_shows_what_nobody_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _broken_off(tmp_path, monkeypatch)
    progress = {"phase": "train", "done": 40, "total": 100, "seconds_left": 60.0}
    folder = _folder(tmp_path, WORK[1], progress=progress)
    (folder / "checkpoints" / "last.ckpt").touch()
    shown = _printed(tmp_path, capsys)
    assert "table1 short 1 1 2 4:00" in shown  # two of 90 s, and the rest of one
    assert "interrupted table1 mlp, seed 1: stopped after update 40 of 100" in shown
    assert "Left in all: 4:00 of training." in shown
    with FileLock(folder / tether.TRAINING_LOCK):
        shown = _printed(tmp_path, capsys)
    assert "running table1 mlp, seed 1: update 40 of 100, 1:00 left" in shown


def test_a_sweep_that_has_ended_or_was_refused_leaves_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_files() -> list[Path]:
        return list((tmp_path / "runs" / "table1").glob("plan-*"))

    def run(job: Job, *_: object, **__: object) -> Result:
        (path,) = plan_files()
        assert [(r.row, r.seed, r.run) for r in plans.read(path).runs] == [
            (job.row, job.seed, job.run) for job in WORK
        ]
        return Result(job, tmp_path, "diverged")

    monkeypatch.setattr(jobs, "run", run)
    assert len(list(_ctx(tmp_path).train(WORK))) == 4
    assert not plan_files()

    def refuse(job: Job, *_: object, **__: object) -> Result:
        raise BadSettings("no")

    monkeypatch.setattr(jobs, "run", refuse)
    with pytest.raises(BadSettings):
        list(_ctx(tmp_path).train(WORK))
    assert not plan_files()


def test_failures_have_their_kind_and_hint_with_and_without_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = float("nan")
    rows = [_row(WORK[0], "test_error", nan, "time_out", "longer than --time-limit 5")]
    records.append(tmp_path / "table1" / "short.csv", rows)
    _folder(tmp_path, WORK[2], summary={"status": "underflow", "hint": "loosen\x1b[2J rtol"})
    shown = _printed(tmp_path, capsys)
    assert "failed table1 mlp, seed 0: time_out (longer than --time-limit 5)" in shown
    assert "failed table1 odenet, seed 0: underflow (loosen [2J rtol)" in shown
    assert any("--retry-failed" in line for line in shown)


def test_what_a_stranger_wrote_is_a_line_and_hides_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for job, progress in zip(WORK, ([], {"phase": "train", "done": "x"}, None), strict=False):
        folder = _folder(tmp_path, job, progress=progress)
        (folder / "checkpoints" / "a.ckpt").touch()
    _folder(tmp_path, WORK[3], summary={"status": "fine"})
    (tmp_path / "runs" / "table1" / "plan-1.json").write_text('{"profile": 3}')
    endless = '{"profile": "short", "overrides": "", "where": "", "runs": [%s]}'
    endless %= '{"row": "mlp", "seed": Infinity, "run": "0"}'
    (tmp_path / "runs" / "table1" / "plan-2.json").write_text(endless)
    (tmp_path / "runs" / "table1" / "x-seed1-zzz").mkdir()
    (tmp_path / "table1").mkdir()
    (tmp_path / "table1" / "short.csv").write_text("a,b\n")
    (tmp_path / "table2").mkdir()
    other = Job("table2", "rnn_30", "rnn.yaml", {}, 0, 1)
    records.append(tmp_path / "table2" / "short.csv", [_row(other, "rmse", 0.1)])
    shown = _printed(tmp_path, capsys)
    assert sum(line.startswith("not read: ") for line in shown) == 8
    assert "table2 short 1" in shown


def test_no_training_took_longer_than_any_can_and_a_hint_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [_row(job, "train_seconds", 1.5e308) for job in WORK[:2]]
    rows += [_row(WORK[2], "test_error", float("nan"), "error", "one\ntwo")]
    records.append(tmp_path / "table1" / "short.csv", rows)
    plan = plans.Plan("short", "", "", (plans.Run("mlp", 1, WORK[3].run),))
    plans.write(tmp_path / "runs" / "table1" / "plan-1.json", plan)
    shown = _printed(tmp_path, capsys)
    assert "table1 short 2 1 1 unknown" in shown
    assert "failed table1 odenet, seed 0: error (one two)" in shown


def test_nothing_there_is_said_and_some_experiments_can_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (said,) = _printed(tmp_path, capsys)
    assert said.startswith("There is nothing yet in")
    records.append(tmp_path / "table1" / "short.csv", [_row(WORK[0], "test_error", 0.5)])
    assert "table1 short 1" in _printed(tmp_path, capsys, "table1")
    assert len(_printed(tmp_path, capsys, "table2")) == 1
    assert main(["status", "tabel1"]) == 2
    assert "table1" in capsys.readouterr().err
    assert main(["status", "nonsense"]) == 2
    assert "'nonsense'. See `python -m reproduce list`." in capsys.readouterr().err
    assert main(["status", "results/nowhere"]) == 2
    assert "a target is a name, no path" in capsys.readouterr().err
    assert main(["status", "reports"]) == 2
    assert "mean report" not in capsys.readouterr().err  # which is nothing to have a status
    for flag in ("--seeds=2", "--profile=short", "--only=cnf", "--retry-failed", "--time-limit=3"):
        assert main(["status", flag]) == 2
        assert "status reads no" in capsys.readouterr().err


def test_without_any_finished_run_the_time_left_is_not_made_up(tmp_path: Path) -> None:
    runs = (plans.Run("mlp", 0, WORK[0].run),)
    plan = plans.Plan("short", "", "on a Ray cluster", runs)
    plans.write(tmp_path / "runs" / "table1" / "plan-1.json", plan)
    found = status.read(tmp_path, tmp_path / "runs", ["table1"])
    assert status.seconds_left(found.groups[0]) == (0.0, 1)
    shown = io.StringIO()
    status_table.show(found, Console(file=shown, force_terminal=True, width=80))
    assert "unknown" in shown.getvalue()
    assert "handed trainings to Ray" in shown.getvalue()
