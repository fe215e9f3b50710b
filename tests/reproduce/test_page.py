"""The page of a folder of results: whole, true to the rows, and harmless whoever made them."""

import csv
import importlib
import json
import math
import shutil
import statistics
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from page_reader import Page
from sample import ROW

from reproduce import publication, records
from reproduce.__main__ import main
from reproduce.catalogue import names
from reproduce.claims import claims
from reproduce.folders import SHIPPED
from reproduce.page import document, figures, outline, prose, tables

LINES = ",".join(records.COLUMNS) + "\n"
SCRIPT = "</td></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


@pytest.fixture(scope="module")
def text() -> str:
    return document.render(SHIPPED)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def _strangers(folder: Path) -> None:
    """Put rows, provenance and a figure there that try to run a script wherever text goes."""
    path = folder / "table1" / "short.csv"
    hostile = replace(ROW, row=SCRIPT, unit=SCRIPT, budget=SCRIPT, device=SCRIPT)
    failed = replace(
        ROW, row="mlp", seed=1, value=math.nan, status="error", hint=SCRIPT, metric=SCRIPT
    )
    changed = replace(ROW, row="resnet", overrides=SCRIPT, run="1" * 12)
    records.append(path, [hostile, failed, changed])
    made = {"command": SCRIPT, "commit": SCRIPT, "cpu": SCRIPT, "versions": {SCRIPT: SCRIPT}}
    entry = {**made, "devices": [SCRIPT], "platform": SCRIPT, "python": [1], "cores": {"a": 1}}
    path.with_suffix(".provenance.json").write_text(json.dumps({"runs": {ROW.run: entry}}))
    path.with_suffix(".svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="700pt" height="9pt" onload="alert(1)">'
        '<script>alert(1)</script><image href="http://localhost:9/x.png"/></svg>'
    )
    (folder / SCRIPT.replace("/", "")).mkdir()
    (folder / SCRIPT.replace("/", "") / "short.csv").write_text("not one of ours")


def _within(page: Page, prefix: str) -> list[str]:
    return [box for box in page.tables if box.startswith(prefix)]


def test_the_shipped_page_follows_from_the_shipped_rows(text: str) -> None:
    shown = (SHIPPED / "index.html").read_text(encoding="utf-8")
    # Not one `assert a == b`: the difference of two texts of megabytes takes minutes to print.
    assert (shown == text) is True, "run python -m reproduce report --out results"


def test_every_id_is_unique_and_every_anchor_leads_to_one(page: Page) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    anchors = [a["href"] for a in page.all("a") if a["href"].startswith("#")]
    assert len(anchors) > len(names())
    assert {anchor[1:] for anchor in anchors} <= set(ids)


def test_every_linked_file_is_there(page: Page) -> None:
    files = [a["href"] for a in page.all("a") if not a["href"].startswith(("#", "https:"))]
    assert len(files) > 50
    assert not [file for file in files if not (SHIPPED / file).exists()]


def test_nothing_is_loaded_from_anywhere(page: Page, text: str) -> None:
    sources = [
        a[name] for _, a in page.elements for name in ("src", "srcset", "data") if name in a
    ]
    assert len(sources) > 30
    assert all(source.startswith("data:image/") for source in sources)
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    assert not any("style" in attributes for _, attributes in page.elements)
    assert "url(" not in (SHIPPED / "index.html").read_text().partition("</style>")[0]
    assert len(text.encode()) < 10_000_000


def test_every_figure_has_a_text_and_every_table_a_caption_and_heads(page: Page) -> None:
    assert all(len(image["alt"]) > 20 for image in page.all("img"))
    assert all(image["src"].startswith("data:image/gif") or image["width"] > "0"
               for image in page.all("img"))  # fmt: skip
    assert len(page.all("caption")) == len(page.all("table")) == len(page.tables)
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))


