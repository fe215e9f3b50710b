"""What a run folder holds, as bytes that can be sent to another machine."""

from collections.abc import Mapping
from pathlib import Path

from reproduce import storage

# Neither the lock nor anything else that lies there.
CHECKPOINTS = ("checkpoints/last.ckpt", "checkpoints/previous.ckpt")
FILES = ("*.json", "*.yaml", "*.csv", "log.txt", *CHECKPOINTS)


def pack(folder: Path) -> dict[str, bytes]:
    """Return the files of a run folder by their place in it; none if there is no such folder."""
    paths = [path for pattern in FILES for path in folder.glob(pattern)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def unpack(files: Mapping[str, bytes], folder: Path) -> None:
    """Write what `pack` returned into a folder, each file as a whole.

    Raises:
        ValueError: If one is no file of a run folder, or would lie outside; none is written.
    """
    for name in files:
        if not any(_fits(Path(name), Path(pattern)) for pattern in FILES):
            raise ValueError(f"{name!r} was sent, which is no file of a run folder.")
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with storage.replacing(path) as scratch:
            scratch.write_bytes(content)


def _fits(name: Path, pattern: Path) -> bool:
    return len(name.parts) == len(pattern.parts) and name.match(str(pattern))
