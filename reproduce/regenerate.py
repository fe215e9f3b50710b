"""One experiment from its arguments to its rows, figure and comparison."""

import importlib
import os
import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from matplotlib.figure import Figure

from reproduce import folders, own_rows, placement, plotting, printout, provenance, records
from reproduce.arguments import OF_TRAININGS, changes, check_flags
from reproduce.context import Context
from reproduce.jobs import BadSettings
from reproduce.own_rows import OwnRow
from reproduce.precision import allow_tf32
from reproduce.records import Record
from reproduce.usage import UsageError

TAKING_ROWS = ("table1", "ablations", "table2", "fig3")


def check(name: str, arguments: Namespace) -> None:
    """Refuse flags that an experiment does not read.

    Raises:
        UsageError: If there are any.
    """
    module = _module(name)
    settable = ("set",) if getattr(module, "SETTABLE", False) else ()
    unread = () if module.TRAINS else [flag for flag in OF_TRAININGS if flag not in settable]
    check_flags(arguments, name, unread)
    reads = {
        "seed": getattr(module, "SEEDED", module.TRAINS),
        "only": getattr(module, "SELECTS", False),
    }
    check_flags(arguments, name, [flag for flag in reads if not reads[flag]])
    if arguments.row and name not in TAKING_ROWS:
        raise UsageError(_no_rows(name, module))


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"reproduce.experiments.{name}")


def _no_rows(name: str, module: ModuleType) -> str:
    """Say why an experiment takes no rows of the user's own."""
    why = (
        "its rows are variants of our own models, whose inside is measured"
        if module.TRAINS
        else "it trains nothing"
    )
    return f"{name} takes no --row: {why}. It goes with {', '.join(TAKING_ROWS)}."


def run(name: str, arguments: Namespace, argv: list[str]) -> int:
    """Run one experiment, draw its figure and print its comparison.

    Args:
        name: The experiment, a module of `reproduce.experiments`.
        arguments: The command line, parsed.
        argv: And as it was given, for provenance.

    Returns:
        The exit status: 1 if anything that was measured now failed.

    Raises:
        UsageError: If the command line asks for what does not exist, or rows are lacking.
    """
    module = _module(name)
    ctx = build_context(module, arguments, argv)
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
    if rows and not arguments.report_only:
        # The figure is of all that there are: of one seed of a job array, or of one problem, too.
        rows = _stored(path, ctx.overrides_text, None)
    # A figure of changed settings does not replace that of the plain protocol.
    changed = f"-{in_a_file_name(ctx.overrides_text)}" if ctx.changes else ""
    figure = path.with_name(path.stem + changed)
    lacking = ""
    drawn = any(row.status == "ok" for row in rows)
    try:
        drawings = _figures(module, rows, path.parent) if drawn else {}
        frames = module.movie(rows, path.parent) if drawn and hasattr(module, "movie") else None
    except LookupError as error:
        drawings, frames, lacking = {}, None, str(error)
    for part, drawing in drawings.items():
        plotting.save(drawing, figure.with_name(f"{figure.name}-{part}" if part else figure.name))
    if frames is not None:
        plotting.save_movie(frames, figure.with_name(f"{figure.name}.gif"))
    printout.comparison(name, rows)
    printout.remarks(name, rows)
    printout.own_verdicts(name, rows)
    if lacking and (failed or ctx.changes):  # nothing is wrong with the command
        why = (
            "the column hint of the rows says what to do"
            if failed
            else "weights are kept of unchanged settings alone"
        )
        print(f"Rows: {path}   No figure: it lacks {lacking}; {why}.")
        return int(failed)
    if lacking:
        raise UsageError(
            f"{path} lacks what the figure needs, first {lacking}: a run was interrupted, or "
            "trainings failed. Run the command again without --report-only."
        )
    if not drawn:
        print(f"Rows: {path}   No figure: none of them is ok; see their column hint.")
        return int(failed)
    print(f"Rows: {path}   Figure: {figure}.png, .svg")
    if arguments.show:
        _show(figure.with_name(f"{figure.name}.png"))
    return int(failed)


def in_a_file_name(changes: str) -> str:
    """Return changed settings as part of a file name, in which 1e-30 is not 1e+30."""
    return re.sub("[^A-Za-z0-9.=+-]+", "_", changes)


def _figures(module: ModuleType, rows: list[Record], folder: Path) -> dict[str, Figure]:
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


def _stored(path: Path, overrides: str, seed: int | None) -> list[Record]:
    """Return the rows of one set of changes, of the newest protocol; of one seed if given."""
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


def _check_folders(ctx: Context, path: Path) -> None:
    """Find out before a training whether its rows can be kept."""
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
    # What is damaged is found out now, not when there is a measurement to be written.
    if path.exists():
        records.read(path)
    if provenance.path_for(path).exists():
        provenance.read(path)


def build_context(module: ModuleType, arguments: Namespace, argv: list[str]) -> Context:
    """Decide where and with what an experiment runs.

    Args:
        module: The experiment.
        arguments: The command line, parsed.
        argv: And as it was given, for provenance.

    Raises:
        UsageError: If something asked for is not there, or settings are none.
    """
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
        changes=changes(arguments),
        out=arguments.out,
        runs=folders.runs(arguments.out),
        data_root=arguments.data_root,
        command=("reproduce", *argv),
        devices=devices,
        nodes=arguments.num_nodes or 1,
        launcher=launcher,
        own=_own_rows(arguments.row),
        only=arguments.only or (),
        retry_failed=arguments.retry_failed,
    )


def _own_rows(files: Sequence[Path]) -> tuple[OwnRow, ...]:
    found: dict[str, OwnRow] = {}
    for path in files:
        try:
            row = own_rows.read(path, {*plotting.NAMES, *found})
        except ValueError as error:
            raise UsageError(str(error)) from error
        found[row.name] = row
    return tuple(found.values())


def _check_gpus(asked: str, devices: int) -> None:
    if not torch.cuda.is_available():
        raise UsageError(f"{asked} was asked for, but torch sees no GPU. Use --device cpu.")
    if devices > torch.cuda.device_count():
        raise UsageError(
            f"--devices-per-run {devices}: torch sees {torch.cuda.device_count()} GPU(s)."
        )


def _device_text(device: str) -> str:
    if device == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cuda"


def _headline(name: str, module: ModuleType, ctx: Context) -> str:
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
