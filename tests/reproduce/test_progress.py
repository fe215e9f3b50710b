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
