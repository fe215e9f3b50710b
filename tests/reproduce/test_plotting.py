import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from reproduce import plotting
from reproduce.experiments import table1
from reproduce.plotting import NAMES


def _figure() -> "matplotlib.figure.Figure":
    with plotting.style():
        fig, axes = plotting.subplots()
        for place, row in enumerate(NAMES):
            axes.plot([0, 1], [place, place + 1], **plotting.method_style(row))
            axes.plot(0.5, place, **plotting.PAPER_STYLE)
        plotting.legend(axes)
    return fig


def test_every_method_has_a_marker_and_a_name_of_its_own_and_the_papers_a_colour() -> None:
    styles = [plotting.method_style(row) for row in NAMES]
    for key in ("marker", "label"):
        assert len({style[key] for style in styles}) == len(NAMES)  # type: ignore[literal-required]
    assert len({plotting.method_style(row)["color"] for row in table1.ROWS}) == len(table1.ROWS)
    assert plotting.PAPER_STYLE["marker"] not in {style["marker"] for style in styles}
    assert plotting.method_style("odenet")["label"] == "ODE-Net"


def test_an_unknown_method_always_looks_the_same_and_like_no_known_one() -> None:
    mine = plotting.method_style("my_model")
    assert mine == plotting.method_style("my_model")
    assert mine["label"] == "my_model"
    known = [plotting.method_style(row) for row in NAMES]
    assert mine["color"] not in {style["color"] for style in known}
    assert mine["marker"] not in {style["marker"] for style in known}


def test_equal_figures_give_equal_files_without_a_date(tmp_path: Path) -> None:
    first = plotting.save(_figure(), tmp_path / "a" / "quick")
    second = plotting.save(_figure(), tmp_path / "b" / "quick")
    assert [path.name for path in first] == ["quick.png", "quick.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"dc:date" not in first[1].read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["quick.png", "quick.svg"]


def test_a_movie_of_figures_has_them_all_and_equal_ones_give_equal_files(tmp_path: Path) -> None:
    def frames() -> "list[matplotlib.figure.Figure]":
        figures = []
        for k in range(3):
            with plotting.style():
                fig, axes = plotting.subplots(size=(2.0, 1.0))
                axes.plot([0, 1], [0, k], color=plotting.OKABE_ITO["blue"])
                axes.set_ylim(0, 2)
            figures.append(fig)
        return figures

    first, second = (plotting.save_movie(frames(), tmp_path / name) for name in ("a.gif", "b.gif"))
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as movie:
        assert movie.n_frames == 3
        assert movie.size == (2 * plotting.MOVIE_DPI, plotting.MOVIE_DPI)


def test_a_dot_in_the_name_is_no_suffix(tmp_path: Path) -> None:
    png, _ = plotting.save(_figure(), tmp_path / "rtol_1.5e-8")
    assert png.name == "rtol_1.5e-8.png"


def test_a_failed_save_leaves_the_earlier_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quick.png").write_bytes(b"earlier")

    def refuse(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="full"):
        plotting.save(_figure(), tmp_path / "quick")
    assert [p.name for p in tmp_path.iterdir()] == ["quick.png"]
    assert (tmp_path / "quick.png").read_bytes() == b"earlier"


def test_the_look_ends_with_its_block_and_the_users_settings_do_not_enter_it() -> None:
    with matplotlib.rc_context({"font.size": 3, "axes.labelcolor": "red"}):
        with plotting.style():
            assert matplotlib.rcParams["font.size"] == plotting.STYLE["font.size"]
            assert matplotlib.rcParams["axes.labelcolor"] == "black"
        assert matplotlib.rcParams["font.size"] == 3


def test_no_line_crosses_a_letter(tmp_path: Path) -> None:
    def red_with(width: float) -> set[int]:
        with plotting.style():
            fig, axes = plotting.subplots(size=(2.0, 2.0))
            axes.plot([1], [1], color="red", marker=plotting.LOOKS["nf"][1], markersize=60)
            axes.plot([0, 2], [1, 1], color="black", linewidth=width, zorder=5)
        for _ in range(2):  # what was added for the first file is gone at the second
            with Image.open(plotting.save(fig, tmp_path / "letter")[0]) as image:
                bands = image.convert("RGB").split()
        pixels = zip(*(band.tobytes() for band in bands), strict=True)
        return {at for at, pixel in enumerate(pixels) if pixel == (255, 0, 0)}

    alone = red_with(0)
    assert len(alone) > 1000
    assert red_with(8) == alone


def test_a_legend_names_each_method_once() -> None:
    legend = _figure().axes[0].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names) == sorted([*NAMES.values(), "paper"])


@pytest.mark.parametrize(
    ("low", "high"), [(0.0081, 0.085), (2.2e-5, 4.8e-5), (0.6, 1.9), (0.1, 0.1001), (2e-6, 3e-1)]
)
def test_names_of_few_decades_do_not_meet(low: float, high: float) -> None:
    with plotting.style():
        fig, axes = plotting.subplots(size=(4.2, 3.9))
        axes.loglog([low, high], [1, 2])
        plotting.spaced_ticks(axes.xaxis)
        fig.canvas.draw()
    labels = [x for x in axes.xaxis.get_ticklabels(which="both") if x.get_text()]
    at = sorted((x.get_window_extent() for x in labels), key=lambda box: box.x0)
    seen = [box for box in at if axes.bbox.x0 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1]
    assert all(left.x1 < right.x0 for left, right in pairwise(seen))


@pytest.mark.parametrize("marks", [1, 2, 5, 8])
def test_marks_of_a_slot_stand_apart_and_within_it(marks: int) -> None:
    places = plotting.side_by_side(marks)
    assert places == sorted(set(places))
    assert sum(places) == pytest.approx(0)
    assert max(places) < 0.5
    with plotting.style():
        _, axes = plotting.subplots()
        plotting.slots(axes, ["a", "b"])
    assert axes.get_xlim() == (-0.5, 1.5)


def test_the_module_loads_without_matplotlib() -> None:
    code = "import sys, reproduce.plotting; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_slide_is_16_by_9_however_many_axes_it_has() -> None:
    for rows, columns in ((1, 1), (1, 3), (2, 2)):
        figure, _ = plotting.slide(rows, columns)
        width, height = figure.get_size_inches()
        assert width / height == pytest.approx(16 / 9)
        assert len(figure.axes) == rows * columns
