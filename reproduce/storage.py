"""Files that change as a whole and for one process at a time, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes from changing a file within the block; its folder is created.

    Args:
        path: The file. Its lock stays beside it: removing it would be a race.

    Raises:
        OSError: If the folder cannot be written to; the message says how to choose another.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"Cannot write {path.name} in the folder {path.parent}: {reason}. "
            "Choose another folder with --out."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch file that takes the place of ``path`` when the block ends without error.

    No reader ever meets half of the file, and an interrupted block leaves the old one.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        with open(scratch, "rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Replace the content of a file by ``text``, in UTF-8."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="")
