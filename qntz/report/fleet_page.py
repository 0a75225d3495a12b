"""All engines on one page, and in one table of Markdown: how each stands, what it is worth, how old it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from qntz.report.markdown import markdown_table
from qntz.report.page import rendered
from qntz.report.tables import Cell, Table
from qntz.report.wording import decibel, fraction, milliseconds, size

STATES = {"up to date": "passed", "out of date": "warned", "not here": "skipped", "broken": "failed"}
COLUMNS = (
    "Engine",
    "Model",
    "State",
    "Precision",
    "Metric",
    "Value",
    "Eager",
    "SQNR",
    "Size",
    "Median",
    "Here for",
    "Why",
)
NONE = "—"
HOUR, DAY = 3600.0, 86400.0


def render_fleet(rows: Sequence[Mapping[str, Any]], told: Mapping[str, str]) -> str:
    """The page, with a filter and columns to sort by, which it has a script of its own for.

    Args:
        rows: of each engine the figures of `qntz.report.fleet.COLUMNS`, None where there is none; "state" (a key of
            `STATES`), "why" (lines) and "age" (seconds since it was built or fetched here, None where it is not). told:
            further figures for its head.
    """
    counts = Counter(str(row["state"]) for row in rows)
    view = {
        "model": "All engines",
        "tiles": [("Engines", str(len(rows))), *((state, str(counts[state])) for state in STATES), *told.items()],
        "worst": next((kind for state, kind in reversed(STATES.items()) if counts[state]), "passed"),
        "columns": [(name, name not in ("Engine", "Model", "State", "Precision", "Metric", "Why")) for name in COLUMNS],
        "rows": [(_cells(row), _keys(row)) for row in rows],
        "states": [(state, counts[state]) for state in STATES if counts[state]],
    }
    return rendered("fleet.html", view)


def fleet_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, for a wiki or a job's summary."""
    counts = Counter(str(row["state"]) for row in rows)
    told = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    table = Table("engines", COLUMNS, tuple(tuple(_cells(row)) for row in rows), "No engines.")
    return f"{len(rows)} engines: {told or 'none'}.\n\n{markdown_table(table)}\n"


def age(seconds: float | None) -> str:
    """Time since, in the largest unit that it fills: "12 min", "5 h", "3 d"."""
    if seconds is None:
        return NONE
    if seconds < HOUR:
        return f"{max(seconds, 0) / 60:.0f} min"
    return f"{seconds / HOUR:.0f} h" if seconds < DAY else f"{seconds / DAY:.0f} d"


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    state = str(row["state"])
    return [
        Cell(str(row["engine"]), "code"),
        Cell(str(row["model"]), "code"),
        Cell(state, STATES[state]),
        Cell(str(row["precision"] or NONE)),
        Cell(str(row["metric"] or NONE)),
        _figure(row["value"], fraction),
        _figure(row["value_eager"], fraction),
        _figure(row["sqnr_db"], decibel),
        _figure(row["bytes"], size),
        _figure(row["median_ms"], milliseconds),
        Cell(age(row["age"]), "number" if row["age"] is not None else "absent"),
        Cell("; ".join(row["why"]), "prose"),
    ]


def _figure(value: float | None, spelled: Any) -> Cell:
    return Cell(NONE, "absent") if value is None else Cell(spelled(value), "number")


def _keys(row: Mapping[str, Any]) -> list[str]:
    """What each cell is sorted by: numbers as such, what is missing last."""
    state = list(STATES).index(str(row["state"]))
    figures = [row[name] for name in ("value", "value_eager", "sqnr_db", "bytes", "median_ms", "age")]
    words = [str(row["engine"]), str(row["model"]), str(state), str(row["precision"] or ""), str(row["metric"] or "")]
    numbers = ["" if one is None or math.isnan(one) else repr(float(one)) for one in figures]
    return [*words, *numbers, "; ".join(row["why"])]
