"""The histogram of an activation with its threshold, on logarithmic axes; and the words beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import SubElement, tostring

import numpy as np

from qntz.report import svg
from qntz.report.activations import Activation, edges, worst_first
from qntz.report.charts import decades
from qntz.report.tables import Cell, Table
from qntz.report.wording import decibel, many, scientific

WIDTH, HEIGHT = 290, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 8, 40
NEAR_ZERO, GAP = 12, 8
"""Pixels of the bar for what is too small for the axis, and from it to the axis."""
OCTAVES = 12
"""The axis ends at the power of two at or above all that was seen and the threshold, and begins so many below."""
DRAWN = 8
"""Histograms of an engine."""


@dataclass(frozen=True)
class Small:
    """One of several small charts: the tensor, the drawing, and what is said of it."""

    tensor: str
    drawing: str
    said: str


@dataclass(frozen=True)
class Activations:
    """Of one engine: the histograms that are drawn, how many tensors are not, and a table."""

    engine: str
    charts: tuple[Small, ...]
    note: str
    table: Table


def activations(engine: str, key: str, found: Sequence[Activation], most: int) -> Activations:
    """The view of an engine's activations, those that keep least first.

    Args:
        key: unique in the page, for ids. most: rows of the table.
    """
    worst = worst_first(found)
    charts = tuple(
        Small(one.tensor, histogram_chart(one, f"{key}-{place}"), _said(one)) for place, one in enumerate(worst[:DRAWN])
    )
    clipping = sum(one.clips for one in found)
    note = f"{many(len(found), 'tensor')}, {clipping or 'none'} of them clipped."
    if len(found) > len(charts):
        note += f" Drawn are the {len(charts)} that keep least."
    rows = tuple(_row(one) for one in worst[:most])
    caption = f"{engine}: {len(rows)} of the {many(len(found), 'threshold')}, what keeps least first"
    columns = ("Tensor", "Threshold", "Largest seen", "Clipped", "Keeps", "Channels divided by")
    return Activations(engine, charts, note, Table(caption, columns, rows))


def histogram_chart(one: Activation, key: str) -> str:
    """The share of elements in each bar (four an octave), a line at the threshold, and a ground beyond it."""
    top = math.ceil(math.log2(max(one.largest, one.amax)))
    start, end, bottom = LEFT + NEAR_ZERO + GAP, WIDTH - RIGHT, HEIGHT - BOTTOM
    shares = one.counts / max(one.counted, 1)
    bounds = edges()
    first = int(np.searchsorted(bounds, 2.0 ** (top - OCTAVES)))
    small = float(shares[:first].sum())
    low, high = decades([small, *shares[first:].tolist(), 1.0])

    def across(magnitude: float) -> float:
        return start + (math.log2(magnitude) - top + OCTAVES) / OCTAVES * (end - start)

    def up(share: float) -> float:
        return bottom - (math.log10(share) - low) / (high - low) * (bottom - TOP)

    drawn = svg.drawing(key, WIDTH, HEIGHT, f"{one.tensor}: histogram and threshold", _said(one))
    drawn.set("class", "chart small")
    past = max(across(one.amax), start)  # a threshold below the axis would take the picture beyond it
    ground = {"x": svg.fixed(past), "y": str(TOP), "width": svg.fixed(end - past), "height": str(bottom - TOP)}
    SubElement(drawn, "rect", {**ground, "class": "beyond"})
    for power in range(low, high + 1):
        svg.line(drawn, LEFT, up(10.0**power), end, up(10.0**power), "grid")
        if (high - power) % -(-(high - low) // 4) == 0:
            svg.text(drawn, LEFT - 6, up(10.0**power) + 4, svg.power_of_ten(power), "end")
    bars = [f"M{LEFT} {bottom}V{svg.fixed(up(small))}H{LEFT + NEAR_ZERO}V{bottom}"] if small else []
    for place in np.flatnonzero(shares[first:]) + first:
        ends = svg.fixed(across(bounds[place])), svg.fixed(across(bounds[place + 1]))
        bars.append(f"M{ends[0]} {bottom}V{svg.fixed(up(shares[place]))}H{ends[1]}V{bottom}")
    SubElement(drawn, "path", {"d": "".join(bars), "class": "bars"})
    svg.line(drawn, LEFT, bottom, end, bottom, "axis")
    svg.text(drawn, LEFT + NEAR_ZERO / 2, bottom + 16, "~0", "middle")
    for power in range(math.ceil((top - OCTAVES) * math.log10(2)), math.floor(top * math.log10(2)) + 1):
        x = across(10.0**power)
        svg.line(drawn, x, bottom, x, bottom + 4, "axis")
        if x > start + 20:  # else it would run into the label of the first bar
            svg.text(drawn, min(x, end - 10), bottom + 16, f"{10.0**power:g}", "middle")
    if one.amax >= 2.0 ** (top - OCTAVES):
        svg.line(drawn, across(one.amax), TOP, across(one.amax), bottom, "limit")
    svg.text(drawn, (start + end) / 2, HEIGHT - 7, "magnitude", "middle", "label")
    label = svg.text(drawn, 0, 0, "share", "middle", "label")
    label.set("transform", f"translate(11 {svg.fixed((TOP + bottom) / 2)}) rotate(-90)")
    return tostring(drawn, encoding="unicode")


def _said(one: Activation) -> str:
    said = [f"threshold {one.amax:.4g}", f"largest {one.largest:.4g}", f"{_clipped(one)} clipped"]
    if one.kept_db is not None:
        said.append(f"keeps {decibel(one.kept_db)}")
    if one.exponents:
        said.append(f"after its channels were divided by {_divisors(one)}")
    return ", ".join(said).replace(" dB", "\N{NO-BREAK SPACE}dB").replace(" %", "\N{NO-BREAK SPACE}%")


def _clipped(one: Activation) -> str:
    """The share beyond the threshold in per cent; what was too rare to be counted is no zero."""
    if not one.clips:
        return "none"
    if not one.beyond:
        return f"less than 1 in {one.counted:,}"
    share = 100 * one.clipped
    return f"{share:.2g} %" if share >= 1e-3 else f"{scientific(share)} %"


def _divisors(one: Activation) -> str:
    return "" if one.exponents is None else " to ".join(f"{2.0**exponent:g}" for exponent in one.exponents)


def _row(one: Activation) -> tuple[Cell, ...]:
    kept = Cell("not recorded", "absent") if one.kept_db is None else Cell(decibel(one.kept_db), "number")
    divided = Cell(_divisors(one), "number") if one.exponents else Cell("not divided", "absent")
    figures = (Cell(f"{one.amax:.4g}", "number"), Cell(f"{one.largest:.4g}", "number"), Cell(_clipped(one), "number"))
    return (Cell(one.tensor, "code"), *figures, kept, divided)
