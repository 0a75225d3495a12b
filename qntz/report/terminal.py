"""The engines of a model as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qntz.report.run import EngineRun, Run
from qntz.report.wording import NOT_MEASURED, decibel, fraction, size

if TYPE_CHECKING:
    from rich.table import Table


def terminal_summary(run: Run) -> Table:
    """A compact table: a row for each engine, and below it why an engine was not run. Print it with rich."""
    from rich.table import Table
    from rich.text import Text

    metric = run.metric or "metric"
    idle: dict[str, list[str]] = {}
    for engine in run.engines:
        if not engine.was_run:
            idle.setdefault(engine.why_not_run, []).append(engine.name)
    caption = "\n".join(f"Not run: {', '.join(names)}: {why}" for why, names in idle.items())
    table = Table(title=Text(run.model), caption=Text(caption) if caption else None, box=None, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.add_column("engine", overflow="fold")
    table.add_column("precision")
    table.add_column("backend")
    for name in (f"{metric} eager", metric, "agreement", "SQNR", "size"):
        table.add_column(name, justify="right")
    table.add_column("run")
    for engine in run.engines:
        table.add_row(*(Text(text) for text in _cells(engine, run.metric)))
    return table


def _cells(engine: EngineRun, metric: str | None) -> tuple[str, ...]:
    shown = (
        engine.name,
        engine.precision or "?",
        str(engine.engine.get("backend", "?")),
        fraction(engine.figure(f"{metric}_eager")),
        fraction(engine.figure(metric)),
        fraction(engine.figure("agreement")),
        decibel(engine.figure("sqnr_db")),
        size(engine.plan_bytes),
        "yes" if engine.was_run else "NOT RUN",
    )
    return tuple("-" if text == NOT_MEASURED else text for text in shown)
