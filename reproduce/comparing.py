"""The verb ``compare``: experiments by name, two sets of results, or what no longer holds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from reproduce.catalogue import names
from reproduce.usage import DEFAULT_OUT, VERBS, UsageError, suggestion


def run(targets: Sequence[str], arguments: Namespace) -> int:
    """Run ``compare`` with these targets and return the exit status.

    Raises:
        UsageError: If a target is neither an experiment nor a set of results, or if the targets
            do not go together.
    """
    experiments = [target.replace("-", "_") for target in targets]
    known = [name for name in experiments if name in (*names(), "all")]
    paths = [
        target for target, name in zip(targets, experiments, strict=True) if name not in known
    ]
    if len(paths) > 2 and not arguments.strict:
        raise UsageError(
            f"compare: {', '.join(paths)} are no experiments, and at most two sets of results are "
            f"compared, not {len(paths)}."
        )
    for target in paths:
        _check_set(target)
    if arguments.strict:
        if known or len(paths) > 1:
            raise UsageError("compare --strict takes one folder of results, or none for --out's.")
        return _strict(Path(paths[0]) if paths else arguments.out, arguments.profile)
    if not paths:
        return _experiments(experiments, arguments)
    if known:
        raise UsageError(
            f"compare: {known[0]} is an experiment and {paths[0]} a set of results. Give two sets "
            f"(./{known[0]} is the folder), or experiments alone."
        )
    if len(paths) == 1:
        raise UsageError(
            "compare takes two sets of results, got 1. One alone is compared with the shipped "
            f"verdicts: compare {paths[0]} --strict."
        )
    _sets(Path(paths[0]), Path(paths[1]), arguments)
    return 0


def _check_set(target: str) -> None:
    from reproduce import result_sets

    if result_sets.is_one(Path(target)):
        return
    if target.replace("-", "_") in VERBS:
        raise UsageError(f"{target} is no set of results; it stands alone or first, see --help.")
    if "/" in target:
        raise UsageError(f"{target}: there is no such folder of results, and no such CSV.")
    raise UsageError(
        f"Unknown target {target!r}: neither an experiment nor a folder or CSV that exists. "
        f"{suggestion(target, names())}"
    )


def _experiments(chosen: Sequence[str], arguments: Namespace) -> int:
    """Print this machine's rows beside the shipped ones and the paper's numbers."""
    from reproduce import printout

    everything = not chosen or list(chosen) == ["all"]
    if not everything and "all" in chosen:
        raise UsageError("all is every experiment; leave the others out.")
    for name in names() if everything else chosen:
        printout.stored(name, arguments.out, arguments.profile)
    printout.verdicts(None if everything else chosen, arguments.out)
    return 0


def _sets(a: Path, b: Path, arguments: Namespace) -> None:
    """Print two sets of results side by side."""
    from reproduce import result_sets, set_table, sets

    first, second = (result_sets.read(path, arguments.profile) for path in (a, b))
    print(set_table.heading(first, second, result_sets.differences(first, second)), flush=True)
    lines = sets.compare(first, second)
    print(f"\n{set_table.render(lines)}")
    if arguments.out != DEFAULT_OUT:
        set_table.write(arguments.out / "sets.csv", lines)
        print(f"The comparison as a table: {arguments.out / 'sets.csv'}")


def _strict(folder: Path, profile: str | None) -> int:
    """Print which shipped verdicts these results break; 1 if there is one."""
    from reproduce import printout, result_sets, strict

    if not folder.exists():
        raise UsageError(f"There are no results in {folder}. Name a folder of results.")
    rows = result_sets.read(folder, profile).records
    checks = strict.check(printout.SHIPPED / "comparison.csv", rows)
    print(f"{folder} beside the shipped verdicts:\n{strict.render(checks)}")
    return int(any(check.broken for check in checks))
