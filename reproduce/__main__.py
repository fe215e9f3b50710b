"""Command line of the suite: ``python -m reproduce table1``; see ``--help``."""

import argparse
import importlib
import math
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from reproduce.allocator import keep_freed_memory
from reproduce.catalogue import claim, names
from reproduce.comparing import DEFAULT_OUT
from reproduce.usage import UsageError, nearest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from reproduce.context import Context
    from reproduce.own_rows import OwnRow
    from reproduce.records import Record

PROFILES = ("smoke", "quick", "short", "paper")
VERBS = {
    "list": "what can be regenerated",
    "all": "every table and figure, one after another",
    "compare": "this machine's results beside the shipped ones and the paper's, with verdicts; "
    "or two folders of results",
    "status": "what is done, running, interrupted, failed and to do, and the time left",
    "report": "the results in --out as one page to read (index.html) and as Markdown (README.md)",
}


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
TAKING_ROWS = ("table1", "ablations", "table2", "fig3")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; neither torch nor Lightning is imported for it."""
    texts = VERBS | {name: claim(name) for name in names()}
    lines = [f"  {name:<{_column(texts)}}{text}" for name, text in texts.items()]
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
    add("--out", type=Path, default=DEFAULT_OUT, help="results (default: %(default)s)")
    add("--data-root", metavar="DIR", help="data sets (default: REPRODUCE_DATA, or data)")
    add("--show", action="store_true", help="open the figure, where there is a display")
    add("--strict", action="store_true", help="compare: fail where a shipped verdict broke")
    add("--report-only", action="store_true", help="redraw from the rows, without training")
    return parser


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
        print(
            "\nInterrupted. Written rows are kept; the same command goes on with trainings and "
            "measures anew.",
            flush=True,
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("REPRODUCE_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _labels(text: str) -> tuple[str, ...]:
    return tuple(label.strip() for label in text.split(","))


def _column(texts: Iterable[str]) -> int:
    return max(map(len, texts)) + 2


def _stop(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _dispatch(arguments: argparse.Namespace, argv: list[str]) -> int:
    # Commands are written with hyphens as often as modules with underscores.
    targets: list[str] = [target.replace("-", "_") for target in arguments.targets]
    if targets == ["list"]:
        for name in names():
            print(f"{name:<{_column(names())}}{claim(name)}")
        return 0
    if targets[0] == "compare":
        from reproduce import comparing

        _check_numbers(arguments)
        _check_flags(arguments, "compare", ("seed", "row", "only", *OF_TRAININGS))
        return comparing.run(arguments.targets[1:], arguments)
    if arguments.strict:
        raise UsageError("--strict goes with compare.")
    if targets[0] == "report":
        if targets[1:]:
            raise UsageError(f"report is about all of --out: leave out {' '.join(targets[1:])}.")
        _check_flags(arguments, "report", OF_RUNS)
        return _report(arguments.out)
    if targets[0] == "status":
        _check_flags(arguments, "status", OF_RUNS)
        return _status(targets[1:] or names(), arguments.out)
    chosen = names() if targets == ["all"] else targets
    for name in chosen:
        _check_name(name)
    _check_numbers(arguments)
    # All of them before the first, which may take hours.
    for name in chosen:
        module = importlib.import_module(f"reproduce.experiments.{name}")
        settable = ("set",) if getattr(module, "SETTABLE", False) else ()
        unread = () if module.TRAINS else [flag for flag in OF_TRAININGS if flag not in settable]
        _check_flags(arguments, name, unread)
        reads = {
            "seed": getattr(module, "SEEDED", module.TRAINS),
            "only": getattr(module, "SELECTS", False),
        }
        _check_flags(arguments, name, [flag for flag in reads if not reads[flag]])
        if arguments.row and name not in TAKING_ROWS:
            raise UsageError(_no_rows(name, module))
    return max(_reproduce(name, arguments, argv) for name in chosen)


def _no_rows(name: str, module: ModuleType) -> str:
    """Say why an experiment takes no rows of the user's own."""
    why = (
        "its rows are variants of our own models, whose inside is measured"
        if module.TRAINS
        else "it trains nothing"
    )
    return f"{name} takes no --row: {why}. It goes with {', '.join(TAKING_ROWS)}."


def _own_rows(files: Sequence[Path]) -> "tuple[OwnRow, ...]":
    from reproduce import own_rows, plotting

    found: dict[str, OwnRow] = {}
    for path in files:
        try:
            row = own_rows.read(path, {*plotting.NAMES, *found})
        except ValueError as error:
            raise UsageError(str(error)) from error
        found[row.name] = row
    return tuple(found.values())