def test_headings_leave_no_level_out(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_experiment_has_its_place_in_one_chapter() -> None:
    placed = [name for chapter in outline.CHAPTERS for name in chapter.names]
    assert sorted(placed) == names()
    assert outline.chapters(["mine", "decay"])[-1].names == ("mine",)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*/*.csv")), ids=lambda p: f"{p.parent.name}")
def test_every_value_of_the_rows_is_on_the_page_as_it_is_in_the_csv(
    path: Path, page: Page
) -> None:
    values: dict[tuple[str, str], list[float]] = {}
    for row in records.read(path):
        if row.status == "ok":
            values.setdefault((row.row, row.metric), []).append(row.value)
    shown = {
        (line["row"], line["metric"]): line
        for line in page.table(f"{path.parent.name}-{path.stem}-all")
    }
    for key, found in values.items():
        line = shown[key]
        number = float(line.get("mean", line.get("value", "")))
        if len(found) == 1:
            assert number == found[0]
        else:
            assert number == pytest.approx(statistics.fmean(found), rel=1e-5, abs=1e-300)
            assert float(line["seeds"]) == len(found)
            assert (float(line["min"]), float(line["max"])) == (min(found), max(found))
            if len(set(found)) > 1:
                assert float(line["95 % low"]) < number < float(line["95 % high"])


def test_every_judged_number_is_that_of_the_comparison(page: Page) -> None:
    with open(SHIPPED / "comparison.csv", newline="", encoding="utf-8") as file:
        lines = {line["id"]: line for line in csv.DictReader(file)}
    boxes = [box for box in page.tables if box.endswith("-numbers") and box != "reference-numbers"]
    shown = [line for box in [*boxes, "numbers-of-the-paper"] for line in page.table(box)]
    assert len(shown) > 150
    for line in shown:
        judged = lines[line["number"]]
        assert line["verdict"] == judged["verdict"]
        for name, column in (("ours", "value"), ("s", "sd"), ("95 % low", "low")):
            if line.get(name):
                assert float(line[name]) == pytest.approx(float(judged[column]), rel=1e-5)
        assert line.get("re-runs by others", "") == judged["others"].replace(" | ", "; ")


def test_the_scorecard_has_every_claim_with_its_verdict_and_what_it_rests_on(page: Page) -> None:
    with open(SHIPPED / "comparison.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    verdicts = {line["id"]: line["verdict"] for line in lines if line["kind"] == "claim"}
    shown = page.table("scorecard")
    assert {line["claim"]: line["verdict"] for line in shown} == verdicts
    assert [line["claim"] for line in shown] == [claim.id for claim in claims()]
    for line in shown:
        conditions = [x for x in lines if x["id"].startswith(f"{line['claim']}.")]
        measured = line["measured, with 95 % interval"]
        assert all(condition["text"] in measured for condition in conditions)
        assert bool(measured) == bool(conditions)


def test_a_section_has_the_verdict_beside_what_it_asks_or_claims(text: str) -> None:
    with open(SHIPPED / "comparison.csv", newline="", encoding="utf-8") as file:
        verdicts = {line["id"]: line["verdict"] for line in csv.DictReader(file)}
    for claim in claims():
        for name in {*claim.shown, *(q.experiment for q in claim.quantities)}:
            section = text.partition(f'<section id="{name}" class="experiment"')[2]
            before, figure, _ = section.partition("<figure>")
            beside = before.partition(f'<a href="#{claim.id}">')[2].partition("</span>")[0]
            assert not figure or beside.endswith(f">{verdicts[claim.id]}"), (name, claim.id)


@pytest.mark.parametrize("name", names())
def test_every_experiment_says_what_it_does_and_where_it_deviates(name: str) -> None:
    told = prose.protocol(importlib.import_module(f"reproduce.experiments.{name}"))
    assert told.claim
    assert len(told.text) > 100
    assert "eviations" in told.deviations
    assert "Deviations" not in told.text
    assert not [tag for tag, _ in Page(told.text + told.deviations).elements
                if tag not in {"p", "ul", "ol", "li", "code", "pre"}]  # fmt: skip


def test_what_a_docstring_has_of_html_is_text() -> None:
    shown = prose.html("1. |a_i| < b & <script>alert(1)</script> `x_1` * 2 * 3 [a](javascript:b)")
    assert {tag for tag, _ in Page(shown).elements} == {"ol", "li", "code"}
    assert "&lt;script&gt;" in shown


def test_an_empty_folder_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert main(["report", "--out", str(folder)]) == 0
    assert "no rows" in capsys.readouterr().out
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    assert {line["verdict"] for line in page.table("scorecard")} == {"not run"}
    ids = page.ids()
    assert len(ids) == len(set(ids))
    assert set(names()) <= set(ids)
    for name in names():
        assert f"python -m reproduce {name} --out {folder}" in page.text
    assert (folder / "README.md").read_text(encoding="utf-8").startswith("# Results")
    assert (folder / "comparison.csv").exists()


def test_two_experiments_stand_beside_the_shipped_ones_and_the_others_are_not_run(
    tmp_path: Path,
) -> None:
    for name, profile in (("table1", "quick"), ("decay", "short")):
        shutil.copytree(
            SHIPPED / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("weights", "short.csv", "paper.csv"),
        )
        shutil.copy(SHIPPED / name / f"{profile}.csv", tmp_path / name)
    written = publication.write(tmp_path)
    assert [path.name for path in written] == ["README.md", "index.html", "comparison.csv"]
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert _within(page, "table1-quick")
    assert _within(page, "decay-short")
    assert not _within(page, "fig4")
    line = next(x for x in page.table("table1-numbers") if x["number"] == "table1.mlp.test_error")
    shipped = Page((SHIPPED / "index.html").read_text(encoding="utf-8"))
    theirs = shipped.table("table1-numbers")[0]
    assert line["shipped"] == theirs["ours"] != line["ours"]
    assert "python -m reproduce fig4" in page.text
    again = {path: path.read_bytes() for path in written}
    assert {path: path.read_bytes() for path in publication.write(tmp_path)} == again


@pytest.mark.parametrize(
    ("of_paper", "first"), [(("mlp",), "short"), (("mlp", "odenet"), "paper")]
)
def test_a_profile_that_was_begun_stands_behind_one_that_is_whole(
    of_paper: tuple[str, ...], first: str, tmp_path: Path
) -> None:
    for profile, rows in (("short", ("mlp", "odenet")), ("paper", of_paper)):
        made = [replace(ROW, row=row, profile=profile) for row in rows]
        records.append(tmp_path / "table1" / f"{profile}.csv", made)
    order = list(Page(document.render(tmp_path)).tables)
    last = {"short": "paper", "paper": "short"}[first]
    assert order.index(f"table1-{first}-all") < order.index(f"table1-{last}-all")


def test_a_strangers_results_can_be_read_and_run_nothing(tmp_path: Path) -> None:
    _strangers(tmp_path)
    text = document.render(tmp_path)
    assert document.render(tmp_path) == text
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert not [a for a in page.all("a") if not a["href"].startswith(("#", "https://arxiv.org/"))
                and not (tmp_path / a["href"]).exists()
                and a["href"] not in ("comparison.csv", "README.md")]  # fmt: skip
    shown = page.table("table1-short-all")
    assert {line["row"] for line in shown} == {SCRIPT, "mlp", "resnet"}
    assert SCRIPT in {line["changed settings"] for line in shown}
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    ids = page.ids()
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("experiment,row\n", "short.csv, line 1: the columns"),
        (f"{LINES}a,b\n", "short.csv, line 2: 2 cells"),
        ("\xff", "short.csv, line 1"),
        (f"{LINES}table1,mlp,x,{10**400},,0,short,1,,,,{'0' * 12},ok,\n", "short.csv, line 2"),
    ],
)
def test_a_malformed_csv_is_one_line_that_names_it_and_nothing_is_written(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "table1").mkdir()
    (tmp_path / "table1" / "short.csv").write_bytes(content.encode("latin-1"))
    assert main(["report", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert said in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize("content", ["[", '{"runs": []}', '{"runs": {"000000000000": 3}}'])
def test_a_malformed_provenance_is_one_line_that_names_it(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.append(tmp_path / "table1" / "short.csv", [ROW])
    (tmp_path / "table1" / "short.provenance.json").write_text(content)
    assert main(["report", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "short.provenance.json is not a provenance file" in shown
    assert shown.count("\n") == 1


def test_somebodys_readme_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert main(["report", "--out", str(tmp_path)]) == 1
    assert "move the file away" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "table1"], "leave out table1"),
        (["report", "--profile", "short"], "report reads no --profile"),
        (["report", "--seed", "0"], "report reads no --seed"),
        (["report", "--only", "cnf"], "report reads no --only"),
        (["report", "--data-root", "x"], "report reads no --data-root"),
        (["report", "--report-only"], "report reads no --report-only"),
        (["table1", "report"], "report stands alone, or first"),
    ],
)
def test_report_refuses_what_it_does_not_read(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_number_is_short_to_read_and_whole_to_copy() -> None:
    assert tables.number(0.1234567890123) == tables.Cell("0.1235", "0.1234567890123")
    assert tables.number(12) == tables.Cell("12")
    assert tables.derived(2 / 3) == tables.Cell("0.6667", "0.666667")
    assert tables.derived(238510.0) == tables.Cell("238,510", "238510")
    assert tables.number(math.nan).value == ""


def test_a_slimmed_figure_keeps_its_scales_and_its_rasters() -> None:
    drawn = (
        '<svg width="9"><metadata>x</metadata><path d="M 1.23456 -0.0001 \nL 2 3.5 \nz \n" '
        'transform="scale(0.015625 -0.015625)"/>'
        '<image xlink:href="data:image/png;base64,\nAB\nC"/></svg>'
    )
    assert figures.slimmed(drawn) == (
        '<svg width="9"><path d="M1.23 0L2 3.5z" transform="scale(0.015625 -0.015625)"/>'
        '<image xlink:href="data:image/png;base64,ABC"/></svg>'
    )


def test_marks_of_one_look_have_it_once() -> None:
    marks = '<use xlink:href="#m" x="1.0" style="fill: {}; stroke: {}"/>'
    alike = f'<g clip-path="url(#p)">\n {marks.format("#00f", "#00f") * 2}\n</g>'
    apart = alike.replace("#00f", "#0f0", 1)
    assert figures.slimmed(alike) == (
        '<g clip-path="url(#p)" style="fill:#00f;stroke:#00f">'
        '<use xlink:href="#m" x="1"/><use xlink:href="#m" x="1"/></g>'
    )
    assert figures.slimmed(apart) == (
        '<g clip-path="url(#p)"><use xlink:href="#m" x="1" style="fill:#0f0;stroke:#00f"/>'
        '<use xlink:href="#m" x="1" style="fill:#00f;stroke:#00f"/></g>'
    )


def test_a_movie_is_embedded_if_it_is_small_and_a_link_if_not(tmp_path: Path) -> None:
    (tmp_path / "short.gif").write_bytes(b"GIF89a")
    small = figures.movie(tmp_path, "short")
    assert small is not None
    assert small.source.startswith("data:image/gif")
    (tmp_path / "short.gif").write_bytes(bytes(figures.LARGEST_MOVIE + 1))
    large = figures.movie(tmp_path, "short")
    assert large is not None
    assert large.source == ""
    assert large.file == f"{tmp_path.name}/short.gif"
    assert figures.movie(tmp_path, "quick") is None


def test_what_is_no_figure_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "short.png").write_bytes(b"no picture")
    (tmp_path / "short.svg").write_bytes(b"\xff\xfe")
    (tmp_path / "shorter.svg").write_text('<svg width="1pt" height="1pt"/>')
    assert figures.pictures(tmp_path, "short") == []
