"""Charts as inline SVG, from our own few lines: no script, no font, the colours from the page's style sheet.

A chart is drawn at the width that it is shown at, so that its text keeps its size on a narrow screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

from qntz.report import svg
from qntz.report.wording import decibel, error

COLOURS = 8
DASHES = ("", "6 3", "2 3")
LINE_HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 44
Scale = Callable[[float], float]
EDGE = 24
"""The height of the row of points without a finite figure."""
MARKED = 60
"""A line of up to so many points has a dot on each; a longer one is thin, with a dot only where no line is."""


@dataclass(frozen=True)
class Chart:
    """A chart in both widths, with the legend: name, class and dashes of each line."""

    title: str
    wide: str
    narrow: str
    legend: tuple[tuple[str, str, str], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Point:
    """A point of a line: `y` is None where nothing was measured, infinite where the tensors are equal."""

    x: int
    y: float | None
    name: str = ""


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Bar:
    """A row of a chart of errors: `value` and `limit` (its tolerance) None where there is none; `note` is said in place
    of a value that is missing. `kind`: the class of its colour. `hollow`: not of the engine itself."""

    name: str
    value: float | None
    limit: float | None = None
    note: str = ""
    kind: str = "stage"
    hollow: bool = False


def linear_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    if high <= low:
        low, high = low - 1, high + 1
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that enclose the positive values; (-7, 0) where there is none."""
    positive = [value for value in values if value > 0]
    if not positive:
        return -7, 0
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return low - (10.0**low == min(positive)), max(high, low + 1)


