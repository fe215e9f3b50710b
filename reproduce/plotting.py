"""One look for every figure: one colour and one marker per method, PNG and SVG.

Figures are made without pyplot, so no window opens, no global state changes and Agg draws them
whatever backend the user's own session has.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from zlib import crc32

from reproduce import storage

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from PIL import Image

NAMES = {
    "mlp": "1-layer MLP",
    "mlp_deskewed": "1-layer MLP (deskewed)",
    "resnet": "ResNet",
    "rknet": "RK-Net",
    "odenet": "ODE-Net",
    "no_block": "no block",
    "one_block": "one residual block",
    "small_resnet": "ResNet of equal size",
    "timeless_field": "ODE-Net, f without t",
    "direct": "direct",
    "checkpoint": "checkpoint",
    "adjoint": "adjoint",
    "adjoint_seminorm": "adjoint, seminorm",
    "adjoint_vode": "adjoint, VODE-Adams",
    "dopri5": "dopri5",
    "tsit5": "tsit5",
    "bosh3": "bosh3",
    "dopri8": "dopri8",
    "adaptive_heun": "adaptive Heun",
    "fehlberg2": "Fehlberg 2",
    "vode_adams": "VODE-Adams",
    "euler": "Euler",
    "midpoint": "midpoint",
    "heun": "Heun",
    "rk4": "RK4",
    "rk4_38": "RK4, 3/8 rule",
    "heun3": "Heun 3",
    "explicit_adams": "Adams-Bashforth",
    "implicit_adams": "Adams-Moulton",
    "cnf": "continuous flow",
    "nf": "planar flow",
    "nf_adam": "planar, same optimiser",
    "nf_deep": "planar, same parameters",
    "rnn": "RNN",
    "rnn_gap": "RNN, told the gaps",
    "rnn_blind": "RNN, a step an observation",
    "rnn_hold": "RNN, last value held",
    "rnn_zero": "RNN, zero where unobserved",
    "rnn_paced": "RNN, told the gaps, paced",
    "advantage": "better RNN's over latent ODE's",
    "latent_ode": "latent ODE",
    "end": "end point, adjoint",
    "path": "whole path, direct",
    "authors": "authors' example",
    "end_off_by_one": "end point, off by one",
    "physics": "18 numbers",
    "neural_ode": "Neural ODE",
    "network": "network of time",
    "ours": "ours",
    "torchdiffeq": "torchdiffeq",
    "torchode": "torchode",
    "torchdyn": "TorchDyn",
    "diffrax": "diffrax (jit)",
}

# Okabe and Ito (2008), https://jfly.uni-koeln.de/color/; yellow is left out: too faint on white.
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky_blue": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}
LOOKS = {
    "mlp": ("black", "x"),
    "mlp_deskewed": ("purple", "P"),
    "resnet": ("blue", "s"),
    "rknet": ("orange", "^"),
    "odenet": ("vermillion", "o"),
    # An ablation has the colour of the row it changes.
    "no_block": ("black", "+"),
    "one_block": ("blue", "p"),
    "small_resnet": ("blue", "d"),
    "timeless_field": ("vermillion", "8"),
    # A gradient has the colour of the network that it trains in Table 1.
    "direct": ("orange", "v"),
    "checkpoint": ("purple", "<"),
    "adjoint": ("vermillion", ">"),
    "adjoint_seminorm": ("sky_blue", "1"),
    "adjoint_vode": ("black", "2"),
    # A method keeps its colour; adaptive ones have filled marks, fixed steps open letters.
    "dopri5": ("vermillion", "$\\mathrm{5}$"),
    "tsit5": ("orange", "$\\mathrm{T}$"),
    "bosh3": ("blue", "$\\mathrm{3}$"),
    "dopri8": ("purple", "$\\mathrm{8}$"),
    "adaptive_heun": ("sky_blue", "$\\mathrm{2}$"),
    "fehlberg2": ("sky_blue", "$\\mathrm{F}$"),
    "vode_adams": ("black", "$\\mathrm{A}$"),
    "euler": ("blue", "$\\mathrm{E}$"),
    "midpoint": ("orange", "$\\mathrm{M}$"),
    "heun": ("purple", "$\\mathrm{h}$"),
    "rk4": ("black", "$\\mathrm{R}$"),  # not dopri5's, which it is often compared with
    "rk4_38": ("vermillion", "$\\mathrm{K}$"),
    "heun3": ("purple", "$\\mathrm{c}$"),
    "explicit_adams": ("sky_blue", "$\\mathrm{b}$"),
    "implicit_adams": ("blue", "$\\mathrm{m}$"),
    "cnf": ("blue", "$\\mathrm{C}$"),
    "nf": ("orange", "$\\mathrm{P}$"),
    "nf_adam": ("vermillion", "$\\mathrm{O}$"),
    "nf_deep": ("purple", "$\\mathrm{D}$"),
    "rnn": ("orange", "$\\mathrm{N}$"),
    "rnn_gap": ("black", "$\\mathrm{G}$"),
    "rnn_blind": ("purple", "$\\mathrm{B}$"),
    "rnn_hold": ("vermillion", "$\\mathrm{H}$"),
    "rnn_zero": ("sky_blue", "$\\mathrm{Z}$"),
    "rnn_paced": ("black", "$\\mathrm{Q}$"),
    "advantage": ("black", "$\\mathrm{r}$"),
    "latent_ode": ("blue", "$\\mathrm{L}$"),
    "end": ("blue", "$\\mathrm{e}$"),
    "path": ("vermillion", "$\\mathrm{w}$"),
    "authors": ("black", "$\\mathrm{a}$"),
    "end_off_by_one": ("purple", "$\\mathrm{s}$"),
    "physics": ("blue", "$\\mathrm{k}$"),
    "neural_ode": ("vermillion", "$\\mathrm{f}$"),
    "network": ("black", "$\\mathrm{t}$"),
    "ours": ("blue", "$\\mathrm{U}$"),
    "torchdiffeq": ("vermillion", "$\\mathrm{q}$"),
    "torchode": ("orange", "$\\mathrm{o}$"),
    "torchdyn": ("purple", "$\\mathrm{y}$"),
    "diffrax": ("black", "$\\mathrm{x}$"),
}
FREE_COLOURS = ("green",)
# The published value, hollow and grey so that it hides none of ours.
PAPER_STYLE: dict[str, Any] = {
    "color": "#555555",
    "marker": "D",
    "markersize": 11,
    "markerfacecolor": "none",
    "linestyle": "none",
    "label": "paper",
}
FREE_MARKERS = ("*", "h", "X", "H")

STYLE: dict[str, Any] = {
    "font.size": 14,
    "axes.titlesize": 16,
    "axes.labelsize": 14,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "figure.facecolor": "white",
    "svg.hashsalt": "reproduce",  # otherwise every file has new random ids
}
RIM = 3.0
"""Width in points of the rim that keeps lines out of a letter, which hides half of it."""
DPI = 200
MOVIE_DPI = 75
MOVIE_COLOURS = 32


class MethodStyle(TypedDict):
    """Keyword arguments for ``Axes.plot`` and ``Axes.scatter``."""

    color: str
    marker: str
    label: str


def method_style(row: str) -> MethodStyle:
    """Return the colour, the marker and the name of a method, the same in every figure.

    Args:
        row: Row of a table. A row unknown here, such as a user's own model, gets one of the
            colours and markers that no known row has, chosen by its name.
    """
    number = crc32(row.encode())
    free = (
        FREE_COLOURS[number % len(FREE_COLOURS)],
        FREE_MARKERS[number // len(FREE_COLOURS) % len(FREE_MARKERS)],
    )
    colour, marker = LOOKS.get(row, free)
    return {"color": OKABE_ITO[colour], "marker": marker, "label": NAMES.get(row, row)}


@contextmanager
def style() -> Iterator[None]:
    """Apply the look within the block and leave the user's settings alone outside."""
    from matplotlib import style as styles

    # From the defaults on, so that a user's matplotlibrc changes nothing in a shipped figure.
    with styles.context(["default", STYLE]):
        yield


