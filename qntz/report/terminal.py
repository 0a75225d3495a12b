"""The engines of a model as a table for the terminal, with what was found and what changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qntz.report import tables
from qntz.report.changes import Changes, changes_table
from qntz.report.run import EngineRun, Run
from qntz.report.wording import NOT_MEASURED, decibel, fraction, milliseconds, size

if TYPE_CHECKING:
    from rich.table import Table


WIDE = 112
"""Columns of a terminal that take the whole table, with names of usual length."""


def terminal_summary(run: Run, width: int = WIDE) -> Table:
    """A compact table: a row for each engine, and below it why an engine was not run, and on what machine the median
    latency was measured, where it was. Print it with rich.

    Args:
        width: columns of the terminal; where they are few, the table lacks what differs least between engines.
    """
    from rich.table import Table
    from rich.text import Text

    idle: dict[str, list[str]] = {}
    for engine in run.engines:
        if not engine.was_run:
            idle.setdefault(engine.why_not_run, []).append(engine.name)
    told = [f"Not run: {', '.join(names)}: {why}" for why, names in idle.items()]
    told += [f"Latency: the median on {run.timed_on}"] * bool(run.timings)
    caption = Text("\n".join(told)) if told else None
    table = Table(title=Text(run.model), caption=caption, box=None, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    rows = [_cells(engine, run) for engine in run.engines]
    metric = run.metric or "metric"
    names = ("engine", "precision", "backend", f"{metric} eager", metric, "agreement", "SQNR", "size", "latency", "run")
    left_out = {*([] if width >= WIDE else [2, 3, 5]), *([] if run.timings else [8])}
    kept = [at for at in range(len(names)) if at not in left_out]
    for at in kept:
        table.add_column(names[at], justify="right" if 2 < at < 9 else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[at]) for at in kept))
    return table


def _cells(engine: EngineRun, run: Run) -> tuple[str, ...]:
    timing = run.timings.get(engine.name)
    shown = (
        engine.name,
        engine.precision or "?",
        str(engine.engine.get("backend", "?")),
        fraction(engine.figure(f"{run.metric}_eager")),
        fraction(engine.figure(run.metric)),
        fraction(engine.figure("agreement")),
        decibel(engine.figure("sqnr_db")),
        size(engine.plan_bytes),
        NOT_MEASURED if timing is None else milliseconds(timing.median_ms),
        "yes" if engine.was_run else "NOT RUN",
    )
    return tuple("-" if text == NOT_MEASURED else text for text in shown)


def findings_lines(run: Run) -> Iterator[str]:
    """What the check found, the gravest first, a line each."""
    for row in tables.findings(run).rows:
        severity, rule, place, message, *_ = (cell.text for cell in row)
        yield f"{severity}  {place} {rule}: {message}" if place else f"{severity}  {rule}: {message}"


def changes_summary(changes: Changes) -> Table:
    """The figures that differ from a revision. Print it with rich."""
    from rich.table import Table
    from rich.text import Text

    told = changes_table(changes)
    table = Table(title=Text(f"against {changes.revision}"), box=None, pad_edge=False, title_justify="left")
    for at, name in enumerate(told.columns):
        head = name if name == changes.revision else name.lower()
        table.add_column(Text(head), justify="right" if at > 1 else "left", overflow="fold")
    for row in told.rows:
        table.add_row(*(Text(cell.text) for cell in row))
    return table
