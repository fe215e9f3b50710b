"""Starts: what is timed ends when it says, and rows make table and figure."""

import shutil
import sys
import time
from pathlib import Path

import pytest
from contexts import context

from reproduce.claims import claims
from reproduce.experiments import startup


def test_rows_of_every_start_give_table_figure_and_the_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_helped", lambda: None)
    monkeypatch.setattr(startup, "_imported", lambda _: None)
    monkeypatch.setattr(startup, "_first_step", lambda: None)
    ctx = context(tmp_path)
    rows = startup.run(ctx)
    assert list(startup.table(rows).index) == ["help", "torch", "import", "first_step"]
    assert startup.plot(rows).axes[0].get_yticklabels()[-1].get_text() == "first step"
    (mark,) = [q for c in claims() for q in c.quantities if q.experiment == "startup"]
    measured = {(r.row, r.metric) for r in rows}
    assert {(mark.row, f"{mark.metric}{end}") for end in ("", "_low", "_high")} <= measured


def test_a_training_is_watched_until_its_first_update_and_ended_then() -> None:
    startup._first_step()


def test_an_import_is_timed_without_the_end_of_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "import atexit, time", "atexit.register(time.sleep, 60)"
    (tmp_path / "slow_to_end.py").write_text("\n".join(lines))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begun = time.monotonic()
    startup._imported("slow_to_end")
    assert time.monotonic() - begun < 50


def test_an_import_that_fails_is_told() -> None:
    with pytest.raises(RuntimeError, match="nowhere was not imported: ModuleNotFoundError"):
        startup._imported("nowhere")


def test_a_training_that_does_not_begin_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="did not begin: it said nothing"):
        startup._first_step()