def _check_flags(arguments: argparse.Namespace, name: str, unread: Sequence[str]) -> None:
    """Refuse flags that a target does not read."""
    values = {flag: getattr(arguments, flag) for flag in unread}
    given = [
        flag for flag, value in values.items() if value not in (None, []) and value is not False
    ]
    if given:
        flag = given[0].replace("_", "-")
        raise UsageError(f"{name} reads no --{flag}. Leave it out, or name other targets.")


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
    from reproduce import status, status_table

    for name in chosen:
        _check_name(name)
    found = status.read(out, _runs(out), chosen)
    if not found.groups:
        print(f"There is nothing yet in {out}: neither rows nor trainings.")
    status_table.show(found)
    return 0


def _runs(out: Path) -> Path:
    """Return the folder of the run folders."""
    told = os.environ.get("REPRODUCE_RUNS")
    return (Path(told) if told else out / "runs").resolve()


def _reproduce(name: str, arguments: argparse.Namespace, argv: list[str]) -> int:
    """Run one experiment, draw its figure and print its comparison; 1 if a training failed."""
    from reproduce import plotting, printout
    from reproduce.jobs import BadSettings

    module = importlib.import_module(f"reproduce.experiments.{name}")
    ctx = _context(module, arguments, argv)
    path = ctx.csv(name)
    if arguments.report_only:
        for flag in ("row", "only"):
            if getattr(arguments, flag):
                raise UsageError(
                    f"--report-only draws every row that is there; leave --{flag} out."
                )
        rows = _stored(path, ctx.overrides_text, arguments.seed)
    else:
        _check_folders(ctx, path)
        print(_headline(name, module, ctx), flush=True)
        try:
            rows = module.run(ctx)
        except BadSettings as error:
            raise UsageError(str(error)) from error
    # The status tells of what was measured now.
    failed = any(row.status not in ("ok", "skipped") for row in rows)
    if getattr(module, "SELECTS", False):
        rows = _stored(path, ctx.overrides_text, arguments.seed)
    # A figure of changed settings does not replace that of the plain protocol.
    changed = f"-{_in_a_file_name(ctx.overrides_text)}" if ctx.changes else ""
    figure = path.with_name(path.stem + changed)
    lacking = ""
    try:
        drawings = _figures(module, rows, path.parent)
        frames = module.movie(rows, path.parent) if hasattr(module, "movie") else None
    except LookupError as error:
        drawings, frames = {}, None
        lacking = (
            f"{path} lacks what the figure needs, first {error}: a run was interrupted, or "
            "trainings failed. Run the command again without --report-only."
        )
    for part, drawn in drawings.items():
        plotting.save(drawn, figure.with_name(f"{figure.name}-{part}" if part else figure.name))
    if frames is not None:
        plotting.save_movie(frames, figure.with_name(f"{figure.name}.gif"))
    printout.comparison(name, rows)
    printout.remarks(name, rows)
    printout.own_verdicts(name, rows)
    if lacking:
        raise UsageError(lacking)
    print(f"Rows: {path}   Figure: {figure}.png, .svg")
    if arguments.show:
        _show(figure.with_name(f"{figure.name}.png"))
    return int(failed)


def _in_a_file_name(changes: str) -> str:
    """Return changed settings as part of a file name, in which 1e-30 is not 1e+30."""
    return re.sub("[^A-Za-z0-9.=+-]+", "_", changes)


def _figures(module: ModuleType, rows: "list[Record]", folder: Path) -> "dict[str, Figure]":
    """Draw the one figure of an experiment, or those that also need what lies beside the rows."""
    if hasattr(module, "figures"):
        figures: dict[str, Figure] = module.figures(rows, folder)
        return figures
    return {"": module.plot(rows)}


def _show(figure: Path) -> None:
    """Open a figure in the system's viewer; say where it lies where there is no display."""
    from PIL import Image

    windows = sys.platform in ("win32", "darwin")
    if windows or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        with Image.open(figure) as image:
            image.show()
    else:
        print(f"--show: there is no display here. Open {figure} by hand.")


def _stored(path: Path, overrides: str, seed: int | None) -> "list[Record]":
    """Return the rows of one set of changes, of the newest protocol; of one seed if given."""
    from reproduce import records

    if not path.exists():
        raise UsageError(f"There are no rows in {path} yet. Leave --report-only out to make them.")
    rows = [row for row in records.read(path) if row.overrides == overrides]
    if not rows:
        raise UsageError(f"{path} has no rows with the changes {overrides!r}.")
    newest = max(row.protocol for row in rows)
    rows = [row for row in rows if row.protocol == newest and seed in (None, row.seed)]
    if not rows:
        raise UsageError(f"{path} has no rows of seed {seed}.")
    return rows


def _check_folders(ctx: "Context", path: Path) -> None:
    """Find out before a training whether its rows can be kept."""
    from reproduce import records

    for folder in (path.parent, ctx.runs):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UsageError(
                f"Cannot write to {folder}: {error.strerror}. Choose another folder with --out "
                "(results) or REPRODUCE_RUNS (run folders)."
            ) from error
    if path.exists():
        records.read(path)


