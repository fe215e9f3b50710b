"""What a command line may say: its flags, and what does not go together."""

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from reproduce.catalogue import claim, names
from reproduce.usage import DEFAULT_OUT, VERBS, UsageError, suggestion

PROFILES = ("smoke", "quick", "short", "paper")
NOT_TO_SET = {
    "trainer.default_root_dir": "--out or REPRODUCE_RUNS",
    "trainer.max_epochs": "--epochs",
    "trainer.max_steps": "trainer.limit_train_batches",
    "trainer.accelerator": "--device",
    "trainer.devices": "--devices-per-run",
    "trainer.strategy": "--devices-per-run",
    "trainer.num_nodes": "--num-nodes",
    "data.root": "--data-root",
    "data.seed": "--seeds",
}

PLACES = ("devices_per_run", "gpus", "slots", "launcher", "num_nodes")
OF_TRAININGS = ("seeds", "epochs", "set", *PLACES, "time_limit", "retry_failed")
OF_RUNS = (
    "profile",
    "device",
    "seed",
    "row",
    "only",
    "strict",
    *OF_TRAININGS,
    "data_root",
    "show",
    "report_only",
)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; neither torch nor Lightning is imported for it."""
    texts = VERBS | {name: claim(name) for name in names()}
    lines = [f"  {name:<{column(texts)}}{text}" for name, text in texts.items()]
    parser = argparse.ArgumentParser(
        prog="python -m reproduce",
        description="Regenerates the tables and figures of Neural Ordinary Differential Equations "
        "(Chen et al., 2018) and compares them with its numbers.",
        epilog="targets:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "targets",
        nargs="+",
        metavar="TARGET",
        help="experiments, or one of list, all, compare, status, report",
    )
    add("--profile", choices=PROFILES, help="default: paper with a GPU, quick without")
    add("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    add(
        "--devices-per-run",
        type=int,
        metavar="N",
        help="share each training's batches between N devices (default: 1)",
    )
    add("--gpus", metavar="I,J,…", help="one training at a time on each of these GPUs")
    add(
        "--slots",
        type=int,
        metavar="N",
        help="N trainings at a time, each with its share of cores",
    )
    add("--launcher", choices=("ray",), help="use the Ray cluster of RAY_ADDRESS, or a local one")
    add(
        "--num-nodes",
        type=int,
        metavar="N",
        help="share each training between N nodes of a SLURM allocation (default: 1)",
    )
    add(
        "--time-limit",
        type=float,
        metavar="MINUTES",
        help="end each training after so long; it is a failed row, its checkpoint is kept",
    )
    add(
        "--retry-failed",
        action="store_true",
        help="take up again what failed by a fault of its own, such as a loss that diverged",
    )
    add("--seeds", type=int, metavar="N", help="train seeds 0 to N-1; default: the profile's")
    add("--seed", type=int, metavar="N", help="this one seed instead")
    add("--epochs", type=int, metavar="N", help="epochs, each over all images")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a setting, as in model.solver.rtol=1e-4; the rows say so",
    )
    add(
        "--row",
        action="append",
        type=Path,
        default=[],
        metavar="FILE.yaml",
        help="add a model of your own to the table, as a row named after its file",
    )
    add(
        "--only",
        type=_labels,
        metavar="A,B",
        help="measure only these problems or sizes (benchmark); the rows of others stay",
    )
    add("--out", type=_folder, default=DEFAULT_OUT, help="results (default: %(default)s)")
    add("--data-root", metavar="DIR", help="data sets (default: REPRODUCE_DATA, or data)")
    add("--show", action="store_true", help="open the figure, where there is a display")
    add("--strict", action="store_true", help="compare: fail where a shipped verdict broke")
    add("--report-only", action="store_true", help="redraw from the rows, without training")
    return parser


def _folder(text: str) -> Path | str:
    return Path(text) if text else text  # Path("") is the current folder; see check_folders


def _labels(text: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in text.split(","))


def column(texts: Iterable[str]) -> int:
    """Return the width of the column in which these names stand."""
    return max(map(len, texts)) + 2


def check_name(name: str, others: Iterable[str] = VERBS) -> None:
    """Refuse what is no experiment.

    Args:
        name: What was given.
        others: What it could have meant beside an experiment.

    Raises:
        UsageError: With the nearest names that exist.
    """
    if name in VERBS:
        raise UsageError(f"{name} stands alone, or first with what it takes; see --help.")
    if name not in names():
        if "/" in name:
            raise UsageError(
                f"Unknown target {name!r}: a target is a name, no path. A folder of results is "
                "named with --out; see `python -m reproduce list`."
            )
        raise UsageError(f"Unknown target {name!r}. {suggestion(name, [*names(), *others])}")


def check_folders(arguments: argparse.Namespace) -> None:
    """Refuse an empty name of a folder, which would be the current one.

    Raises:
        UsageError: With what may be given.
    """
    for flag in ("out", "data_root"):
        if getattr(arguments, flag) == "":
            raise UsageError(f"--{flag.replace('_', '-')} '': give a folder; . is this one.")


def check_values(arguments: argparse.Namespace) -> None:
    """Refuse numbers that are out of range or contradict one another, and empty names.

    Raises:
        UsageError: With what may be given.
    """
    for flag in ("seeds", "epochs", "devices-per-run", "slots", "num-nodes"):
        value = getattr(arguments, flag.replace("-", "_"))
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: give 1 or more.")
    limit = arguments.time_limit
    if limit is not None and not 0 < limit < math.inf:
        raise UsageError(f"--time-limit {limit:g}: give minutes, more than 0.")
    if arguments.only is not None and not all(arguments.only):
        raise UsageError(f"--only {','.join(arguments.only)!r}: give names between the commas.")
    if arguments.seed is not None and arguments.seeds is not None:
        raise UsageError("--seed and --seeds: give one of them.")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**32:
        raise UsageError(f"--seed {arguments.seed}: give 0 to {2**32 - 1}.")


def check_flags(arguments: argparse.Namespace, name: str, unread: Sequence[str]) -> None:
    """Refuse flags that a target does not read.

    Args:
        arguments: The command line, parsed.
        name: The target.
        unread: What it does not read, as attributes of ``arguments``.

    Raises:
        UsageError: With the first that was given.
    """
    values = {flag: getattr(arguments, flag) for flag in unread}
    given = [
        flag for flag, value in values.items() if value not in (None, []) and value is not False
    ]
    if given:
        flag = given[0].replace("_", "-")
        raise UsageError(f"{name} reads no --{flag}. Leave it out, or name other targets.")


def changes(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what ``--epochs`` and ``--set`` change, by the full name of each setting.

    Raises:
        UsageError: If it cannot be read, or another flag is there for it.
    """
    found: dict[str, Any] = {}
    if arguments.epochs is not None:
        found = {"trainer.max_epochs": arguments.epochs, "trainer.limit_train_batches": 1.0}
    if arguments.set:
        from reproduce import yaml_values
        from reproduce.jobs import short_key

        for assignment in arguments.set:
            key, equals, value = assignment.partition("=")
            if not (key and equals):
                raise UsageError(f"--set {assignment!r}: give KEY=VALUE, as model.stem=conv.")
            if key.split(".")[0] not in ("model", "data", "trainer"):
                raise UsageError(f"--set {key}: keys begin with model, data or trainer.")
            if short_key(key) in NOT_TO_SET:
                raise UsageError(f"--set {key}: use {NOT_TO_SET[short_key(key)]}.")
            try:
                found[key] = yaml_values.read(value)
            except ValueError as error:
                raise UsageError(f"--set {assignment!r}: {value!r} is no YAML value.") from error
    return found
