"""Puts files in place, once, and trusts none of them before its SHA-256 is right."""

import gzip
import hashlib
import itertools
import os
import shutil
import sys
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Protocol

from filelock import FileLock

LOCK_SECONDS = 900.0


class DataUnavailable(RuntimeError):
    """The data is neither in its folder nor to be had from any source."""


class SourceFailed(RuntimeError):
    """One source did not deliver; the next one is asked."""


class Readable(Protocol):
    """What bytes come out of: a file, a gzip file, a member of a tar."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes, none at the end."""
        ...


@dataclass(frozen=True)
class DataFile:
    """A file by name, the SHA-256 of its content, and its size in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Source:
    """Where files come from; ``fetch`` fills a scratch folder and returns where they lie in it."""

    name: str
    fetch: Callable[[Path], Path]


def ensure_files(folder: Path, files: Sequence[DataFile], sources: Sequence[Source]) -> None:
    """Make every file lie in ``folder`` with the right content.

    Verified files are left alone, so a folder that cannot be written works when it is complete.
    Otherwise one process at a time repairs the folder and the others wait for it.

    Args:
        folder: Where the files belong; created if need be.
        files: What must be there.
        sources: Asked in this order for what is missing.

    Raises:
        DataUnavailable: If a file is still missing; says what was tried and what to do by hand.
    """
    if all(_verified(folder, file) for file in files):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            failures = _repair(folder, files, sources)
    except OSError as error:
        failures = [f"the folder itself: {_one_line(error)}"]
    # Where the folder cannot be written, a damaged file still lies in it.
    lacking = [file for file in files if not _verified(folder, file)]
    if lacking:
        raise DataUnavailable(_remedy(folder, lacking, failures))


def _repair(folder: Path, files: Sequence[DataFile], sources: Sequence[Source]) -> list[str]:
    """Complete the folder as far as the sources can; return why the others failed."""
    for leftover in folder.glob(".fetch-*"):  # of a process that was killed
        shutil.rmtree(leftover)
    for file in files:
        _put_damaged_aside(folder, file)
        _decompress_present(folder, file)
    failures: list[str] = []
    for source in sources:
        missing = [file for file in files if not (folder / file.name).exists()]
        if not missing:
            break
        print(f"Fetching {len(missing)} data files: {source.name}", file=sys.stderr)
        try:
            with TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
                _take(source.fetch(Path(scratch)), missing, folder)
        except (SourceFailed, OSError, RuntimeError, EOFError, tarfile.TarError) as error:
            failures.append(f"{source.name}: {_one_line(error)}")
    return failures


def _take(found: Path, files: Sequence[DataFile], folder: Path) -> None:
    for file in files:
        if not (found / file.name).is_file():
            raise SourceFailed(f"{file.name} was not delivered")
        with (found / file.name).open("rb") as stream:
            install(stream, file, folder)


def _verified(folder: Path, file: DataFile) -> bool:
    try:
        with (folder / file.name).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
    except OSError:
        return False


def _put_damaged_aside(folder: Path, file: DataFile) -> None:
    path = folder / file.name
    if path.exists() and not _verified(folder, file):
        _put_aside(path, "it fails its SHA-256 check")


def _put_aside(path: Path, reason: str) -> None:
    """Rename a damaged file, which may be all that somebody has of it."""
    aside = path.with_name(f"{path.name}.damaged")
    for number in itertools.count(2):
        if not aside.exists():
            break
        aside = path.with_name(f"{path.name}.damaged{number}")
    os.replace(path, aside)
    print(f"{path} is damaged ({reason}); it is now {aside.name}.", file=sys.stderr)


def _decompress_present(folder: Path, file: DataFile) -> None:
    path = folder / f"{file.name}.gz"
    if (folder / file.name).exists() or not path.exists():
        return
    try:
        with gzip.open(path) as stream:
            install(stream, file, folder)
    except (SourceFailed, gzip.BadGzipFile, EOFError, zlib.error) as error:
        _put_aside(path, _one_line(error))


def install(stream: Readable, file: DataFile, folder: Path) -> None:
    """Copy ``stream`` to its place in ``folder``, which no reader ever sees half-written.

    Raises:
        SourceFailed: If the stream is longer than the file or fails its SHA-256.
    """
    part = folder / f".{file.name}.part"
    try:
        with part.open("wb") as out:
            digest = _copy(stream, out, file)
        if digest != file.sha256:
            raise SourceFailed(f"{file.name} fails its SHA-256 check")
        os.replace(part, folder / file.name)
    finally:
        part.unlink(missing_ok=True)


def _copy(stream: Readable, out: IO[bytes], file: DataFile) -> str:
    digest, room = hashlib.sha256(), file.size
    while chunk := stream.read(min(1 << 20, room + 1)):
        room -= len(chunk)
        if room < 0:
            raise SourceFailed(f"{file.name} is larger than its {file.size} bytes")
        digest.update(chunk)
        out.write(chunk)
    return digest.hexdigest()


def unpack(archive: Path, prefix: str, files: Sequence[DataFile], into: Path) -> None:
    """Copy ``prefix`` + name out of a tar for each of ``files``; no other member is touched.

    Raises:
        SourceFailed: If such a member is no regular file or is larger than it should be.
    """
    wanted = {prefix + file.name: file for file in files}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = wanted.get(member.name)
            if file is None:
                continue
            stream = tar.extractfile(member) if member.isreg() else None
            if stream is None:
                raise SourceFailed(f"{member.name} in the archive is not a regular file")
            with stream, (into / file.name).open("wb") as out:
                _copy(stream, out, file)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _remedy(folder: Path, files: Sequence[DataFile], failures: Sequence[str]) -> str:
    names = ", ".join(file.name for file in files)
    return (
        f"The data could not be fetched ({'; '.join(failures)}). Missing or damaged: {names}. Put "
        f"a whole copy, plain or as .gz, into {folder.absolute()}, or name another data folder "
        "with --data-root (python -m reproduce), --data.root (python -m reproduce.train) or the "
        "environment variable REPRODUCE_DATA."
    )
