"""Results from strangers: whatever the files hold, one line says which, where and what to do."""

import ast
import csv
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save as to_bytes
from sample import ROW

from reproduce import evidence, provenance, records, tables, trained, weights
from reproduce.__main__ import main

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for package in ("lightning_modules", "datamodules", "reproduce")
    for path in sorted((ROOT / package).rglob("*.py"))
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "table1" / "short.csv"
    records.append(path, [ROW])
    return path


def _refusal(act: Callable[[], Any], path: Path) -> str:
    """Return the message of a refusal: one printable line that names the file and the remedy."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        act()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < len(str(path)) + 300
    assert "emove it" in message
    return message


BROKEN: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "NUL byte": (lambda b: b.replace(b"odenet", b"ode\0net"), 2, "NUL"),
    "Latin 1": (lambda b: b.replace(b"odenet", b"od\xe9net"), 2, "UTF-8"),
    "UTF-16": (lambda b: b.decode().encode("utf-16"), 1, "UTF-8"),
    "empty": (lambda b: b"", 1, "columns"),
    "no header": (lambda b: b.split(b"\n", 1)[1], 1, "columns"),
    "column missing": (lambda b: b.replace(b"metric,", b"", 1), 1, "columns"),
    "column twice": (lambda b: b.replace(b"metric", b"row", 1), 1, "columns"),
    "field missing": (lambda b: b.replace(b",ok,", b","), 2, "13 cells"),
    "field too many": (lambda b: b.replace(b",ok,", b",ok,ok,"), 2, "15 cells"),
    "blank line": (lambda b: b + b"\n", 3, "0 cells"),
    "huge field": (lambda b: b.replace(b"odenet", b"x" * 200_000), 2, "field limit"),
    "open quote": (lambda b: b.replace(b",ok,", b',ok,"'), 2, "end of data"),
    "text for a value": (lambda b: b.replace(b",0.42,", b",high,"), 2, "not a number"),
    "value in words": (lambda b: b.replace(b",0.42,", b",0.4_2,"), 2, "not a number"),
    "code for a value": (lambda b: b.replace(b",0.42,", b",__import__('os'),"), 2, "not a number"),
    "NaN": (lambda b: b.replace(b",0.42,", b",nan,"), 2, "does not go with"),
    "infinity": (lambda b: b.replace(b",0.42,", b",1e999,"), 2, "does not go with"),
    "endless integer": (lambda b: b.replace(b",0.42,", b"," + b"9" * 5000 + b","), 2, "inf"),
    "text for a seed": (lambda b: b.replace(b"%,0,", b"%,first,"), 2, "seed is 'first'"),
    "endless seed": (lambda b: b.replace(b"%,0,", b"%," + b"7" * 5000 + b","), 2, "seed is"),
    "unknown profile": (lambda b: b.replace(b",short,", b",long,"), 2, "Unknown profile"),
    "unknown status": (lambda b: b.replace(b",ok,", b",fine,"), 2, "Unknown status"),
    "no identity": (lambda b: b.replace(b"0123456789ab", b"../../etc"), 2, "hexadecimal"),
    "terminal codes": (lambda b: b.replace(b"odenet", b"\x1b[2Jnet"), 2, "row is"),
    "terminal codes in a text": (lambda b: b.replace(b"3 ep", b"\x1b]0;x\x07"), 2, "control"),
    "no row": (lambda b: b.replace(b",odenet,", b",,"), 2, "not a name"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_malformed_rows_are_named_by_file_and_line(kind: str, rows: Path) -> None:
    breaks, line, reason = BROKEN[kind]
    rows.write_bytes(breaks(rows.read_bytes()))
    message = _refusal(lambda: records.read(rows), rows)
    assert f"short.csv, line {line}: " in message
    assert reason in message


def test_a_command_that_meets_one_says_so_in_one_line(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows.write_text("experiment;row\n")
    assert main(["compare", "table1", "--out", str(rows.parents[1])]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {rows}, line 1: the columns are not experiment,row")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "rewritten",
    [
        lambda b: b"\xef\xbb\xbf" + b,
        lambda b: b.replace(b"\n", b"\r\n"),
        lambda b: b.rstrip(b"\n"),
        lambda b: b.replace(b"odenet", b'"odenet"'),
    ],
    ids=["byte-order mark", "CRLF", "no last line end", "quoted"],
)
def test_what_a_spreadsheet_makes_of_a_file_is_still_read(
    rewritten: Callable[[bytes], bytes], rows: Path
) -> None:
    rows.write_bytes(rewritten(rows.read_bytes()))
    assert records.read(rows) == [ROW]


def _link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, _link], ids=["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    make: Callable[[Path], None], rows: Path
) -> None:
    rows.unlink()
    make(rows)
    assert "no regular file" in _refusal(lambda: records.read(rows), rows)


def test_a_link_to_another_file_tells_nothing_of_its_content(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("password\n")
    rows.unlink()
    rows.symlink_to(tmp_path / "secret")
    assert "password" not in _refusal(lambda: records.read(rows), rows)


def test_a_file_beyond_every_size_is_refused_before_it_is_read(rows: Path) -> None:
    with rows.open("ab") as file:
        file.truncate(1 << 40)  # sparse
    assert "bytes, more than" in _refusal(lambda: records.read(rows), rows)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ('{"runs": {"0123456789ab": {"commit": ', "Expecting"),
        ("[]", "indices"),
        ("null", "subscriptable"),
        ("{}", "lacks 'runs'"),
        ('{"runs": []}', "not named"),
        ('{"runs": {"0123456789ab": 5}}', "not described"),
        ("[" * 200_000, "recursion"),
        ('{"runs": ' + "9" * 5000 + "}", "limit"),
    ],
    ids=["open", "truncated", "list", "null", "no runs", "runs as list", "number", "deep", "huge"],
)
def test_malformed_provenance_is_named(text: str, reason: str, rows: Path) -> None:
    path = provenance.path_for(rows)
    path.write_text(text)
    assert reason in _refusal(lambda: provenance.read(rows), path)


@pytest.mark.parametrize("content", [b'{"runs": {}}\0', b"\xff\xfe{", b'{"runs": "\xe9"}'])
def test_provenance_that_is_no_text_is_named(content: bytes, rows: Path) -> None:
    path = provenance.path_for(rows)
    path.write_bytes(content)
    assert "line 1" in _refusal(lambda: provenance.read(rows), path)


@pytest.mark.parametrize(
    ("column", "cell"), [("seed", "one"), ("update", "1.5"), ("value", "low"), ("update", "")]
)
def test_malformed_curves_are_named_by_file_and_line(
    column: str, cell: str, tmp_path: Path
) -> None:
    path = tmp_path / "curves.csv"
    whole = dict(zip(evidence.CURVE, ("odenet", "0", "", "ab", "50", "loss", "1.5"), strict=True))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, evidence.CURVE)
        writer.writeheader()
        writer.writerows([whole, {**whole, column: cell}])
    message = _refusal(lambda: evidence.read(path, evidence.CURVE), path)
    assert f"line 3: {column} is '{cell}', which is not a number" in message


def test_columns_that_a_reader_did_not_ask_for_are_let_be_where_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss\n0,7,0.5\n")
    assert [line["step"] for _, line in tables.rows(path, ("step", "..."))] == ["7"]
    _refusal(lambda: list(tables.rows(path, ("step",))), path)
    _refusal(lambda: list(tables.rows(path, ("update", "..."))), path)


def _weights(facts: object, packed: object, **tensors: torch.Tensor) -> bytes:
    given = tensors or {"0.weight": torch.zeros(2, 2)}
    return to_bytes(given, metadata={"facts": json.dumps(facts), "packed": json.dumps(packed)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        to_bytes({"a": torch.zeros(2)}),
        _weights({}, []) [:-1],
        _weights([], []),
        _weights({}, 5),
        _weights({}, [["a"]]),
        _weights({}, ["0.weight"]),
        _weights({}, ["a"], a=torch.zeros(2, 2), **{"a.scale": torch.zeros(3)}),
    ],
    ids=[
        "empty", "zip", "header of 4 EiB", "header of another shape", "no facts", "truncated",
        "facts as list", "packed as number", "packed of lists", "no scale", "another scale",
    ],
)  # fmt: skip
def test_malformed_weights_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    _refusal(lambda: weights.load(path), path)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"hyper_parameters": 5},
        {"hyper_parameters": {"wings": 2}},
        {"hyper_parameters": {"body": "os.system"}},
        {"hyper_parameters": {"body": "ode", "solver": {"backend": "os:system"}}},
        {"hyper_parameters": {"body": "ode", "solver": "x"}},
        {"hyper_parameters": {"body": "mlp"}},
        {"hyper_parameters": {"body": "mlp"}, "dtype": "nn"},
    ],
    ids=[
        "none", "number", "unknown", "other body", "code for a backend", "text for settings",
        "other network", "no dtype",
    ],
)  # fmt: skip
def test_weights_of_another_network_are_named_and_import_nothing(
    facts: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(_weights(facts, []))
    assert "does not fit" in _refusal(lambda: trained.classifier(path), path)


class _Evil:
    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.ran,))


def test_evidence_of_a_run_never_runs_what_its_checkpoint_hides(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    evil = {"state_dict": {}, "hyper_parameters": {"x": _Evil(tmp_path / "ran")}}
    torch.save(evil, path)
    _refusal(lambda: evidence.keep(tmp_path / "short.csv", tmp_path / "run", ROW), path)
    assert not (tmp_path / "ran").exists()
    torch.save([1], path)
    _refusal(lambda: weights.checkpoint(path), path)
    path.write_bytes(path.read_bytes()[:-20])
    _refusal(lambda: weights.checkpoint(path), path)


def _calls(path: Path) -> list[tuple[str, ast.Call]]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return [(ast.unparse(n.func), n) for n in nodes if isinstance(n, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_evaluates_or_unpickles(path: Path) -> None:
    executing = {"eval", "exec", "compile", "pickle.load", "pickle.loads", "joblib.load"}
    executing |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "marshal.loads"}
    for name, call in _calls(path):
        assert name not in executing
        given = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name == "torch.load" or name.endswith(".load_from_checkpoint"):
            assert given.get("weights_only") == "True"
        if name in ("np.load", "numpy.load"):
            assert "allow_pickle" not in given
        assert given.get("shell") != "True"
