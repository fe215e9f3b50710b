import math
import os
import threading
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample import ROW

from reproduce import records, storage
from reproduce.records import Record

OK = replace(ROW, profile="quick", budget="0.64 of an epoch, batch 128")
FAILED = replace(OK, value=math.nan, status="solver_failed", hint="Loosen rtol.")


def _same(left: list[Record], right: list[Record]) -> bool:
    """Compare bit for bit, NaN included."""
    return [repr(astuple(r)) for r in left] == [repr(astuple(r)) for r in right]


@pytest.mark.parametrize(
    "value",
    [0.1 + 0.2, 1 / 3, 5e-324, -0.0, 1.7976931348623157e308, 601_482, 2**63 + 1, 3.0],
)
def test_a_value_comes_back_bit_for_bit(tmp_path: Path, value: float) -> None:
    path = tmp_path / "quick.csv"
    records.append(path, [replace(OK, value=value)])
    back = records.read(path)[0].value
    assert repr(back) == repr(value)
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "text", ["", "nan", "NA", "1e-4", "None", ' a,"b"\n', "x\ry\r\nz", "ε ± 1", "true"]
)
def test_text_comes_back_as_it_was(tmp_path: Path, text: str) -> None:
    path = tmp_path / "quick.csv"
    records.append(path, [replace(OK, overrides=text, hint=text, unit=text)])
    assert _same(records.read(path), [replace(OK, overrides=text, hint=text, unit=text)])


def test_the_scalars_of_numpy_become_plain_numbers() -> None:
    assert type(replace(OK, value=np.float64(0.5)).value) is float
    assert type(replace(OK, value=np.int64(7)).value) is int


def test_a_failed_record_comes_back(tmp_path: Path) -> None:
    records.append(tmp_path / "quick.csv", [FAILED])
    assert _same(records.read(tmp_path / "quick.csv"), [FAILED])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "failed"}, "Unknown status 'failed'"),
        ({"value": math.nan}, "does not go with status 'ok'"),
        ({"value": math.inf}, "does not go with status 'ok'"),
        ({"status": "diverged"}, "does not go with status 'diverged'"),
        ({"run": "0123"}, "not 12 hexadecimal digits"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OK, **change)


def test_a_newer_record_of_the_same_run_takes_the_place_of_the_older(tmp_path: Path) -> None:
    path = tmp_path / "quick.csv"
    others = [replace(OK, metric="nfe"), replace(OK, seed=1), replace(OK, overrides="a=1")]
    records.append(path, [OK, *others])
    records.append(path, [replace(OK, value=0.5)])
    assert len(records.read(path)) == 4
    assert replace(OK, value=0.5) in records.read(path)
    assert OK not in records.read(path)


def test_a_seed_does_not_count_twice_when_its_run_has_another_identity(tmp_path: Path) -> None:
    path = tmp_path / "quick.csv"
    records.append(path, [OK, replace(OK, metric="nfe"), replace(OK, seed=1)])
    renewed = replace(OK, run="ffffffffffff", value=0.5)
    records.append(path, [renewed])
    assert records.read(path) == [renewed, replace(OK, seed=1)]


def test_a_failed_run_gives_way_to_its_repetition_but_other_failures_stay(tmp_path: Path) -> None:
    path = tmp_path / "quick.csv"
    records.append(path, [FAILED, replace(FAILED, seed=1)])
    records.append(path, [replace(OK, metric="parameters", value=232_970)])
    assert [(r.seed, r.status) for r in records.read(path)] == [(0, "ok"), (1, "solver_failed")]


def test_rows_that_others_stand_in_for_go_whether_or_not_they_come_again(tmp_path: Path) -> None:
    path = tmp_path / "quick.csv"
    gone = [replace(OK, row="cnf_a"), replace(OK, row="cnf_a", metric="nfe"),
            replace(FAILED, row="cnf_b", metric="all")]  # fmt: skip
    staying = [replace(OK, row="cnf_1_a"), replace(OK, row="cnf_a", seed=1),
               replace(OK, row="cnf_a", overrides="a=1")]  # fmt: skip
    records.append(path, [*gone, *staying])
    new = [replace(OK, row="cnf_a", value=0.5), replace(OK, row="cnf_c")]
    records.append(path, new, instead_of=("cnf_a", "cnf_b", "cnf_c"))
    assert records.read(path) == records.merge([], [*staying, *new])


