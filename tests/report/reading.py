"""Reads a report as a reader would: its tables by caption, its charts, its words."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What stands in a page.

    Attributes:
        tables: by caption the rows, each the texts of its cells, the first row the heads. kinds: likewise the classes.
        tags: every tag with its attributes. text: all words outside of the style sheet, with single spaces.
        boxes: (class, text) of every element with the class "step".
    """

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        self.kinds: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.boxes: list[tuple[str, str]] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self._caption = ""
        self._box_depth: int | None = None
        self.feed(html)
        self.close()
        if self._open:
            raise ValueError(f"never closed: {self._open}")
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.tags.append((tag, known))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag == "caption":
            self._caption = ""
        elif tag == "tr":
            self.tables[self._caption].append([])
            self.kinds[self._caption].append([])
        elif tag in ("td", "th"):
            self.tables[self._caption][-1].append("")
            self.kinds[self._caption][-1].append(known.get("class") or "")
        elif "step" in (known.get("class") or "").split():
            self.boxes.append((known["class"] or "", ""))
            self._box_depth = len(self._open)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if self._open.pop() != tag:
            raise ValueError(f"</{tag}> closes another element")
        if tag == "caption":
            self.tables[self._caption], self.kinds[self._caption] = [], []
        if self._box_depth is not None and len(self._open) < self._box_depth:
            self._box_depth = None

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self._words.append(data)
        if "caption" in self._open:
            self._caption += data
        elif self._open and self._open[-1] in ("td", "th"):
            self.tables[self._caption][-1][-1] += data
        if self._box_depth is not None:
            kind, text = self.boxes[-1]
            self.boxes[-1] = kind, " ".join(f"{text} {data}".split())

    def column(self, caption: str, head: str) -> list[str]:
        """The texts of a column, without its head."""
        place = self.tables[caption][0].index(head)
        return [row[place] for row in self.tables[caption][1:]]
