"""What is shown of a long measurement."""

import io

import pytest
from rich.console import Console

from reproduce import progress


def test_tracking_yields_every_item_once_and_in_order() -> None:
    quiet = Console(file=io.StringIO())
    assert list(progress.track("abc", "letters", quiet)) == ["a", "b", "c"]


def test_where_there_is_no_terminal_plain_lines_tell_how_many_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_SECONDS", 0.0)
    written = io.StringIO()
    assert len(list(progress.track(range(3), "solves", Console(file=written)))) == 3
    assert written.getvalue().splitlines() == [f"solves: {k} of 3" for k in (1, 2, 3)]


def test_nothing_is_printed_of_what_ends_at_once() -> None:
    written = io.StringIO()
    list(progress.track(range(3), "solves", Console(file=written)))
    assert written.getvalue() == ""


def test_on_a_terminal_trainings_side_by_side_have_a_bar_each() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120, highlight=False)
    with progress.Display(2, console) as display:
        first, second = display.start("one"), display.start("two")
        state = {"done": 1, "total": 4, "loss": 0.5, "seconds_left": 3}
        second.update(state)
        display.bar.refresh()
        both = written.getvalue()
        second.end("ok", "", False)
        first.end("killed", "a hint", False, 7.0)
    assert "[1/2] one" in both
    assert "starting" in both
    assert "[2/2] two" in both
    assert "update 1 of 4" in both
    assert "[1/2] one: killed after 7 s (a hint)" in written.getvalue()
