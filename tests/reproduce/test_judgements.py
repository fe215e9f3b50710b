"""Verdicts as lines, as CSV and as the generated parts of the READMEs."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from sample import ROW

from reproduce import findings, judgements, printout, records, report
from reproduce.__main__ import main
from reproduce.claims import claims
from reproduce.judgements import Line
from reproduce.paper import published
from reproduce.printout import SHIPPED, all_rows
from reproduce.records import Record


def _rows(row: str, shift: float = 0.0) -> list[Record]:
    errors = [
        replace(ROW, row=row, seed=seed, value=0.40 + 0.01 * seed + shift, run=f"{seed:012x}")
        for seed in range(5)
    ]
    return errors + [replace(r, metric="test_images", unit="images", value=10_000) for r in errors]


def _line(lines: list[Line], identity: str) -> Line:
    return next(line for line in lines if line.id == identity)


def test_every_number_and_claim_has_a_line_even_where_nothing_was_run() -> None:
    lines = judgements.judge([])
    assert {x.id for x in lines if x.kind == "claim"} == {claim.id for claim in claims()}
    assert sum(x.kind == "number" for x in lines) == sum(len(n.rows) for n in published())
    assert {x.verdict for x in lines} == {"not run", "not comparable"}
    assert {x.verdict for x in lines if x.kind == "claim"} == {"not run"}
    assert "Nothing to judge yet" in judgements.render(lines)


def test_a_line_says_what_its_verdict_rests_on() -> None:
    lines = judgements.judge(_rows("odenet") + _rows("resnet"))
    number = _line(lines, "table1.odenet.test_error")
    assert (number.verdict, number.profile, number.n) == ("reproduced", "short", 5)
    assert number.value == pytest.approx(0.42)
    assert number.low < 0.42 < number.high
    assert (number.binomial_low, number.binomial_high) == pytest.approx((0.311, 0.567), abs=1e-3)
    assert "skalermo" in number.others
    claim, condition = _line(lines, "C04"), _line(lines, "C04.1")
    assert claim.verdict == condition.verdict == "holds"
    assert condition.text == "table1/odenet/test_error against table1/resnet/test_error"
    assert (condition.least, condition.most) == (-0.13, 0.13)
    text = judgements.render(lines)
    assert "table1.odenet.test_error: reproduced under short." in text
    assert "C04: holds under short." in text


def test_the_csv_has_every_line_and_no_nan(tmp_path: Path) -> None:
    lines = judgements.judge(_rows("odenet"))
    judgements.write(tmp_path / "comparison.csv", lines)
    with open(tmp_path / "comparison.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [line["id"] for line in read] == [line.id for line in lines]
    assert "nan" not in (tmp_path / "comparison.csv").read_text()
    assert float(read[2]["least"]) > 0


def test_only_what_concerns_the_chosen_experiments_is_shown() -> None:
    lines = judgements.judge(_rows("odenet"))
    assert _line(lines, "C21").concerns(["ablations"])
    assert _line(lines, "C21").concerns(["table1"])
    assert not _line(lines, "C10").concerns(["table1", "ablations"])


def test_a_report_names_the_rules_that_were_written_when_rows_were_known() -> None:
    lines = judgements.judge(_rows("odenet"))
    claim = replace(_line(lines, "C21"), later="", before="")
    changed = replace(claim, later="A bound was added.", before="does not hold")
    assert "All rules that judge" in report.headline([claim])
    told = report.headline([changed, replace(changed, id="C98", before="")])
    assert "when rows were known: C21, C98." in told
    assert "verdicts on the shipped rows were others: C21 (does not hold)." in told
    assert "| C21 | A bound was added. |" in report.details([changed])


def test_markdown_goes_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    page.write_text(report.renewed(page, "new"))
    text = report.renewed(page, "new")
    assert text == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match=r"README\.md lacks the line"):
        report.renewed(page, "new")


@pytest.mark.parametrize("name", ["index.html", "comparison.csv"])
def test_a_report_replaces_no_file_of_somebody_elses(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--out", str(tmp_path)]) == 0
    assert main(["report", "--out", str(tmp_path)]) == 0  # its own it does
    (tmp_path / name).write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    capsys.readouterr()
    assert main(["report", "--out", str(tmp_path)]) != 0
    error = capsys.readouterr().err
    assert f"{name} was not written by this suite" in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_compare_prints_and_writes_all_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.append(tmp_path / "table1" / "short.csv", _rows("odenet") + _rows("resnet"))
    assert main(["compare", "table1", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "C04: holds under short." in printed
    assert "C10" not in printed
    written = tmp_path / "comparison.csv"
    assert written.stat().st_size > 1000
    written.write_text("mine")
    assert main(["compare", "table1", "--out", str(tmp_path)]) == 1
    assert "comparison.csv was not written by this suite" in capsys.readouterr().err
    assert written.read_text() == "mine"


def test_without_own_rows_compare_judges_the_shipped_ones_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--out", str(tmp_path / "none")]) == 0
    assert "C07: holds" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_the_shipped_verdicts_and_both_readmes_follow_from_the_shipped_rows(
    tmp_path: Path,
) -> None:
    lines = judgements.judge(all_rows(SHIPPED))
    judgements.write(tmp_path / "comparison.csv", lines)
    remedy = "run python -m reproduce report --out results"
    written = (tmp_path / "comparison.csv").read_text()
    assert (SHIPPED / "comparison.csv").read_text() == written, remedy
    found = findings.of_folder(SHIPPED)
    gallery = report.gallery(SHIPPED, lines, found)
    for path, part in (
        (SHIPPED / "README.md", f"{report.details(lines)}\n\n{gallery}"),
        (SHIPPED.parent / "README.md", report.headline(lines)),
    ):
        text = path.read_text()
        assert findings.inserted(path, report.replaced(path, text, part), found) == text, remedy


def test_a_command_ends_with_the_verdicts_that_need_no_other_experiment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spiral = [
        replace(ROW, experiment="spiral", row=row, metric=metric, seed=seed,
                value=value + 1e-3 * seed, run=f"{seed:012x}")
        for metric, row, value in (
            ("speed_ratio", "end", 1.0),
            ("speed_ratio", "path", 1.0),
            ("speed_ratio", "end_off_by_one", 1.05),
            ("field_error", "end", 0.05),
            ("field_error", "path", 0.05),
        )
        for seed in range(5)
    ]  # fmt: skip
    printout.own_verdicts("spiral", spiral)
    assert "D07: holds under short." in capsys.readouterr().out
    printout.own_verdicts("table1", spiral)
    assert capsys.readouterr().out == ""


def test_the_gallery_shows_what_says_most_and_links_the_rest(tmp_path: Path) -> None:
    for name in ("fig4/quick.png", "fig4/short.png", "fig4/short-variants.png", "fig5/short.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    shown = report.gallery(tmp_path, [], {})
    assert "(fig4/short.png)" in shown
    assert "[variants](fig4/short-variants.png)" in shown
    assert "quick" not in shown
    assert "fig5" not in shown
    assert ".gif" not in shown
    (tmp_path / "fig4" / "short.gif").touch()
    assert "(fig4/short.gif)" in report.gallery(tmp_path, [], {})


def test_a_demonstration_prints_its_numbers_beside_their_references_with_verdicts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        replace(ROW, experiment="decay", row="euler", metric=metric, value=value, unit="")
        for metric, value in (("end_10", 0.0009765625), ("end_14", 0.0021))
    ]
    printout.comparison("decay", rows)
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines[:4]]
    assert cells[0] == ["number", "ours", "reference", "verdict"]
    assert cells[2] == ["euler.end_10", "0.0009765625", "0.0009765625", "reproduced"]
    assert cells[3][3] == "different"
    printout.own_verdicts("decay", rows)
    assert "euler.end_10" not in capsys.readouterr().out


def test_a_number_that_cannot_be_judged_is_named_with_the_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = replace(ROW, experiment="toy_field", row="shown", metric="period", value=64.6, unit="")
    printout.own_verdicts("toy_field", [row])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("Not comparable: toy_field.shown.period. ")
    assert "weights" in shown
