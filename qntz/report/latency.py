"""What was timed, as tables and as charts: latency by inputs, and throughput over the batch sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import SubElement, tostring

from qntz.bench import Timing
from qntz.report import charts, svg
from qntz.report.run import Run
from qntz.report.tables import Cell, Table
from qntz.report.wording import NOT_MEASURED, decibel, fraction, milliseconds, size

ROW, TOP = 26, 8
LETTER = 7  # pixels, of the charts' text
LONGEST_NAME = 45  # percent of a chart's width
VALUE = 150  # pixels for the figures behind the longest bar, on a wide chart

TIMED = ("Median", "p90", "p99", "CPU", "GPU", "Samples/s", "Memory", "GPU memory")


def by_inputs(timings: Sequence[Timing]) -> dict[str, list[Timing]]:
    """The timings of each set of inputs, in their order."""
    groups: dict[str, list[Timing]] = {}
    for timing in timings:
        groups.setdefault(timing.inputs, []).append(timing)
    return groups


def engines_table(run: Run) -> Table:
    """How long each engine takes, beside the first that was timed; and why one was not."""
    base = next(iter(run.timings.values()), None)
    columns = ("Engine", *TIMED, f"Over {base.subject}") if base is not None else ("Engine", "Not timed")
    rows = []
    for engine in run.engines:
        timing = run.timings.get(engine.name)
        if timing is None or base is None:
            why = run.not_timed.get(engine.name, NOT_MEASURED)
            rows.append((Cell(engine.name), Cell(why, "absent prose"), *[Cell("")] * (len(columns) - 2)))
        else:
            rows.append((Cell(engine.name), *_timed(timing, base)))
    return _measured(Table("Latency of the engines", columns, tuple(rows)))


def bench_tables(timings: Sequence[Timing]) -> list[Table]:
    """A table for each set of inputs, with the SQNR of the outputs against the first subject's."""
    made = []
    for name, rows in by_inputs(timings).items():
        base = rows[0]
        columns = ("Runtime", *TIMED, f"Over {base.subject}", "SQNR", "Equal")
        cells = tuple(
            (Cell(one.subject), *_timed(one, base), _if(one.sqnr_db, decibel), _if(one.equal, fraction)) for one in rows
        )
        made.append(_measured(Table(f"Latency, {name}", columns, cells)))
    return made


def _timed(timing: Timing, base: Timing) -> tuple[Cell, ...]:
    """`TIMED`, and how many times as long as another."""
    ratio, least, most = timing.over(base)
    spread = "1" if timing is base else f"{ratio:.2f} ({least:.2f} to {most:.2f})" if timing.rounds else f"{ratio:.2f}"
    times = (timing.median_ms, timing.p90_ms, timing.p99_ms, timing.cpu_ms, timing.gpu_ms)
    rate = f"{timing.per_second:,.0f}" if timing.per_second >= 10 else f"{timing.per_second:.2f}"
    return (
        *(_if(one, milliseconds) for one in times),
        Cell(rate, "number"),
        _if(timing.memory, size),
        _if(timing.gpu_memory, size),
        Cell(spread, "number"),
    )


def _if(value: Any, told: Callable[[Any], str]) -> Cell:
    """A figure, or an empty cell."""
    return Cell("") if value is None else Cell(told(value), "number")


def _measured(table: Table) -> Table:
    """The table without the columns in which nothing was measured."""
    kept = [at for at in range(len(table.columns)) if not table.rows or any(row[at].text for row in table.rows)]
    rows = tuple(tuple(row[at] for at in kept) for row in table.rows)
    return Table(table.caption, tuple(table.columns[at] for at in kept), rows, table.empty)


def latency_charts(timings: Sequence[Timing], wide: int, narrow: int, order: Sequence[str] = ()) -> list[charts.Chart]:
    """A chart for each set of inputs: the median as a bar, with a line from it to the 99th percentile and a tick at the
    90th; what lies far out is cut at the edge, and stands in figures.

    Args:
        order: the names by whose places the colours go, as in other charts of a page; none: the order of the timings.
    """
    places = {name: place for place, name in enumerate(order or dict.fromkeys(one.subject for one in timings))}
    pairs = []
    for place, (name, rows) in enumerate(by_inputs(timings).items()):
        title = f"Latency, {name}"
        pairs.append(
            charts.Chart(title, *(_bars(rows, f"latency-{place}-{w}", w, title, places) for w in (wide, narrow)))
        )
    return pairs