def test_the_order_of_rows_does_not_depend_on_when_they_came(tmp_path: Path) -> None:
    rows = [replace(OK, row=row, seed=seed) for row in ("a", "b") for seed in (0, 2, 10)]
    records.append(tmp_path / "a.csv", rows)
    for row in reversed(rows):
        records.append(tmp_path / "b.csv", [row])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert [r.seed for r in records.read(tmp_path / "a.csv")] == [0, 2, 10] * 2


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "quick.csv"
    writers = [
        threading.Thread(target=records.append, args=(path, [replace(OK, seed=seed)]))
        for seed in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [r.seed for r in records.read(path)] == list(range(8))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("0.42", "high", 2, "value is 'high', which is not a number"),
        (",ok,", ",fine,", 2, "Unknown status 'fine'"),
        (",ok,", ",", 2, "13 cells instead of 14"),
        ("experiment,", "", 1, "the columns are not experiment,row"),
        (",ok,", ',"ok,', 2, "unexpected end of data"),
    ],
)
def test_a_malformed_file_is_named_with_its_line_and_left_alone(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    path = tmp_path / "quick.csv"
    records.append(path, [OK])
    broken = path.read_text().replace(old, new, 1)
    path.write_text(broken)
    with pytest.raises(ValueError, match=rf"quick\.csv, line {line}: .*{message}"):
        records.append(path, [replace(OK, seed=1)])
    assert path.read_text() == broken


def test_an_empty_file_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "quick.csv").touch()
    with pytest.raises(ValueError, match=r"quick\.csv, line 1"):
        records.read(tmp_path / "quick.csv")


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"quick\.csv in the folder .*file.*--out"):
        records.append(tmp_path / "file" / "quick.csv", [OK])


def test_an_interrupted_write_leaves_the_old_rows_and_no_scratch_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "quick.csv"
    records.append(path, [OK])

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match=r"Read-only file system.*--out"):
        records.append(path, [replace(OK, seed=1)])
    assert records.read(path) == [OK]
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))


def test_a_full_disk_is_told_with_the_file_which_stays_as_it_was(tmp_path: Path) -> None:
    """Linux has a device that is always full."""
    path = tmp_path / "plan.json"
    storage.write(path, "old")
    (tmp_path / f".plan.json.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*plan.json"):
        storage.write(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    assert path.read_text() == "old"


def test_a_frame_keeps_every_column_and_empty_text() -> None:
    frame = records.to_frame([OK, FAILED])
    assert tuple(frame.columns) == records.COLUMNS
    assert list(frame["overrides"]) == ["", ""]
    assert tuple(records.to_frame([]).columns) == records.COLUMNS


def test_a_summary_counts_what_failed_and_describes_what_did_not() -> None:
    rows = [replace(OK, seed=seed, value=value) for seed, value in enumerate((0.4, 0.5, 0.9))]
    rows += [replace(OK, seed=seed, metric="nfe", value=20) for seed in range(3)]
    (told,) = records.summary([*rows, replace(FAILED, seed=3)], "test_error")
    assert (told.n_ok, told.n_failed, told.failures) == (3, 1, (("solver_failed", 1),))
    assert told.mean == pytest.approx(np.mean([0.4, 0.5, 0.9]))
    assert told.sd == pytest.approx(np.std([0.4, 0.5, 0.9], ddof=1))
    assert (told.min, told.max, told.unit) == (0.4, 0.9, "%")


def test_a_failed_run_counts_for_every_metric_it_gave_no_value_of() -> None:
    rows = [FAILED, replace(OK, metric="parameters", value=7)]
    assert records.summary(rows, "nfe")[0].n_failed == 1
    assert records.summary(rows, "parameters")[0].n_failed == 0


def test_one_seed_has_no_spread_and_groups_stay_apart() -> None:
    rows = [OK, replace(OK, overrides="model.stem=conv"), replace(OK, protocol=2)]
    told = records.summary(rows, "test_error")
    assert [s.n_ok for s in told] == [1, 1, 1]
    assert all(math.isnan(s.sd) for s in told)
    assert records.summary(rows, "nfe") == []
