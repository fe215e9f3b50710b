"""Slots: what a training sees there, how many run at a time, and how all of them end."""

import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from rich.console import Console

from reproduce import jobs
from reproduce.jobs import BadSettings, Job
from reproduce.launchers import Slot, Slots
from reproduce.progress import Display

WORK = [Job("table1", f"row{i}", "odenet.yaml", {}, seed=0, protocol=1) for i in range(6)]

END = """
def end():
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "SLURM_JOB_NAME")
    (folder / "seen").write_text(json.dumps({name: os.environ.get(name) for name in names}))
    (folder / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def child(child: Callable[[str], None]) -> Callable[[str], None]:
    """The stand-in for a training; ``end`` writes what it saw, and ends it well."""
    return lambda body: child(END + body)


def _launch(slots: Slots, work: list[Job], runs: Path) -> Iterator[jobs.Result]:
    yield from slots.launch(work, runs, ("reproduce",), _display(len(work)))


def _display(total: int, file: Any = None) -> Display:
    return Display(total, Console(file=file or io.StringIO()))


def _seen(result: jobs.Result) -> dict[str, str | None]:
    found: dict[str, str | None] = json.loads((result.folder / "seen").read_text())
    return found


def test_every_training_sees_the_gpus_of_its_slot_and_no_slot_has_two(
    tmp_path: Path, child: Any
) -> None:
    child(
        "own = pathlib.Path(folder.parents[1], 'gpu' + os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "own.mkdir(); time.sleep(0.3); own.rmdir(); end()\n"
    )
    slots = Slots((Slot(1, ("0", "1")), Slot(1, ("2", "3"))))
    found = list(_launch(slots, WORK, tmp_path / "runs"))
    assert {result.status for result in found} == {"ok"}
    assert {_seen(r)["CUDA_VISIBLE_DEVICES"] for r in found} == {"0,1", "2,3"}
    assert {_seen(r)["OMP_NUM_THREADS"] for r in found} == {"1"}


def test_trainings_run_side_by_side(tmp_path: Path, child: Any) -> None:
    child(  # each waits for the other
        "(folder / 'here').touch(); give_up = time.monotonic() + 60\n"
        "while len(list(folder.parent.glob('*/here'))) < 2 and time.monotonic() < give_up:\n"
        "    time.sleep(0.05)\n"
        "assert time.monotonic() < give_up; end()\n"
    )
    found = list(_launch(Slots((Slot(), Slot())), WORK[:2], tmp_path / "runs"))
    assert [result.status for result in found] == ["ok", "ok"]


def test_results_come_as_they_end(tmp_path: Path, child: Any) -> None:
    child(  # the first one ends once the caller has the second
        "give_up = time.monotonic() + 60\n"
        "while 'row0' in folder.name and not (folder.parent / 'seen').exists():\n"
        "    assert time.monotonic() < give_up; time.sleep(0.05)\n"
        "end()\n"
    )
    found = _launch(Slots((Slot(), Slot())), WORK[:2], tmp_path / "runs")
    assert next(found).job.row == "row1"
    (tmp_path / "runs" / "table1" / "seen").touch()
    assert next(found).status == "ok"


def test_lightning_is_kept_from_taking_a_training_for_a_task_of_slurm(
    tmp_path: Path, child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "batch")
    child("end()\n")
    (own,) = _launch(Slots(), WORK[:1], tmp_path / "own")
    env = tmp_path / "env"
    env.write_text('#!/bin/sh\nexec "$@"\n')
    env.chmod(0o755)
    (task,) = _launch(Slots((Slot(prefix=(str(env),)),)), WORK[:1], tmp_path / "task")
    assert _seen(own)["SLURM_JOB_NAME"] == "interactive"
    assert _seen(task)["SLURM_JOB_NAME"] == "batch"


def test_refused_settings_begin_nothing_more_and_end_what_runs(tmp_path: Path, child: Any) -> None:
    child(
        "(folder / 'pid').write_text(str(os.getpid()))\n"
        "if 'row1' in folder.name:\n"
        "    while not list(folder.parent.glob('row0*/pid')): time.sleep(0.05)\n"
        "    print('error: no such setting'); sys.exit(2)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(BadSettings, match="row1: no such setting"):
        list(_launch(Slots((Slot(), Slot())), WORK, tmp_path / "runs"))
    begun = sorted((tmp_path / "runs" / "table1").iterdir())
    assert [folder.name.split("-")[0] for folder in begun] == ["row0", "row1"]
    _assert_gone(begun[0] / "pid")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_whoever_stops_reading_results_ends_all_children_and_keeps_what_ended(
    stop: type[BaseException], tmp_path: Path, child: Any
) -> None:
    child(
        "(folder / 'pid').write_text(str(os.getpid()))\n"
        "if 'row0' in folder.name: end(); sys.exit()\n"
        "time.sleep(60)\n"
    )
    runs = tmp_path / "runs"

    def read() -> None:
        for result in _launch(Slots((Slot(), Slot())), WORK[:4], runs):
            assert result.job.row == "row0"
            while len(list(runs.glob("*/row*/pid"))) < 3:
                time.sleep(0.05)
            raise stop

    with pytest.raises(stop):
        read()
    assert not list(runs.glob("*/row3*"))
    for pid in runs.glob("*/row[12]*/pid"):
        _assert_gone(pid)
    assert jobs.finished(WORK[0], runs) is not None


def test_a_training_that_waits_for_another_process_can_be_called_off(
    tmp_path: Path, child: Any
) -> None:
    child("end()\n")
    threads = threading.active_count()
    held = WORK[1].folder(tmp_path)
    held.mkdir(parents=True)
    with FileLock(held / ".lock"):
        found = _launch(Slots((Slot(), Slot())), WORK[:2], tmp_path)
        assert next(found).job.row == "row0"
        found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
    assert jobs.finished(WORK[1], tmp_path) is None


def test_each_training_keeps_its_number_from_begin_to_end(tmp_path: Path, child: Any) -> None:
    child("end()\n")
    shown = io.StringIO()
    with _display(len(WORK), shown) as display:
        list(Slots((Slot(), Slot(), Slot())).launch(WORK, tmp_path, (), display))
    lines = sorted(shown.getvalue().splitlines())
    assert [line.split("]")[0] for line in lines] == [f"[{i}/6" for i in range(1, 7)]
    assert len({line.split(" ")[1] for line in lines}) == 6


def _assert_gone(pid_file: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
