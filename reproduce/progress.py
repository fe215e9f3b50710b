"""Shows how far trainings or measurements are: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PLAIN_EVERY_SECONDS = 30.0
T = TypeVar("T")


class Display:
    """Progress of ``total`` trainings, one after another.

    Args:
        total: How many there are.
        console: Where to print; standard output by default.
    """

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.total = total
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._done = 0
        self._name = ""
        self._task: TaskID | None = None
        self._started = self._printed = 0.0

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away; what was printed stays."""
        self._bar.stop()

    def start(self, name: str) -> Callable[[dict[str, Any]], None]:
        """Begin a training; return what takes its progress."""
        self._name = f"[{self._done + 1}/{self.total}] {name}"
        self._started = self._printed = time.monotonic()
        # Not the user's markup: the counter stands in square brackets.
        self._task = self._bar.add_task(
            self._name.replace("[", r"\["), total=None, state="starting"
        )
        return self._update

    def end(self, status: str, hint: str, found: bool) -> None:
        """End the training and print one line about it."""
        assert self._task is not None
        self._bar.remove_task(self._task)
        self._done += 1
        seconds = time.monotonic() - self._started
        text = "found, not trained again" if found else f"{status} after {seconds:.0f} s"
        self._print(f"{self._name}: {text}" + (f" ({hint})" if hint else ""))

    def _update(self, state: dict[str, Any]) -> None:
        assert self._task is not None
        if not state:
            return
        text = describe(state)
        self._bar.update(
            self._task, completed=state.get("done", 0), total=state.get("total"), state=text
        )
        now = time.monotonic()
        if not self.console.is_terminal and now - self._printed >= PLAIN_EVERY_SECONDS:
            self._printed = now
            self._print(f"{self._name}: {text}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False)


def track(items: Sequence[T], name: str, console: Console | None = None) -> Iterator[T]:
    """Yield the items and show how many of them are done.

    Args:
        items: What is worked through in this process.
        name: What it is, in words.
        console: Where to print; standard output by default.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    printed = time.monotonic()
    with bar:
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