def _bars(rows: Sequence[Timing], key: str, width: int, title: str, places: Mapping[str, int]) -> str:
    left = min(max(len(row.subject) for row in rows) * LETTER + 12, width * LONGEST_NAME // 100)
    right = width - (VALUE if width > 600 else 66)
    bottom = TOP + ROW * len(rows)
    ticks = charts.linear_ticks(0, max(min(row.p90_ms, 3 * row.median_ms) for row in rows), 6 if width > 600 else 3)

    def across(value: float) -> float:
        return left + min(value / ticks[-1], 1) * (right - left)

    said = "; ".join(f"{row.subject}: {milliseconds(row.median_ms)}" for row in rows)
    drawn = svg.drawing(key, width, bottom + charts.BOTTOM, title, said)
    for tick in ticks:
        svg.line(drawn, across(tick), TOP, across(tick), bottom, "grid")
        svg.text(drawn, across(tick), bottom + 16, f"{tick:g}", "middle")
    for place, row in enumerate(rows):
        y, (kind, _) = TOP + ROW * place + ROW / 2, charts.style_of(places[row.subject])
        svg.text(drawn, left - 8, y + 4, charts.shortened(row.subject, (left - 12) // LETTER), "end", "name")
        ends = {"x": svg.fixed(left), "y": svg.fixed(y - 6), "width": svg.fixed(across(row.median_ms) - left)}
        SubElement(drawn, "rect", {**ends, "height": "12", "rx": "2", "class": f"bar {kind}"})
        svg.line(drawn, across(row.median_ms), y, across(row.p99_ms), y, "axis")
        svg.line(drawn, across(row.p90_ms), y - 5, across(row.p90_ms), y + 5, "axis")
        figures = milliseconds(row.median_ms)
        if width > 600:
            figures += f", p99 {milliseconds(row.p99_ms)}"
        svg.text(drawn, across(max(row.p99_ms, row.p90_ms)) + 6, y + 4, figures, "start", "value")
    svg.line(drawn, left, TOP, left, bottom, "axis")
    svg.text(drawn, (left + right) / 2, bottom + 36, "milliseconds, the median", "middle", "label")
    return tostring(drawn, encoding="unicode")


def throughput_chart(timings: Sequence[Timing], wide: int, narrow: int) -> charts.Chart | None:
    """Samples a second over the batch sizes, both logarithmic, with its legend (name, class, dashes); None where there
    is one batch size."""
    if len({timing.batch for timing in timings}) < 2:
        return None
    names = list(dict.fromkeys(timing.subject for timing in timings))
    lines = [sorted((t.batch, t.per_second) for t in timings if t.subject == name) for name in names]
    title = "Throughput"
    drawn = [_lines(names, lines, f"throughput-{width}", width, title) for width in (wide, narrow)]
    return charts.Chart(title, *drawn, tuple((name, *charts.style_of(place)) for place, name in enumerate(names)))


def _lines(names: Sequence[str], lines: Sequence[Sequence[tuple[int, float]]], key: str, width: int, title: str) -> str:
    xs = sorted({x for points in lines for x, _ in points})
    ys = [y for points in lines for _, y in points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    high = max(high, low + 1)
    left, right, bottom = 64, width - charts.RIGHT, charts.LINE_HEIGHT - charts.BOTTOM

    def across(x: float) -> float:
        return left + 12 + math.log(x / xs[0]) / math.log(xs[-1] / xs[0]) * (right - left - 24)

    def up(y: float) -> float:
        return bottom - (math.log10(y) - low) / (high - low) * (bottom - charts.TOP)

    said = "; ".join(
        f"{name}: {', '.join(f'{y:.3g} at {x}' for x, y in points)}" for name, points in zip(names, lines, strict=True)
    )
    drawn = svg.drawing(key, width, charts.LINE_HEIGHT, title, said)
    for power in range(low, high + 1):
        svg.line(drawn, left, up(10.0**power), right, up(10.0**power), "grid")
        svg.text(drawn, left - 8, up(10.0**power) + 4, f"{10.0**power:,.10g}", "end")
    for x in xs:
        svg.line(drawn, across(x), bottom, across(x), bottom + 5, "axis")
        svg.text(drawn, across(x), bottom + 18, str(x), "middle")
    svg.line(drawn, left, bottom, right, bottom, "axis")
    svg.text(drawn, (left + right) / 2, charts.LINE_HEIGHT - 8, "batch size", "middle", "label")
    label = svg.text(drawn, 0, 0, "samples a second", "middle", "label")
    label.set("transform", f"translate(13 {svg.fixed((charts.TOP + bottom) / 2)}) rotate(-90)")
    for place, (name, points) in enumerate(zip(names, lines, strict=True)):
        kind, dash = charts.style_of(place)
        group = SubElement(drawn, "g", {"class": f"series {kind}"})
        corners = " ".join(f"{svg.fixed(across(x))},{svg.fixed(up(y))}" for x, y in points)
        stroke = SubElement(group, "polyline", {"points": corners, "class": "line"})
        if dash:
            stroke.set("stroke-dasharray", dash)
        for x, y in points:
            place_of = {"cx": svg.fixed(across(x)), "cy": svg.fixed(up(y)), "r": "3", "class": "dot"}
            SubElement(SubElement(group, "circle", place_of), "title").text = f"{name}, batch {x}: {y:,.0f} samples/s"
    return tostring(drawn, encoding="unicode")
