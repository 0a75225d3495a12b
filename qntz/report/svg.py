"""The pieces that charts are drawn of, in CSS pixels."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement


def drawing(key: str, width: int, height: int, title: str, description: str) -> Element:
    """An empty chart with a title and a description for those who hear the page. key: unique in it, for their ids."""
    made = Element(
        "svg",
        {
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "aria-labelledby": f"{key}-title {key}-desc",
            "class": "chart",
        },
    )
    SubElement(made, "title", {"id": f"{key}-title"}).text = title
    SubElement(made, "desc", {"id": f"{key}-desc"}).text = description
    return made


def line(svg: Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    """kind: a class of the style sheet."""
    ends = {"x1": fixed(x1), "y1": fixed(y1), "x2": fixed(x2), "y2": fixed(y2)}
    SubElement(svg, "line", {**ends, "class": kind})


def text(svg: Element, x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Element:
    """Text whose start, middle or end stands at x, its foot at y."""
    element = SubElement(svg, "text", {"x": fixed(x), "y": fixed(y), "text-anchor": anchor, "class": kind})
    element.text = text
    return element


def power_of_ten(power: int) -> str:
    """The label of a logarithmic axis: "1e-3", "1"."""
    return "1" if power == 0 else f"1e{power}"


def fixed(value: float) -> str:
    """At most one decimal, without a needless zero."""
    return f"{value:.1f}".removesuffix(".0")
