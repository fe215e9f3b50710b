"""Docstrings of experiments as HTML: what is done, and the numbered deviations."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from markdown_it import MarkdownIt

# What a formula or a name would set off by chance, and what a docstring has no use for.
OFF = ("emphasis", "link", "image", "autolink", "entity", "html_inline", "html_block", "lheading")


@dataclass(frozen=True)
class Protocol:
    """The docstring of an experiment, in its parts.

    Args:
        claim: Its first line.
        text: What is done and what the rows and metrics are.
        deviations: Where it departs from the paper or from the deck; empty if it does not say.
    """

    claim: str
    text: Markup
    deviations: Markup


def protocol(module: ModuleType) -> Protocol:
    """Take the docstring of an experiment apart."""
    claim, *blocks = re.split(r"\n\s*\n", inspect.getdoc(module) or "")
    deviating = [place for place, block in enumerate(blocks) if _opens_deviations(block)]
    taken: set[int] = set()
    for place in deviating:
        follows = place + 1 < len(blocks) and re.match(r"1\. ", blocks[place + 1])
        taken |= {place, place + 1} if follows else {place}
    return Protocol(
        claim=" ".join(claim.split()),
        text=html("\n\n".join(b for place, b in enumerate(blocks) if place not in taken)),
        deviations=html("\n\n".join(blocks[place] for place in sorted(taken))),
    )


def caption(function: Callable[..., object]) -> str:
    """Return what a function that draws or tabulates says of what it returns."""
    said = " ".join((inspect.getdoc(function) or "").split()).removeprefix("Return ")
    return said[:1].upper() + said[1:]


def html(text: str) -> Markup:
    """Return text with Markdown's lists, code and indented formulas as HTML, all else escaped."""
    return Markup(_renderer().render(text))


def _opens_deviations(block: str) -> bool:
    return bool(re.match(r"Deviations\b", block) or re.search(r"\bdeviations:\s*\Z", block))


@cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).disable(list(OFF))
