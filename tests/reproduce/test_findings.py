"""What experiments say of their own rows, and where the READMEs have it."""

from pathlib import Path

import pytest

from reproduce import findings, records
from reproduce.records import Record

SWEEP = "table2_sweep"


def _row(row: str, value: float, seed: int = 0, overrides: str = "") -> Record:
    return Record(SWEEP, row, "rmse", value, "", seed, "short", 1, "2,000 updates of Adam",
                  overrides, "cpu", f"{seed:012x}", "ok")  # fmt: skip


def test_findings_go_between_their_markers_and_nowhere_else(tmp_path: Path) -> None:
    begin = findings.BEGIN.format(SWEEP)
    text = f"before\n{begin}\nold\n{findings.END}\nafter\n"
    made = findings.inserted(tmp_path, text, {SWEEP: "new " * 40, "fig9": "not asked for"})
    assert made.startswith(f"before\n{begin}\n\nnew new")
    assert made.endswith("\nafter\n")
    assert "old" not in made
    assert "not asked for" not in made
    assert max(map(len, made.splitlines())) <= findings.WIDTH
    assert findings.inserted(tmp_path, made, {SWEEP: "new " * 40}) == made
    with pytest.raises(ValueError, match="lacks the line"):
        findings.inserted(tmp_path, f"{begin} and no end", {SWEEP: "new"})


def test_only_rows_of_the_plain_protocol_are_spoken_of() -> None:
    rows = [_row("base-rnn", 0.4), _row("base-rnn", 0.9, overrides="model.units=3")]
    assert findings.plain(rows) == rows[:1]
    assert "0.400" in findings.said(SWEEP, rows)
    assert findings.said(SWEEP, rows[1:]) == ""
    assert findings.said("decay", rows) == ""


def test_a_folder_is_spoken_of_by_the_profile_that_says_most(tmp_path: Path) -> None:
    records.append(tmp_path / SWEEP / "short.csv", [_row("base-rnn", 0.4)])
    (tmp_path / "decay").mkdir()
    assert list(findings.of_folder(tmp_path)) == [SWEEP]
    assert findings.of_folder(tmp_path / "none") == {}
