"""Reads a page as its tests need it: elements, anchors, and tables by the id of their box."""

from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """A page that was read.

    Args:
        text: The HTML.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._open: list[tuple[str, dict[str, str]]] = []
        self._cell: str | None = None
        self.feed(text)
        self.close()
        assert not self._open, f"{self._open[-1]} is never closed"

    def all(self, name: str) -> list[dict[str, str]]:
        """Return the attributes of every element of a name."""
        return [attributes for tag, attributes in self.elements if tag == name]

    def ids(self) -> list[str]:
        """Return every id, in order."""
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def table(self, box: str) -> list[dict[str, str]]:
        """Return the lines of a table by its heads, whole values in the cells."""
        heads, *lines = self.tables[box]
        return [dict(zip(heads, line, strict=True)) for line in lines]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self._open.append((tag, attributes))
        if tag == "tr":
            self.tables.setdefault(self._box(), []).append([])
        if tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag: str) -> None:
        opened, attributes = self._open.pop()
        assert opened == tag, f"{opened} is closed by {tag}"
        if tag in ("td", "th"):
            shown = " ".join((self._cell or "").split())
            self.tables[self._box()][-1].append(attributes.get("data-value", shown))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] not in ("script", "style"):
            self.text += data
        if self._cell is not None:
            self._cell += data

    def _box(self) -> str:
        return next(a["id"] for _, a in reversed(self._open) if a.get("class") == "table")
