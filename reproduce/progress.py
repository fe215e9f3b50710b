"""Shows how far trainings or measurements are: a bar on a terminal, plain lines elsewhere."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

PLAIN_EVERY_SECONDS = 30.0
T = TypeVar("T")


class Display:
    """Progress of ``total`` trainings, some of them at the same time; threads may share it.

    Args:
        total: How many there are.
        console: Where to print; standard output by default.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.total = total
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        """Show the bars, on a terminal."""
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bars away; what was printed stays."""
        if self.console.is_terminal:  # elsewhere some versions of rich print an empty line
            self.bar.stop()

    def start(self, name: str) -> "Line":
        """Begin a training, which has its number from the order in which they begin."""
        return Line(self, f"[{next(self._numbers)}/{self.total}] {name}")

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self.console.print(line, markup=False)


class Line:
    """One training on a display: a bar of its own, or plain lines."""

    def __init__(self, display: Display, name: str) -> None:
        self._display, self._name = display, name
        self._started = self._printed = time.monotonic()
        # Not the user's markup: the counter stands in square brackets.
        self._task = display.bar.add_task(name.replace("[", r"\["), total=None, state="starting")

    def update(self, state: dict[str, Any]) -> None:
        """Show a progress file's content; nothing while there is none."""
        if not state:
            return
        text, display = describe(state), self._display
        display.bar.update(
            self._task, completed=state.get("done", 0), total=state.get("total"), state=text
        )
        now = time.monotonic()
        if not display.console.is_terminal and now - self._printed >= PLAIN_EVERY_SECONDS:
            self._printed = now
            display.print(f"{self._name}: {text}")

    def end(self, status: str, hint: str, found: bool, seconds: float | None = None) -> None:
        """Take the bar away and print one line.

        Args:
            status: What became of the training.
            hint: More about it; may be empty.
            found: Whether it was there already.
            seconds: How long it took; by default, the time since its start.
        """
        self._display.bar.remove_task(self._task)
        seconds = time.monotonic() - self._started if seconds is None else seconds
        text = "found, not trained again" if found else f"{status} after {seconds:.0f} s"
        self._display.print(f"{self._name}: {text}" + (f" ({hint})" if hint else ""))


def track(items: Sequence[T], name: str, console: Console | None = None) -> Iterator[T]:
    """Yield the items and show how many of them are done.

    Args:
        items: What is worked through in this process.
        name: What it is, in words.
        console: Where to print; standard output by default.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True)
    printed = time.monotonic()
    with bar if console.is_terminal else nullcontext():
        task = bar.add_task(name, total=len(items))
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(task, completed=done)
            now = time.monotonic()
            if not console.is_terminal and now - printed >= PLAIN_EVERY_SECONDS:
                printed = now
                console.print(f"{name}: {done} of {len(items)}", markup=False)


def describe(state: dict[str, Any]) -> str:
    """Put a progress file's content in words: update, loss, evaluations, time left."""
    if state.get("phase") == "test":
        return "testing"
    parts = [f"update {state['done']} of {state['total']}", f"loss {state.get('loss', 0.0):.3f}"]
    if "nfe_forward" in state:
        forward, backward = state["nfe_forward"], state.get("nfe_backward", 0)
        parts.append(f"NFE {forward:.0f} forward, {backward:.0f} backward")
    minutes, seconds = divmod(round(state["seconds_left"]), 60)
    parts.append(f"{minutes}:{seconds:02d} left")
    return ", ".join(parts)
