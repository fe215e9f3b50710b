"""What a run folder holds, as bytes that can be sent to another machine."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from reproduce import storage

# Neither the lock nor anything else that lies there. In this order they are written, and read in
# the other: a checkpoint counts lines of the log, and a summary says that all is there.
CHECKPOINTS = ("checkpoints/last.ckpt", "checkpoints/previous.ckpt")
FILES = ("*.yaml", "*.csv", "log.txt", *CHECKPOINTS, "*.json")


def pack(folder: Path) -> dict[str, bytes]:
    """Return the files of a run folder by their place in it; none if there is no such folder."""
    found = {}
    for path in (path for pattern in reversed(FILES) for path in folder.glob(pattern)):
        with suppress(FileNotFoundError):  # another command may be training there
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Write what `pack` returned into a folder, each file as a whole and the summary at the end.

    Raises:
        ValueError: If one is no file of a run folder, or would lie outside; none is written.
    """
    for name in files:
        if not any(_fits(Path(name), Path(pattern)) for pattern in FILES):
            raise ValueError(f"{name!r} was sent, which is no file of a run folder.")
    for pattern in map(Path, FILES):
        for name in (name for name in files if _fits(Path(name), pattern)):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with storage.replacing(path) as scratch:
                scratch.write_bytes(files[name])


def _fits(name: Path, pattern: Path) -> bool:
    return len(name.parts) == len(pattern.parts) and name.match(str(pattern))