def subplots(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (6.0, 4.5), **options: Any
) -> tuple[Figure, Any]:
    """Return an empty figure and its axes; draw within `style`, so that lines have the look too.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        size: Width and height of one axes in inches.
        options: What ``Figure.subplots`` takes, such as ``sharey`` or ``width_ratios``.

    Returns:
        The figure, and one axes or an array of them as ``pyplot.subplots`` returns it.
    """
    from matplotlib.figure import Figure

    with style():
        drawn = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        return drawn, drawn.subplots(rows, columns, **options)


def slide(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of 16:9, as `subplots` does, with one axes or an array of them."""
    return subplots(rows, columns, size=(12.8 / columns, 7.2 / rows), **options)


def plain_ticks(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain numbers, at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def spaced_ticks(axis: Axis) -> None:
    """Name 2 and 5 of each decade where a logarithmic axis shows but one power of ten, or none.

    Matplotlib names all nine there, one over the other. To be called when everything is drawn.
    """
    from matplotlib.ticker import FixedLocator, LogFormatterSciNotation

    low, high = map(math.log10, sorted(axis.get_view_interval()))
    if math.floor(high) <= math.ceil(low):
        decades = range(math.floor(low), math.ceil(high) + 1)
        axis.set_minor_locator(FixedLocator([m * 10.0**e for e in decades for m in (2, 5)]))
        everywhere = (math.inf, math.inf)
        axis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=everywhere))


def slots(axes: Axes, names: Sequence[str], **text: Any) -> None:
    """Give each name a slot of width 1 around 0, 1, …, so that marks may stand side by side.

    A line between two slots says where the one ends and the other begins.

    Args:
        axes: Whose horizontal axis it is.
        names: What is written below each slot.
        text: What its labels look like.
    """
    axes.set_xticks(range(len(names)), names, **text)
    axes.set_xticks([k + 0.5 for k in range(len(names) - 1)], minor=True)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(False, axis="x", which="major")
    axes.grid(True, axis="x", which="minor")
    axes.set_xlim(-0.5, len(names) - 0.5)


def side_by_side(marks: int, width: float = 0.88) -> list[float]:
    """Return how far from the middle of its slot each of some marks stands."""
    return [width * ((mark + 0.5) / marks - 0.5) for mark in range(marks)]


def legend(axes: Axes) -> None:
    """Name each method once, above the axes, where it hides no data."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        axes.legend(once.values(), once.keys(), loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def save(fig: Figure, path_without_suffix: Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG, each in one step; equal figures give equal files.

    Args:
        fig: The figure.
        path_without_suffix: Where; ``.png`` and ``.svg`` are added to the name.

    Returns:
        The two files.
    """
    base = Path(path_without_suffix)
    base.parent.mkdir(parents=True, exist_ok=True)
    with _letters_on_top(fig):
        png = _save(fig, base.with_name(f"{base.name}.png"), {"Software": None})
        svg = _save(fig, base.with_name(f"{base.name}.svg"), {"Date": None, "Creator": None})
    return png, svg


def save_movie(frames: Sequence[Any], path: Path, seconds: float = 5.0) -> Path:
    """Write images or figures as a GIF that runs for ever; equal frames give equal files.

    Args:
        frames: Arrays ``(rows, columns)``, the first row at the bottom, each scaled to its own
            maximum; or figures, all of one size.
        path: The file.
        seconds: How long it runs before it begins again, the last frame held for one more.
    """
    from matplotlib.figure import Figure

    drawn = _pictures(frames) if isinstance(frames[0], Figure) else _densities(frames)
    each = round(1000 * seconds / len(drawn))
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.replacing(path) as scratch:
        drawn[0].save(
            scratch,
            format="GIF",
            save_all=True,
            append_images=drawn[1:],
            duration=[each] * (len(drawn) - 1) + [1000],
            loop=0,
        )
    return path


def _densities(frames: Sequence[Any]) -> list[Image.Image]:
    """Return arrays as images, dark where they are large."""
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    colours = (255 * np.asarray(colormaps["magma_r"](range(256)))[:, :3]).astype(np.uint8)
    images = []
    for frame in map(np.asarray, frames):
        levels = (255 * np.flipud(frame) / max(float(frame.max()), 1e-30)).astype(np.uint8)
        image = Image.fromarray(levels.repeat(3, axis=0).repeat(3, axis=1), mode="P")
        image.putpalette(colours.ravel().tolist())
        images.append(image)
    return images


def _pictures(figures: Sequence[Figure]) -> list[Image.Image]:
    """Return figures as images of few colours, those of the last one, so that files are small."""
    from PIL import Image

    images = []
    for figure in figures:
        memory = io.BytesIO()
        with style():
            figure.savefig(memory, format="png", dpi=MOVIE_DPI)
        images.append(Image.open(memory).convert("RGB"))
    palette = images[-1].quantize(MOVIE_COLOURS)
    return [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]


@contextmanager
def _letters_on_top(fig: Figure) -> Iterator[None]:
    """Draw the letters that are marks once more, above all lines and bars, each with a white rim.

    Lines through a letter, its own among them, make it another letter or none.
    """
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    white = {"color": "white", "markeredgecolor": "white"}
    rim: dict[str, Any] = {**white, "markeredgewidth": RIM, "alpha": None}
    added: list[Artist] = []
    for axes in fig.axes:
        top = max((line.get_zorder() for line in axes.lines), default=0) + 1
        for line in filter(_is_lettered, axes.lines):
            for look in (rim, {}):
                # Not by a path effect: with one, SVG holds the outline of a mark once for each.
                mark = Line2D(*line.get_data())
                mark.update_from(line)
                mark.set(linestyle="none", zorder=top, markevery=line.get_markevery(), **look)
                mark.set_transform(line.get_transform())
                added.append(axes.add_artist(mark))
    named = {
        artist: artist.get_path_effects()
        for key in fig.findobj(Legend)
        for artist in key.findobj(_is_lettered)
    }
    for artist in named:
        artist.set_path_effects([withStroke(linewidth=RIM, foreground="white")])
    try:
        yield
    finally:
        for artist in added:
            artist.remove()
        for artist, effects in named.items():
            artist.set_path_effects(effects)


def _is_lettered(artist: Artist) -> bool:
    from matplotlib.lines import Line2D

    return isinstance(artist, Line2D) and str(artist.get_marker()).startswith("$")


def _save(fig: Figure, path: Path, metadata: dict[str, None]) -> Path:
    """Write one file without the metadata that would change from run to run."""
    with storage.replacing(path) as scratch, style():
        fig.savefig(scratch, format=path.suffix[1:], dpi=DPI, metadata=metadata)
    return path
