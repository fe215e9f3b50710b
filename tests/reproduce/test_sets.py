"""Two sets of results side by side, and what of the shipped verdicts no longer holds."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import sample
from scipy import stats

from reproduce import provenance, records, result_sets, set_table, sets, statistics, strict
from reproduce.__main__ import main
from reproduce.claims import claims
from reproduce.records import Record
from reproduce.result_sets import ResultSet
from reproduce.sets import SetLine

SHIPPED = Path(__file__).parents[2] / "results"
ROW = replace(
    sample.ROW, value=0.5, budget="3 epochs, batch 128, one cycle, native dopri5 adjoint at 0.001"
)
FIVE = (0.50, 0.52, 0.54, 0.56, 0.58)
SETTINGS = {
    "data": {"init_args": {"batch_size": 128, "root": "here"}},
    "model": {"init_args": {"solver": {"backend": "native"}, "field": None}},
    "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 3},
}


def _rows(values: Sequence[float], **changes: Any) -> list[Record]:
    return [replace(ROW, seed=seed, value=v, **changes) for seed, v in enumerate(values)]


def _set(rows: Sequence[Record], settings: dict[str, Any] | None = None) -> ResultSet:
    made = {ROW.run: {"settings": settings}} if settings else {}
    return ResultSet("set", tuple(rows), made, ())


def _one(
    a: Sequence[Record], b: Sequence[Record], told: Sequence[dict[str, Any]] = ({}, {})
) -> SetLine:
    (line,) = sets.compare(_set(a, told[0]), _set(b, told[1]))
    return line


def test_intervals_and_p_values_are_scipys_of_welch() -> None:
    others = [value + 0.3 for value in reversed(FIVE[1:])] + [0.71]
    line = _one(_rows(FIVE), _rows(others))
    wanted = stats.ttest_ind(others, FIVE, equal_var=False)
    interval = wanted.confidence_interval(0.95)
    assert (line.low, line.high, line.p) == pytest.approx(
        (interval.low, interval.high, wanted.pvalue)
    )
    assert line.difference == pytest.approx(sum(others) / 5 - sum(FIVE) / 5)
    assert line.verdict == "differs"


def test_within_the_papers_tolerance_two_means_are_the_same_even_if_told_apart() -> None:
    line = _one(_rows(FIVE), _rows([v / 10 + 0.55 for v in FIVE]))
    assert line.margin == 0.13
    assert line.verdict == "same"
    line = _one(_rows(FIVE), _rows([0.60, 0.601, 0.602, 0.603, 0.604]))
    assert line.p_holm < 0.05
    assert (line.verdict, line.high < 0.13) == ("same", True)


def test_a_margin_of_a_claim_stands_where_nothing_was_published() -> None:
    rows = [
        _rows([v + shift for v in FIVE], experiment="ablations", row="small_resnet")
        for shift in (0.0, 0.001)
    ]
    line = _one(*rows)
    assert (line.margin, line.verdict) == (0.13, "same")


def test_without_a_margin_nothing_is_called_the_same() -> None:
    line = _one(_rows(FIVE, metric="test_loss"), _rows(FIVE[::-1], metric="test_loss"))
    assert line.verdict == "cannot tell"
    assert "no margin is fixed" in line.detail
    assert line.seeds_needed is None


def test_a_wide_interval_cannot_tell_and_says_how_many_seeds_would() -> None:
    wide = [0.1, 0.3, 0.5, 0.7, 0.9]
    line = _one(_rows(wide), _rows([v + 0.05 for v in wide]))
    assert line.verdict == "cannot tell"
    sd = stdev(wide)
    wanted = statistics.seeds_to_bound_difference(sd, sd, 0.13 - 0.05)
    assert wanted is not None
    assert line.seeds_needed == pytest.approx(wanted, abs=1)
    assert line.seeds_needed > 100


def test_below_five_seeds_there_is_no_verdict_but_equal_values_are_equal() -> None:
    line = _one(_rows(FIVE), _rows([9.0, 9.1]))
    assert (line.verdict, line.seeds_needed) == ("cannot tell", 5)
    assert "2 of 5 seeds" in line.detail
    assert math.isnan(line.p)
    assert _one(_rows([0.5]), _rows([0.5])).verdict == "same"


def test_p_values_account_for_the_number_of_tests() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []
    alone = _one(_rows(FIVE, metric="loss"), _rows([v + 0.06 for v in FIVE], metric="loss"))
    assert (alone.verdict, alone.p == alone.p_holm) == ("differs", True)
    names = [f"metric_{k}" for k in range(20)]
    a = [row for name in names for row in _rows(FIVE, metric=name)]
    b = [row for name in names for row in _rows([v + 0.06 for v in FIVE], metric=name)]
    lines = sets.compare(_set(a), _set(b))
    assert {line.verdict for line in lines} == {"cannot tell"}
    assert lines[0].p_holm == pytest.approx(20 * alone.p)


def test_costs_are_ratios_and_never_judged() -> None:
    rows = [_rows([v * k for v in FIVE], metric="train_seconds", unit="s") for k in (1, 3)]
    line = _one(*rows)
    assert (line.verdict, line.ratio) == ("cost", pytest.approx(3))
    assert math.isnan(line.p)


@pytest.mark.parametrize(
    ("metric", "unit", "values", "verdict"),
    [
        ("parameters", "parameters", (232_970, 232_971), "same"),  # the paper's tolerance
        ("parameters", "parameters", (232_970, 300_000), "differs"),
        ("test_images", "images", (10_000, 9_999), "differs"),
    ],
)
def test_exact_numbers_need_no_seeds(
    metric: str, unit: str, values: tuple[int, int], verdict: str
) -> None:
    a, b = ([replace(ROW, metric=metric, unit=unit, value=v)] for v in values)
    line = _one(a, b)
    assert (line.verdict, math.isnan(line.p)) == (verdict, True)
    assert "exact" in line.detail


def test_what_one_set_lacks_is_told() -> None:
    rows = [*_rows(FIVE), *_rows(FIVE, row="resnet")]
    lines = sets.compare(_set(rows), _set(_rows(FIVE)))
    assert [(x.quantity.row, x.verdict) for x in lines] == [
        ("odenet", "same"),
        ("resnet", "only in A"),
    ]
    assert sets.compare(_set(_rows(FIVE)), _set(rows))[1].verdict == "only in B"


def test_what_the_other_set_has_under_another_profile_is_told_so() -> None:
    longer = [replace(row, profile="paper") for row in _rows(FIVE)]
    details = {x.verdict: x.detail for x in sets.compare(_set(longer), _set(_rows(FIVE)))}
    under = f"under {ROW.profile}"
    assert under in details["only in A"]
    assert "under paper" in details["only in B"]


def test_a_run_that_failed_decides_nothing() -> None:
    failed = replace(ROW, seed=5, value=math.nan, status="diverged", hint="Lower lr.")
    line = _one(_rows(FIVE), [*_rows([v + 3 for v in FIVE]), failed])
    assert (line.verdict, line.detail) == ("cannot tell", "1 of 6 runs of B failed")
    (other,) = sets.compare(_set([replace(failed, seed=0)]), _set(_rows(FIVE)))
    assert other.detail == "1 of 1 runs of A failed"


def _changed(path: str, value: Any) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(SETTINGS))
    *parents, last = path.split(".")
    inner = copied
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return copied


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        ({"protocol": 2}, None, "protocol 1 against 2"),
        ({"budget": "1 epoch"}, None, "budget 3 epochs"),
        ({"unit": "per cent"}, None, "unit '%' against 'per cent'"),
        ({"overrides": "model.stem=conv"}, None, "'model.stem=conv'"),
        ({}, ("data.init_args.batch_size", 64), "data.batch_size 128 against 64"),
        ({}, ("trainer.max_epochs", 9), "trainer.max_epochs 3 against 9"),
        ({}, ("model.init_args.field", "mine"), "model.field unset against mine"),
        ({"budget": "steps apart"}, ("trainer.devices", 2), "against steps apart"),
    ],
    ids=["protocol", "budget", "unit", "changed", "batch", "epochs", "later setting", "ranks"],
)
def test_different_things_are_not_compared_and_the_reason_is_told(
    change: dict[str, Any], settings: tuple[str, Any] | None, reason: str
) -> None:
    known = (SETTINGS, _changed(*settings)) if settings else ({}, {})
    line = _one(_rows(FIVE), _rows(FIVE, **change), known)
    assert line.verdict == "not compared"
    assert reason in line.detail
    assert math.isnan(line.difference)


@pytest.mark.parametrize(
    "path",
    [
        "data.init_args.root",
        "trainer.accelerator",
        "trainer.devices",
        "model.init_args.solver.backend",
    ],
)
def test_where_it_ran_and_which_solver_are_what_two_sets_may_differ_in(path: str) -> None:
    changes = {"overrides": "model.solver.backend=scipy", "budget": "another text"}
    given = changes if "solver" in path else {}
    line = _one(_rows(FIVE), _rows(FIVE[::-1], **given), (SETTINGS, _changed(path, "other")))
    assert line.verdict in ("same", "cannot tell")
    assert not math.isnan(line.p)


def test_rows_tell_their_changed_settings_where_a_set_has_several() -> None:
    other = _rows(FIVE, overrides="model.solver.rtol=1")
    text = set_table.render(sets.compare(_set([*_rows(FIVE), *other]), _set(_rows(FIVE))))
    assert "\nodenet [model.solver.rtol=1] | test_error" in text
    assert "\nodenet                       | test_error" in text
    a, b = _set(_rows(FIVE)), _set(other)
    assert "\nodenet | test_error" in set_table.render(sets.compare(a, b))
    (told,) = result_sets.differences(a, b)
    assert (told.what, told.a, told.b) == ("changed settings", "none", "model.solver.rtol=1")


def _write(folder: Path, rows: list[Record], **described: Any) -> Path:
    path = folder / "table1" / "short.csv"
    records.append(path, rows)
    for run in {row.run for row in rows}:
        entry = {"commit": "a" * 40, "versions": {"torch": "2.11"}, "threads": 2, **described}
        provenance.write(path, run, entry)
    return path


def test_a_set_is_a_folder_of_results_or_of_one_experiment_or_a_csv(tmp_path: Path) -> None:
    path = _write(tmp_path, _rows(FIVE))
    (tmp_path / "table1" / "curves").mkdir()
    shutil.copy(path, tmp_path / "table1" / "curves" / "short.csv")
    (tmp_path / "comparison.csv").write_text("not rows")
    for place in (tmp_path, path.parent, path):
        found = result_sets.read(place)
        assert list(found.records) == _rows(FIVE)
        assert set(found.made) == {ROW.run}
    with pytest.raises(ValueError, match="holds no results under paper"):
        result_sets.read(tmp_path, "paper")


def test_two_folders_are_compared_by_the_command_and_their_provenance_stands_on_top(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _write(tmp_path / "a", _rows(FIVE))
    gpu = _rows([v + 1 for v in FIVE], device="NVIDIA H100", run="fedcba987654")
    _write(tmp_path / "b", gpu, commit="b" * 40, devices=["NVIDIA H100"])
    out = tmp_path / "out"
    given = [str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(["compare", *given, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    top, _, rest = shown.partition("\n\ntable1\n")
    cells = {
        line.split("|")[0].strip(): [cell.strip() for cell in line.split("|")[1:]]
        for line in top.splitlines()
        if "|" in line
    }
    assert cells["device"] == ["cpu, 2 threads", "NVIDIA H100"]
    assert cells["commit"] == ["a" * 12, "b" * 12]
    assert cells["devices"] == ["not told", "NVIDIA H100"]
    assert "versions.torch" not in cells
    assert "threads" not in cells
    assert "0.54 ± 0.03162 (5)" in rest
    assert "What differs:\n  table1/odenet/test_error" in rest
    with (out / "sets.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["verdict"], line["n_a"], line["n_b"]) == ("differs", "5", "5")
    assert float(line["difference"]) == pytest.approx(1)
    for others in ("mine", f"{','.join(records.COLUMNS)}\n"):  # those of rows begin alike
        (out / "sets.csv").write_text(others)
        assert main(["compare", *given, "--out", str(out)]) == 1
        assert (out / "sets.csv").read_text() == others
    capsys.readouterr()
    (tmp_path / "b" / "table1" / "short.provenance.json").unlink()
    assert main(["compare", *given]) == 0
    assert "B has no provenance beside" in capsys.readouterr().out


def test_of_several_experiments_the_verdicts_are_counted_and_what_differs_is_shown() -> None:
    slow = {"metric": "train_seconds", "unit": "s"}
    a = [*_rows(FIVE), *_rows(FIVE, experiment="ablations"), *_rows([4.0], **slow)]
    b = [
        *_rows([v + 1 for v in FIVE]),
        *_rows(FIVE, experiment="ablations"),
        *_rows([8.0], **slow),
    ]
    text = set_table.render(sets.compare(_set(a), _set(b)))
    overview, _, rest = text.partition("\n\n")
    cells = [[cell.strip() for cell in line.split("|")] for line in overview.splitlines()]
    by_name = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}
    assert by_name["ablations"]["same"] == "1"
    assert by_name["table1"]["differs"] == "1"
    assert by_name["table1"]["cost, B / A"] == "2 (2 to 2)"
    assert rest.startswith("table1\n")
    assert "train_seconds" not in text
    assert "ablations\n" not in rest
    assert "line by line" in rest
    assert "line by line" not in set_table.render(sets.compare(_set(a[:5]), _set(b[:5])))


def test_the_shipped_results_are_the_same_as_themselves() -> None:
    one = result_sets.read(SHIPPED)
    lines = sets.compare(one, one)
    assert {line.verdict for line in lines} <= {"same", "cost", "not compared", "cannot tell"}
    assert {x.detail[:9] for x in lines if x.verdict == "not compared"} <= {"A skipped"}
    assert all("failed" in x.detail for x in lines if x.verdict == "cannot tell")
    assert "0 tests (Holm)" in set_table.render(lines)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["{a}"], "two sets of results, got 1. One alone is compared with the shipped verdicts"),
        (["{a}", "{a}", "{a}"], "at most two sets of results are compared, not 3"),
        (["{a}", "table1"], "./table1 is the folder"),
        (["{a}", "tabel1"], "neither an experiment nor a folder or CSV that exists. Did you mean"),
        (["{a}", "nonsense"], "exists. See `python -m reproduce list`."),
        (["{a}", "{a}/no-where"], "/no-where: there is no such folder"),
        (["status"], "status is no set of results"),
        (["{a}", "--seeds", "2"], "reads no --seeds"),
        (["--strict", "table1"], "one folder of results"),
        (["--strict", "{a}", "{a}"], "one folder of results"),
        (["--strict", "{a}/nothing"], "there is no such folder"),
        (["--strict", "--out", "{a}/nothing"], "no results in"),
    ],
)
def test_targets_that_do_not_go_together_are_one_line(
    targets: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *(target.format(a=tmp_path) for target in targets)]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1


def test_the_shipped_rows_break_no_shipped_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--strict", str(SHIPPED)]) == 0
    assert ", 0 are broken, 0 were not compared." in capsys.readouterr().out


def _edited(tmp_path: Path, edit: Callable[[Record], Record | None], name: str) -> Path:
    """Return a folder with the shipped rows of one experiment, changed."""
    for file in sorted((SHIPPED / name).glob("*.csv")):
        rows = [new for row in records.read(file) if (new := edit(row)) is not None]
        records.append(tmp_path / name / file.name, rows)
    return tmp_path


def _checks(folder: Path) -> dict[str, strict.Check]:
    rows = result_sets.read(folder).records
    return {one.id: one for one in strict.check(SHIPPED / "comparison.csv", rows)}


def test_a_claim_that_no_longer_holds_and_a_number_that_got_worse_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def doubled(row: Record) -> Record:
        return replace(row, value=2 * row.value) if row.metric == "parameters" else row

    folder = _edited(tmp_path, lambda r: doubled(r) if r.row == "odenet" else r, "table1")
    assert main(["compare", "--strict", str(folder)]) == 1
    shown = capsys.readouterr().out
    broken = [line for line in shown.splitlines() if line.startswith("BROKEN")]
    assert [line.split(": ")[0] for line in broken] == [
        "BROKEN table1.odenet.parameters",
        "BROKEN C07",
    ]
    assert "reproduced under short, now worse under short" in broken[0]
    assert "holds under short, now does not hold under short" in broken[1]
    assert re.search(r"not compared, not run: .*33 of decay,", shown)
    assert max(map(len, shown[shown.index("not compared") :].splitlines())) <= 100


def test_a_failed_run_breaks_what_it_was_for(tmp_path: Path) -> None:
    def burst(row: Record) -> Record | None:
        if row.row != "odenet" or row.seed != 0:
            return row
        gone = {"value": math.nan, "status": "diverged", "hint": ""}
        return replace(row, **gone) if row.metric == "test_error" else None

    checks = _checks(_edited(tmp_path, burst, "table1"))
    broken = {name for name, one in checks.items() if one.broken}
    # More claims about the ODE-Net may hold on the shipped rows as their seeds are added.
    assert {"table1.odenet.parameters", "C07"} <= broken
    about = {c.id for c in claims() if any(q.row == "odenet" for q in c.quantities)}
    assert broken - about == {"table1.odenet.parameters"}
    assert "failed" in checks["C07"].detail


def test_what_lacks_rows_or_seeds_was_not_run_and_breaks_nothing(tmp_path: Path) -> None:
    folder = _edited(tmp_path, lambda r: r if r.row == "odenet" else None, "table1")
    checks = _checks(folder)
    assert not any(one.broken for one in checks.values())
    assert checks["C07"].now == ""
    assert "no rows of table1/resnet/parameters" in checks["C07"].detail
    assert checks["table1.odenet.parameters"].now == "reproduced under short"
    few = _edited(tmp_path / "few", lambda r: r if r.seed < 2 else None, "flow_checks")
    assert not any(one.broken for one in _checks(few).values())


def test_a_malformed_table_of_shipped_verdicts_is_named(tmp_path: Path) -> None:
    (tmp_path / "comparison.csv").write_text("id,kind\nC01,claim\n")
    with pytest.raises(ValueError, match=r"comparison\.csv, line 1: the columns are not id,kind"):
        strict.check(tmp_path / "comparison.csv", [])