def line_chart(series: Sequence[Series], *, key: str, width: int, title: str, x_label: str, y_label: str) -> str:
    """A line for each series over whole numbers. An equal tensor's point is a mark in a row of its own above the axis,
    "exact", a broken one's in one below; where nothing was measured the line has a gap.

    Args:
        key: unique in the page, for the ids of title and description. width: of the whole chart, in CSS pixels.
    """
    ys = [point.y for line in series for point in line.points if point.y is not None]
    known = [y for y in ys if math.isfinite(y)]
    xs = [point.x for line in series for point in line.points]
    y_ticks = linear_ticks(min(known, default=0.0), max(known, default=1.0))
    x_low, x_high = min(xs, default=0), max(xs, default=1)
    right, bottom = width - RIGHT, LINE_HEIGHT - BOTTOM
    highest = TOP + (EDGE if math.inf in ys and known else 0)
    lowest = bottom - (EDGE if -math.inf in ys else 0)

    def across(x: float) -> float:
        return (LEFT + right) / 2 if x_high == x_low else LEFT + (x - x_low) / (x_high - x_low) * (right - LEFT)

    def up(y: float) -> float:
        if math.isinf(y):
            return TOP if y > 0 else bottom - EDGE / 2
        return lowest - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (lowest - highest)

    drawn = svg.drawing(key, width, LINE_HEIGHT, title, _described(series))
    labels = [(up(tick), f"{tick:g}") for tick in y_ticks if known]
    labels += [(up(y), word) for y, word in ((math.inf, "exact"), (-math.inf, "broken")) if y in ys]
    for y, said in labels:
        svg.line(drawn, LEFT, y, right, y, "grid")
        svg.text(drawn, LEFT - 8, y + 4, said, "end")
    for tick in sorted({int(tick) for tick in linear_ticks(x_low, x_high, 4 + width // 200) if tick == int(tick)}):
        if x_low <= tick <= x_high:
            svg.line(drawn, across(tick), bottom, across(tick), bottom + 5, "axis")
            svg.text(drawn, across(tick), bottom + 18, str(tick), "middle")
    svg.line(drawn, LEFT, bottom, right, bottom, "axis")
    svg.text(drawn, (LEFT + right) / 2, LINE_HEIGHT - 8, x_label, "middle", "label")
    label = svg.text(drawn, 0, 0, y_label, "middle", "label")
    label.set("transform", f"translate(13 {svg.fixed((TOP + bottom) / 2)}) rotate(-90)")
    for place, line in enumerate(series):
        _draw(drawn, line, place, across, up)
    return tostring(drawn, encoding="unicode")


def error_chart(bars: Sequence[Bar], *, key: str, width: int, title: str, x_label: str) -> str:
    """A row for each error, on a logarithmic axis, with a tick at its limit; an error of 0 has no length.

    Args: as of `line_chart`.
    """
    left = min(max((len(bar.name) for bar in bars), default=0) * 7 + 12, width * 45 // 100)
    right, row, top = width - 74, 26, 8
    bottom = top + row * len(bars)
    low, high = decades([value for bar in bars for value in (bar.value, bar.limit) if value is not None])

    def across(value: float) -> float:
        return left + (math.log10(value) - low) / (high - low) * (right - left)

    said = "; ".join(f"{bar.name}: {bar.note or error(bar.value)}" for bar in bars)
    drawn = svg.drawing(key, width, bottom + BOTTOM, title, said)
    every = -(-(high - low) // max(1, (right - left) // 44))
    for power in range(low, high + 1):
        x = across(10.0**power)
        svg.line(drawn, x, top, x, bottom, "grid")
        if (power - low) % every == 0:
            svg.text(drawn, x, bottom + 16, svg.power_of_ten(power), "middle")
    for place, bar in enumerate(bars):
        y = top + row * place + row / 2
        svg.text(drawn, left - 8, y + 4, shortened(bar.name, (left - 12) // 7), "end", "name")
        end = left if not bar.value else across(bar.value)
        if bar.value:
            attributes = {
                "x": svg.fixed(left),
                "y": svg.fixed(y - 6),
                "width": svg.fixed(end - left),
                "height": "12",
                "rx": "2",
            }
            SubElement(drawn, "rect", {**attributes, "class": f"bar {bar.kind}{' hollow' if bar.hollow else ''}"})
        if bar.limit:
            svg.line(drawn, across(bar.limit), y - 10, across(bar.limit), y + 10, "limit")
            end = max(end, across(bar.limit)) if across(bar.limit) - end < 60 else end
        svg.text(
            drawn, end + 6, y + 4, bar.note or error(bar.value), "start", "absent" if bar.value is None else "value"
        )
    svg.line(drawn, left, top, left, bottom, "axis")
    svg.text(drawn, (left + right) / 2, bottom + 36, x_label, "middle", "label")
    return tostring(drawn, encoding="unicode")


def style_of(place: int) -> tuple[str, str]:
    """The class and the dashes of the line in this place of the legend."""
    return f"s{place % COLOURS}", DASHES[place // COLOURS % len(DASHES)]


def _draw(drawn: Element, line: Series, place: int, across: Scale, up: Scale) -> None:
    kind, dash = style_of(place)
    group = SubElement(drawn, "g", {"class": f"series {kind}"})
    weight = "line" if len(line.points) <= MARKED else "line thin"
    alone = set()
    for stretch in _stretches(line.points):
        if len(stretch) == 1:
            alone.add(stretch[0][0])
            continue
        corners = " ".join(f"{svg.fixed(across(x))},{svg.fixed(up(y))}" for x, y in stretch)
        stroke = SubElement(group, "polyline", {"points": corners, "class": weight})
        if dash:
            stroke.set("stroke-dasharray", dash)
    for point in line.points:
        if point.y is None or (len(line.points) > MARKED and math.isfinite(point.y) and point.x not in alone):
            continue
        shape = "dot" if math.isfinite(point.y) else "edge"
        place_of = {"cx": svg.fixed(across(point.x)), "cy": svg.fixed(up(point.y))}
        dot = SubElement(group, "circle", {**place_of, "r": "3", "class": shape})
        SubElement(dot, "title").text = f"{line.name}, {point.x} {point.name}: {decibel(point.y)}"


def _stretches(points: Sequence[Point]) -> list[list[tuple[int, float]]]:
    """The finite points, x and y, in runs without a gap."""
    runs: list[list[tuple[int, float]]] = [[]]
    for point in points:
        if point.y is not None and math.isfinite(point.y):
            runs[-1].append((point.x, point.y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _described(series: Sequence[Series]) -> str:
    said = []
    for line in series:
        known = [(p.y, p.x, p.name) for p in line.points if p.y is not None and math.isfinite(p.y)]
        if known:
            y, x, name = min(known)
            said.append(f"{line.name}: {len(known)} points, lowest {y:.1f} at {x} {name}".rstrip())
        else:
            said.append(f"{line.name}: no finite point")
    return "; ".join(said)


def shortened(name: str, most: int) -> str:
    """A name cut in its middle, so that its end, which tells engines apart, stays."""
    if len(name) <= most:
        return name
    tail = max(1, (most - 1) * 2 // 3)
    return f"{name[: most - 1 - tail]}…{name[-tail:]}"
