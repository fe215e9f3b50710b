"""Command line of the suite: ``python -m reproduce table1``; see ``--help``."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduce.allocator import keep_freed_memory
from reproduce.arguments import (
    OF_RUNS,
    OF_TRAININGS,
    build_parser,
    check_flags,
    check_folders,
    check_name,
    check_values,
    column,
)
from reproduce.catalogue import claim, names
from reproduce.usage import UsageError

INTERRUPTED = (
    "\nInterrupted. Written rows are kept; the same command goes on with trainings and measures "
    "anew."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; bad input is one line, no traceback."""
    # Flags may stand between targets, as in compare --strict RESULTS.
    arguments = build_parser().parse_intermixed_args(argv)
    # Without a handler, SIGTERM would leave the training child behind as an orphan.
    signal.signal(signal.SIGTERM, _stop)
    keep_freed_memory()
    try:
        _refuse_ranks()
        return _dispatch(arguments, list(argv) if argv is not None else sys.argv[1:])
    except KeyboardInterrupt:
        print(INTERRUPTED, flush=True)
        return 130
    except _Terminated as stop:
        print(INTERRUPTED, flush=True)
        return stop.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("REPRODUCE_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


class _Terminated(SystemExit):
    """SIGTERM came; what nobody catches ends the process with its status."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.status = 128 + number


def _stop(number: int, frame: object) -> None:
    raise _Terminated(number)


def _dispatch(arguments: argparse.Namespace, argv: list[str]) -> int:
    check_folders(arguments)
    # Commands are written with hyphens as often as modules with underscores.
    targets: list[str] = [target.replace("-", "_") for target in arguments.targets]
    if targets == ["list"]:
        for name in names():
            print(f"{name:<{column(names())}}{claim(name)}")
        return 0
    if targets[0] == "compare":
        from reproduce import comparing

        check_values(arguments)
        check_flags(arguments, "compare", ("seed", "row", "only", *OF_TRAININGS))
        return comparing.run(arguments.targets[1:], arguments)
    if arguments.strict:
        raise UsageError("--strict goes with compare.")
    if targets[0] == "report":
        if targets[1:]:
            raise UsageError(f"report is about all of --out: leave out {' '.join(targets[1:])}.")
        check_flags(arguments, "report", OF_RUNS)
        return _report(arguments.out)
    if targets[0] == "status":
        check_flags(arguments, "status", OF_RUNS)
        return _status(targets[1:] or names(), arguments.out)
    chosen = names() if targets == ["all"] else targets
    for name in chosen:
        check_name(name)
    check_values(arguments)
    from reproduce import regenerate

    # All of them before the first, which may take hours.
    for name in chosen:
        regenerate.check(name, arguments)
    return max(regenerate.run(name, arguments, argv) for name in chosen)


def _report(out: Path) -> int:
    """Write what people read of a folder of results."""
    from reproduce import folders, publication

    if not any(folders.files(out, name) for name in names()):
        print(f"There are no rows in {out} yet: the report says what can be run.")
    written = publication.write(out)
    print(f"Written: {', '.join(map(str, written))}")
    return 0


def _status(chosen: Sequence[str], out: Path) -> int:
    """Print how far the trainings of some experiments are."""
    from reproduce import folders, status, status_table

    for name in chosen:
        check_name(name, others=())
    found = status.read(out, folders.runs(out), chosen)
    if not found.groups:
        print(f"There is nothing yet in {out}: neither rows nor trainings.")
    status_table.show(found)
    return 0


def _refuse_ranks() -> None:
    """Inside a distributed job every rank would run the whole command and write the results."""
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        rank, ranks = os.environ.get(variable, ""), os.environ.get("WORLD_SIZE", "")
        if rank not in ("", "0") or ranks not in ("", "1"):
            raise UsageError(
                f"This is a rank of a distributed job ({variable} or WORLD_SIZE is set). Start "
                "python -m reproduce once; it starts its trainings itself."
            )


if __name__ == "__main__":
    sys.exit(main())