def _context(module: ModuleType, arguments: argparse.Namespace, argv: list[str]) -> "Context":
    import torch

    from reproduce import placement
    from reproduce.context import Context
    from reproduce.precision import allow_tf32

    allow_tf32(False)  # what is measured in this process computes as the trainings do
    has_gpu = torch.cuda.is_available()
    device = arguments.device or ("cuda" if has_gpu or arguments.gpus is not None else "cpu")
    devices = arguments.devices_per_run or 1
    if device == "cuda" and arguments.launcher is None:
        _check_gpus("--device cuda" if arguments.gpus is None else "--gpus", devices)
    try:
        launcher = placement.choose(
            device,
            gpus=arguments.gpus,
            slots=arguments.slots,
            devices=devices,
            nodes=arguments.num_nodes or 1,
            cluster=arguments.launcher == "ray",
            time_limit=None if arguments.time_limit is None else 60 * arguments.time_limit,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    if launcher.threads is not None:
        # What this process measures of a trained model runs beside the trainings, and alike.
        torch.set_num_threads(launcher.threads)
    profile = arguments.profile or ("paper" if device == "cuda" else "quick")
    seeds = range(arguments.seeds or module.PROFILES[profile].seeds)
    return Context(
        profile=profile,
        device=device,
        device_text=_device_text(device),
        seeds=tuple(seeds) if arguments.seed is None else (arguments.seed,),
        changes=_changes(arguments),
        out=arguments.out,
        runs=_runs(arguments.out),
        data_root=arguments.data_root,
        command=("reproduce", *argv),
        devices=devices,
        nodes=arguments.num_nodes or 1,
        launcher=launcher,
        own=_own_rows(arguments.row),
        only=arguments.only or (),
        retry_failed=arguments.retry_failed,
    )


def _check_gpus(asked: str, devices: int) -> None:
    import torch

    if not torch.cuda.is_available():
        raise UsageError(f"{asked} was asked for, but torch sees no GPU. Use --device cpu.")
    if devices > torch.cuda.device_count():
        raise UsageError(
            f"--devices-per-run {devices}: torch sees {torch.cuda.device_count()} GPU(s)."
        )


def _device_text(device: str) -> str:
    import torch

    if device == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cuda"


def _headline(name: str, module: ModuleType, ctx: "Context") -> str:
    seeds = len(ctx.seeds)
    minutes = module.PROFILES[ctx.profile].duration(seeds)
    how = ctx.launcher.text
    elsewhere = ctx.device != "cpu" or ctx.processes > 1 or bool(how)
    if minutes is None or elsewhere or ctx.own or ctx.only or "trainer.max_epochs" in ctx.changes:
        time = "time not measured for this set-up"
    else:
        time = f"about {minutes:g} min on two CPU cores"
    where = f"{ctx.device_text}, {how}" if how else ctx.device_text
    return f"{name}: profile {ctx.profile}, {where}, {seeds} seed(s), {time}"


def _changes(arguments: argparse.Namespace) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if arguments.epochs is not None:
        changes = {"trainer.max_epochs": arguments.epochs, "trainer.limit_train_batches": 1.0}
    if arguments.set:
        import yaml

        from reproduce.jobs import short_key

        for assignment in arguments.set:
            key, equals, value = assignment.partition("=")
            if not (key and equals):
                raise UsageError(f"--set {assignment!r}: give KEY=VALUE, as model.stem=conv.")
            if key.split(".")[0] not in ("model", "data", "trainer"):
                raise UsageError(f"--set {key}: keys begin with model, data or trainer.")
            if short_key(key) in NOT_TO_SET:
                raise UsageError(f"--set {key}: use {NOT_TO_SET[short_key(key)]}.")
            # YAML 1.1 reads 1e-4 as text; a command line means the number.
            is_number = re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value)
            try:
                changes[key] = float(value) if is_number else yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise UsageError(f"--set {assignment!r}: {value!r} is no YAML value.") from error
    return changes


def _check_name(name: str) -> None:
    known = [*names(), *VERBS]
    if name in VERBS:
        raise UsageError(f"{name} goes first or stands alone; see --help.")
    if name not in names():
        raise UsageError(f"Unknown target {name!r}. Did you mean {nearest(name, known)}?")


def _check_numbers(arguments: argparse.Namespace) -> None:
    for flag in ("seeds", "epochs", "devices-per-run", "slots", "num-nodes"):
        value = getattr(arguments, flag.replace("-", "_"))
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: give 1 or more.")
    limit = arguments.time_limit
    if limit is not None and not 0 < limit < math.inf:
        raise UsageError(f"--time-limit {limit:g}: give minutes, more than 0.")
    if arguments.seed is not None and arguments.seeds is not None:
        raise UsageError("--seed and --seeds: give one of them.")
    if arguments.seed is not None and not 0 <= arguments.seed < 2**32:
        raise UsageError(f"--seed {arguments.seed}: give 0 to {2**32 - 1}.")


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
