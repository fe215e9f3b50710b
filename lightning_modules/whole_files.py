"""Files that are replaced as a whole or not at all, also when power or room runs out.

`reproduce.storage` has its own, since it is used where nothing of torch is imported.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of ``path`` when the block ends without error.

    It has reached the disk by then. An interrupted block leaves the old file as it was; what a
    killed one leaves beside it, the next one replaces.

    Raises:
        OSError: As the system says, with the path, such as that no space is left.
    """
    scratch = path.with_name(f".{path.name}.tmp")
    try:
        with scratch.open("wb") as file:
            yield file
            reach_disk(file)
        os.replace(scratch, path)
    except OSError as error:
        raise naming(path, error) from error
    finally:
        scratch.unlink(missing_ok=True)


def reach_disk(file: BinaryIO) -> None:
    """Wait until what was written to a file would survive a loss of power."""
    file.flush()
    os.fsync(file.fileno())


def naming(path: Path, error: OSError) -> OSError:
    """Return an error of the system that says which file it was about: a write does not."""
    told = error.filename or error.errno is None
    return error if told else OSError(error.errno, error.strerror, str(path))
