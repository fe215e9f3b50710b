"""The page as a browser shows it: figures, sorting, copying, enlarging, themes, a phone."""

import csv
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page as Read
from test_page import _strangers

from reproduce import records
from reproduce.folders import SHIPPED
from reproduce.page import document

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 900}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PAPER = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    asked = os.environ.get("CHROMIUM")
    found = asked or next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if found is None:
        pytest.skip("there is no Chromium here: install it, or set CHROMIUM to its path")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, timeout=120_000)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shipped") / "index.html"
    path.write_text(document.render(SHIPPED), encoding="utf-8")
    return path


def _opened(browser: Any, file: Path, **options: Any) -> Any:
    """Open a page in a fresh context; what it says and asks for is kept in ``said``, ``asked``."""
    page = browser.new_context(**{"viewport": DESKTOP, **options}).new_page()
    page.set_default_timeout(120_000)
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append("a dialog"), dialog.dismiss()))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(file.as_uri())
    return page


@pytest.fixture(scope="module")
def page(browser: Any, file: Path) -> Iterator[Any]:
    opened = _opened(browser, file, color_scheme="light", reduced_motion="reduce")
    opened.context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield opened
    opened.context.close()


def test_the_page_says_nothing_on_the_console_and_asks_for_no_file(page: Any, file: Path) -> None:
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [file.as_uri()]


def test_every_figure_is_shown(page: Any) -> None:
    page.evaluate("for (const box of document.querySelectorAll('details')) box.open = true")
    sizes = page.evaluate(
        "Promise.all([...document.images].map(async image => { await image.decode();"
        " const box = image.getBoundingClientRect();"
        " return [image.naturalWidth, box.width, box.height]; }))"
    )
    page.evaluate("for (const box of document.querySelectorAll('main details')) box.open = false")
    assert len(sizes) > 30
    assert all(min(size) > 10 for size in sizes)


def test_every_anchor_resolves_and_opens_what_it_leads_into(page: Any) -> None:
    lost = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(link => link.hash.slice(1))"
        ".filter(id => !document.getElementById(id))"
    )
    assert lost == []
    page.evaluate("location.hash = '#decay-short-all'")
    page.locator("#decay-short-all table").wait_for(state="visible")
    page.evaluate("document.querySelector('#decay .all').open = false; location.hash = '#claims'")


def _column(page: Any, box: str, place: int) -> list[str]:
    texts: list[str] = page.evaluate(
        f"[...document.querySelector('#{box} tbody').rows]"
        f".map(row => row.cells[{place}].dataset.value ?? row.cells[{place}].textContent.trim())"
    )
    return texts


def test_a_table_is_sorted_by_whole_values_both_ways_with_gaps_last(page: Any) -> None:
    before = _column(page, "table1-short-table", 1)
    head = page.locator("#table1-short-table thead button").nth(1)
    head.focus()
    page.keyboard.press("Enter")
    rising = _column(page, "table1-short-table", 1)
    assert rising == sorted(before, key=float)
    assert head.locator("xpath=..").get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert _column(page, "table1-short-table", 1) == rising[::-1]
    assert head.locator("xpath=..").get_attribute("aria-sort") == "descending"
    evaluations = page.locator("#table1-short-table thead button").last
    evaluations.click()
    column = _column(page, "table1-short-table", evaluations.locator("xpath=..").evaluate(
        "head => head.cellIndex"))  # fmt: skip
    gaps = [not value for value in column]
    assert any(gaps)
    assert gaps == sorted(gaps)


