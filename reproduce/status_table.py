"""Prints how far the trainings are: a table, and a line for what runs, stopped or failed."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reproduce.status import Group, Run, State, Status, seconds_left

STATES: tuple[State, ...] = ("done", "running", "interrupted", "failed", "to do")
WIDE = 1000  # columns of a file or a pipe, where no line is broken


def show(status: Status, console: Console | None = None) -> None:
    """Print it all, plainly where there is no terminal.

    Args:
        status: What was found.
        console: Where to print; standard output by default.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDE, highlight=False)
    if status.groups:
        console.print(_table(status.groups, plain=not console.is_terminal))
    for line in _lines(status):
        console.print(Text(line), soft_wrap=True)


def _table(groups: list[Group], *, plain: bool) -> Table:
    table = Table(box=None, pad_edge=False) if plain else Table()
    table.add_column("experiment")
    table.add_column("profile")
    for name in (*STATES, "time left"):
        table.add_column(name, justify="right")
    for group in groups:
        profile = f"{group.profile or '?'} {group.overrides}".strip()
        counts = [str(len(group.of(state)) or "") for state in STATES]
        table.add_row(Text(group.experiment), Text(profile), *counts, _left(group))
    return table


def _left(group: Group) -> str:
    seconds, unknown = seconds_left(group)
    if not seconds and not unknown:
        return ""
    return f"{clock(seconds)}{' and more' if unknown else ''}" if seconds else "unknown"


def _lines(status: Status) -> Iterator[str]:
    for group in status.groups:
        for state in ("running", "interrupted", "failed"):
            for run in group.of(state):
                yield f"{state:<12}{group.experiment} {run.row}, seed {run.seed}{_more(run)}"
    yield from _total(status)
    if any(group.of("interrupted") or group.of("to do") for group in status.groups):
        yield "The same command goes on with what is interrupted or to do."
    if any(group.of("failed") for group in status.groups):
        yield (
            "The same command takes up again what was killed or had no disk space left, and with "
            "--retry-failed all that failed."
        )
    if status.elsewhere:
        yield "A sweep handed trainings to Ray: what runs there counts as to do until it is back."
    for line in status.unread:
        yield f"not read: {line}"


def _more(run: Run) -> str:
    """Say more about a training than its state."""
    if run.state == "failed":
        return f": {run.kind}" + (f" ({run.hint})" if run.hint else "")
    if run.state == "interrupted":
        return f": stopped after update {run.update} of {run.updates}" if run.updates else ""
    if not run.updates:
        return ""
    left = "" if run.seconds is None else f", {clock(run.seconds)} left"
    return f": update {run.update} of {run.updates}{left}"


def _total(status: Status) -> Iterator[str]:
    each = [seconds_left(group) for group in status.groups]
    seconds, unknown = sum(s for s, _ in each), sum(n for _, n in each)
    running = sum(len(group.of("running")) for group in status.groups)
    if seconds:
        shared = f", {clock(seconds / running)} with {running} at a time" if running > 1 else ""
        yield f"Left in all: {clock(seconds)} of training{shared}."
    if unknown:
        yield f"{unknown} training(s) are left of which no time is known: none of them has ended."


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds: ``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
