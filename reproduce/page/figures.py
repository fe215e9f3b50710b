"""Figures and movies of an experiment, embedded where they are small enough."""

from __future__ import annotations

import re
import struct
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

LARGEST_MOVIE = 200_000  # bytes; a larger one stays a file beside the page

# Besides letters, digits and -._~: what an attribute in double quotes may hold as it is.
_AS_IT_IS = " !$'()*+,/:;<=>?@[]{}|"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """One figure.

    Args:
        part: Which of an experiment's figures; empty for the main one.
        source: A data URI; everything in it is safe within double quotes.
        width: In the unit of the file.
        height: In the same.
        files: The files that it was made from, relative to the page, with their kinds.
    """

    part: str
    source: Markup
    width: int
    height: int
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Movie:
    """A movie (GIF).

    Args:
        source: A data URI; empty where the file is too large.
        file: The file, relative to the page.
        kilobytes: Its size.
    """

    source: Markup
    file: str
    kilobytes: int


def pictures(folder: Path, profile: str) -> list[Picture]:
    """Return the figures of a profile in an experiment's folder, the main one first."""
    files = [p for suffix in ("svg", "png") for p in folder.glob(f"{profile}*.{suffix}")]
    stems = {path.stem for path in files}
    parts = sorted(s.removeprefix(profile) for s in stems if s[len(profile) :][:1] in ("", "-"))
    made = [_picture(folder, profile, part) for part in parts]
    return [picture for picture in made if picture is not None]


def movie(folder: Path, profile: str) -> Movie | None:
    """Return the movie of a profile in an experiment's folder, if there is one."""
    path = folder / f"{profile}.gif"
    if not path.exists():
        return None
    content = path.read_bytes()
    small = len(content) <= LARGEST_MOVIE
    source = Markup(_base64("image/gif", content)) if small else Markup()
    return Movie(source, address(path), round(len(content) / 1000))


def slimmed(svg: str) -> str:
    """Return an SVG drawn alike with fewer bytes: coordinates to a hundredth of a point.

    Only the coordinates of paths and positions are shortened, never a scale or a colour. What all
    marks of a series have in common stands once.
    """
    short = re.sub(
        r'\b(d|x|y)="([^"]*)"',
        lambda found: f'{found[1]}="{_short(found[2])}"',
        svg,
    )
    short = re.sub(r'\bstyle="[^"]*"', lambda found: re.sub(r"([:;])\s+", r"\1", found[0]), short)
    short = re.sub(r"translate\([^)]*\)", lambda found: _short(found[0]), short)
    short = short.replace("DejaVuSans-", "g")  # in the name of every letter, at each of its places
    # A raster within: its line breaks are no part of it.
    short = re.sub(r'(?<=;base64,)[^"]*', lambda found: "".join(found[0].split()), short)
    short = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<[?!][^>]*>", "", short, flags=re.DOTALL)
    short = re.sub(r"\s+", " ", short).replace("> <", "><").strip()
    return re.sub(r"(<g\b[^>]*)>((?:<use [^>]*/>)+)(?=</g>)", _styled_once, short)


def _styled_once(found: re.Match[str]) -> str:
    """Return a group of marks with the style of all as its own, if they have but one."""
    group, marks = found.groups()
    styles = re.findall(r' style="[^"]*"', marks)
    if len(styles) != marks.count("<use ") or len(set(styles)) != 1 or " style=" in group:
        return found[0]
    return f"{group}{styles[0]}>{marks.replace(styles[0], '')}"


def _picture(folder: Path, profile: str, part: str) -> Picture | None:
    paths = [folder / f"{profile}{part}{suffix}" for suffix in (".svg", ".png")]
    there = {path: path.read_bytes() for path in paths if path.exists()}
    found = [(_encoded(path, content), _size(content)) for path, content in there.items()]
    shown = [(source, size) for source, size in found if size is not None]
    if not shown:
        return None
    source, (width, height) = min(shown, key=lambda one: len(one[0]))
    files = tuple((path.suffix[1:].upper(), address(path)) for path in there)
    return Picture(part[1:], Markup(source), width, height, files)


def _encoded(path: Path, content: bytes) -> str:
    if path.suffix == ".png":
        return _base64("image/png", content)
    try:
        text = slimmed(content.decode("utf-8"))
    except UnicodeDecodeError:
        return _base64("image/svg+xml", content)
    if "'" not in text:  # a quote that need not be escaped saves a tenth
        text = text.replace('"', "'")
    return f"data:image/svg+xml,{quote(text, safe=_AS_IT_IS)}"


def _size(content: bytes) -> tuple[int, int] | None:
    """Return width and height of an SVG or PNG; None if it is neither."""
    if content.startswith(_PNG) and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
        return int(width), int(height)
    head = re.search(rb"<svg\b[^>]*>", content)
    if head is None:
        return None
    sides = [re.search(rb'\b%s="([0-9.]+)' % side, head[0]) for side in (b"width", b"height")]
    if None in sides:
        return None
    width, height = (round(float(side[1])) for side in sides if side is not None)
    return width, height


def _short(numbers: str) -> str:
    """Return the numbers of a path or a position with two decimals and no space to spare."""
    rounded = re.sub(r"-?[0-9]+[.][0-9]+", _hundredth, numbers)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", rounded)


def _hundredth(found: re.Match[str]) -> str:
    short = f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short


def _base64(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def address(path: Path) -> str:
    """Return where a file lies as seen from the page, two folders up."""
    return quote(f"{path.parent.name}/{path.name}")