def test_copy_as_csv_gives_the_values_of_the_csv(page: Any) -> None:
    page.evaluate("document.querySelector('#reverse_mode .all').open = true")
    page.locator("#reverse_mode-short-all .tools button").click()
    page.locator("#reverse_mode-short-all .tools button", has_text="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    lines = list(csv.DictReader(io.StringIO(copied, newline="")))
    rows = records.read(SHIPPED / "reverse_mode" / "short.csv")
    assert {(x["row"], x["metric"]): float(x["value"]) for x in lines} == {
        (row.row, row.metric): row.value for row in rows if row.status == "ok"
    }
    assert "copied" in page.locator("#said").text_content()


def test_copying_works_where_the_browser_has_no_clipboard_for_the_page(
    browser: Any, file: Path
) -> None:
    opened = _opened(browser, file)
    opened.context.grant_permissions(["clipboard-read"])
    opened.evaluate("Object.defineProperty(navigator.clipboard, 'writeText', {value: undefined})")
    opened.locator("#scorecard .tools button").click()
    opened.locator("#scorecard .tools button", has_text="Copied").wait_for()
    copied = opened.evaluate("navigator.clipboard.readText()")
    opened.context.close()
    lines = list(csv.reader(io.StringIO(copied, newline="")))
    assert lines == Read(file.read_text(encoding="utf-8")).tables["scorecard"]


def test_a_figure_is_enlarged_and_left_by_keyboard(page: Any) -> None:
    opener = page.locator("#table1 figure button").first
    opener.focus()
    page.keyboard.press("Enter")
    shown = page.locator("dialog[open] img")
    shown.wait_for(state="visible")
    assert shown.evaluate("image => image.naturalWidth") > 0
    fitted = shown.bounding_box()["width"]
    page.locator("dialog button", has_text="Larger").click()
    assert shown.bounding_box()["width"] > 1.5 * fitted
    page.keyboard.press("Escape")
    shown.wait_for(state="detached")
    assert not page.evaluate("document.querySelector('dialog').open")
    assert opener.evaluate("button => button === document.activeElement")


def test_claims_of_one_verdict_can_be_picked(page: Any) -> None:
    shown = "document.querySelectorAll('#scorecard tbody tr:not([hidden])').length"
    everything = page.evaluate(shown)
    button = page.locator(".counts button").first
    button.click()
    assert page.evaluate(shown) == int(button.locator("b").text_content())
    button.click()
    assert page.evaluate(shown) == everything


def test_light_and_dark_follow_the_system_and_the_switch(browser: Any, file: Path) -> None:
    papers = []
    for scheme in ("light", "dark"):
        opened = _opened(browser, file, color_scheme=scheme)
        papers.append(opened.evaluate(PAPER))
        opened.locator("#theme").click()
        papers.append(opened.evaluate(PAPER))
        opened.reload()
        assert opened.evaluate(PAPER) == papers[-1]
        assert opened.said == []
        opened.context.close()
    light, switched, dark, back = papers
    assert light == back
    assert dark == switched
    assert light != dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: Any, file: Path, scheme: str) -> None:
    opened = _opened(browser, file, color_scheme=scheme)
    colours = opened.evaluate(
        """() => {
          const of = (selector, property) =>
            getComputedStyle(document.querySelector(selector))[property];
          return {
            paper: of("body", "backgroundColor"), card: of(".facts", "backgroundColor"),
            texts: ["body", ".lead a", "figcaption", ".facts dt", "caption", "small", "summary",
              ".verdict.good", ".verdict.bad", ".verdict.open", ".verdict.none"]
              .map(selector => of(selector, "color")),
          };
        }"""
    )
    opened.context.close()
    for behind in (colours["paper"], colours["card"]):
        assert min(_contrast(text, behind) for text in colours["texts"]) >= 4.5


def _contrast(text: str, behind: str) -> float:
    """Return the contrast of two colours, as WCAG 2 has it."""
    lights = sorted(map(_luminance, (text, behind)))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Any, file: Path) -> None:
    opened = _opened(browser, file, viewport=PHONE, has_touch=True, is_mobile=True)
    assert opened.evaluate(OVERFLOW) <= 0
    opened.evaluate("for (const box of document.querySelectorAll('details')) box.open = true")
    assert opened.evaluate(OVERFLOW) <= 0
    widest = opened.evaluate(
        "Math.max(...[...document.querySelectorAll('main :is(p, li, dd, figure, h3, .scroll)')]"
        ".filter(box => !box.closest('.scroll') || box.matches('.scroll'))"
        ".map(box => box.getBoundingClientRect().right))"
    )
    assert widest <= PHONE["width"]
    opened.context.close()


def test_the_page_can_be_read_without_scripts(browser: Any, file: Path) -> None:
    opened = _opened(browser, file, java_script_enabled=False)
    assert opened.locator("#table1 figure img").first.is_visible()
    assert opened.locator("nav a", has_text="Claims").is_visible()
    assert opened.locator("button").count() == 0
    opened.context.close()


def test_on_paper_there_are_no_controls_and_nothing_is_cut(page: Any) -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 less the browser's margins
    assert not page.locator("#theme").is_visible()
    assert not page.locator("nav").is_visible()
    assert not page.locator(".tools button").first.is_visible()
    cut = page.evaluate(
        "[...document.querySelectorAll('.scroll')]"
        ".filter(box => box.scrollWidth > box.clientWidth).map(box => box.parentElement.id)"
    )
    assert cut == []
    assert page.evaluate("Math.max(...[...document.images].map(i => i.offsetWidth))") <= 718
    page.emulate_media(media="screen")
    page.set_viewport_size(DESKTOP)


def test_a_strangers_results_run_nothing(browser: Any, tmp_path: Path) -> None:
    _strangers(tmp_path)
    file = tmp_path / "index.html"
    file.write_text(document.render(tmp_path), encoding="utf-8")
    opened = _opened(browser, file)
    opened.evaluate("for (const box of document.querySelectorAll('details')) box.open = true")
    opened.wait_for_timeout(500)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [file.as_uri()]
    opened.context.close()
