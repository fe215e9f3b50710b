"""Files that change as a whole and for one process at a time, or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

LARGEST = 1 << 28  # bytes of a file that is read as text, far above any of ours


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

    Raises:
        OSError: As the system says, with the path, such as that no space is left.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield scratch
        with open(scratch, "rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        if error.filename or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write names none
    finally:
        scratch.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
    """Replace the content of a file by ``text``, in UTF-8."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="")


def read(path: Path) -> str:
    """Return the text of a file that may come from a stranger; nothing in it is run.

    UTF-8, with or without a byte-order mark; line ends stay as they are.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no regular file (a link may lead to one), too large, or not text; the
            message names the file, the line where there is one, and what to do.
    """
    told = os.stat(path)
    if not stat.S_ISREG(told.st_mode):  # a pipe or a device might never end
        raise malformed(path, 1, "it is no regular file")
    if told.st_size > LARGEST:
        raise malformed(path, 1, f"it has {told.st_size:,} bytes, more than {LARGEST:,}")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise malformed(path, line, "it is not written in UTF-8") from None
    if "\0" in text:
        raise malformed(path, text.count("\n", 0, text.index("\0")) + 1, "it holds a NUL byte")
    return text


@contextmanager
def naming(path: Path, line: int) -> Iterator[None]:
    """Name the file and the line in a ValueError that the block raises about them."""
    try:
        yield
    except ValueError as error:
        raise malformed(path, line, str(error).rstrip(".")) from error


def refuse_stranger(path: Path, mark: str) -> None:
    """Refuse to replace a file that this suite has not written.

    Args:
        path: The file; it need not exist.
        mark: What is in the first lines of such a file of ours.

    Raises:
        ValueError: If the mark is not there.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        if mark not in file.read(4096):
            raise ValueError(
                f"{path} was not written by this suite, which would replace it. Move it away, or "
                "choose another folder with --out."
            )


def malformed(path: Path, line: int, reason: str) -> ValueError:
    """Return the error of a file that cannot be read as what it should be."""
    return ValueError(f"{path}, line {line}: {reason}. Mend the file, or remove it.")
