"""What changed in the metrics of a model's engines since another revision, as DVC tells it."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qntz.config import CAP_DB
from qntz.report.tables import Cell, Table
from qntz.report.verdict import SIGNS
from qntz.report.wording import NOT_MEASURED, decibel, error, fraction, size

_METRICS = re.compile(r"build/models/([^/]+)/engines/([^/]+)/metrics\.json")
_BETTER_DOWN = ("worst_rel_error", "engine_kb", "onnx_kb")  # of the other figures more is better
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A figure of an engine at the revision and now; None where it was not measured."""

    engine: str
    figure: str
    old: float | str | None
    new: float | str | None


@dataclass(frozen=True)
class Changes:
    """What differs from a revision, of one model.

    Attributes:
        revision: as it was named. changed: the figures that differ. new, gone: engines that one of the two has not.
        unknown: engines whose metrics the revision names, but neither DVC's cache nor its remote has.
        unbuilt: engines that the revision's dvc.lock has no metrics of.
    """

    revision: str
    changed: tuple[Change, ...] = ()
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    unbuilt: tuple[str, ...] = ()


def is_metrics(path: str) -> bool:
    """Whether a path, from the project's root, is that of an engine's metrics."""
    return _METRICS.fullmatch(path) is not None


def changes_by_model(
    revision: str,
    engines: Mapping[str, Collection[str]],
    differences: Mapping[str, Mapping[str, Values]],
    unread: Mapping[str, bool],
) -> dict[str, Changes]:
    """The changes of each model that has metrics now or had them then.

    Args:
        engines: those that there are now, by model.
        differences: `dvc metrics diff --all REVISION` as data: by file and figure {"old", "new"}.
        unread: the revision's files that could not be read, and whether its dvc.lock knows their content.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    for path in sorted({*differences, *unread}):
        match = _METRICS.fullmatch(path)
        if match is None:
            continue  # a metric of the project's own stages
        model, engine = match.groups()
        kinds = found.setdefault(model, {"changed": [], "new": [], "gone": [], "unknown": [], "unbuilt": []})
        figures = differences.get(path, {})
        if engine not in engines.get(model, ()):
            kinds["gone"].append(engine)
        elif path in unread:
            kinds["unknown" if unread[path] else "unbuilt"].append(engine)
        elif all(one.get("old") is None for one in figures.values()):
            kinds["new"].append(engine)
        elif any(one.get("new") is not None for one in figures.values()):  # else it is not built, which is told already
            kinds["changed"] += [
                Change(engine, name, one.get("old"), one.get("new"))
                for name, one in sorted(figures.items())
                if one.get("old") != one.get("new")
            ]
    return {model: Changes(revision, **{key: tuple(of) for key, of in kinds.items()}) for model, kinds in found.items()}


def changes_table(changes: Changes) -> Table:
    """A row for each figure that differs: at the revision, now, and the change with a sign."""
    rows = tuple(
        (
            Cell(one.engine),
            Cell(_name(one.figure)),
            Cell(_told(one.figure, one.old), "number"),
            Cell(_told(one.figure, one.new), "number"),
            _change(one),
        )
        for one in changes.changed
    )
    columns = ("Engine", "Figure", changes.revision, "Now", "Change")
    return Table("Changes", columns, rows)


def sentences(changes: Changes) -> Iterator[str]:
    """What stands beside the table: engines that only one of the two has, and those that cannot be compared."""
    if changes == Changes(changes.revision):
        yield "No figure differs."
    if changes.new:
        yield f"New: {', '.join(changes.new)}."
    if changes.gone:
        yield f"Gone: {', '.join(changes.gone)}."
    if changes.unbuilt:
        yield f"Not compared: {', '.join(changes.unbuilt)}: not in the dvc.lock of {changes.revision}."
    if changes.unknown:
        why = "the metrics are neither in DVC's cache nor in its remote; run `dvc push` where they were built"
        yield f"Not compared: {', '.join(changes.unknown)}: {why}, then `dvc fetch --all-branches` here."


def _name(figure: str) -> str:
    known = {
        "agreement": "Agreement",
        "sqnr_db": "SQNR",
        "worst_rel_error": "Worst rel. error",
        "engine_kb": "Engine size",
        "onnx_kb": "ONNX size",
        "engine_run": "Run",
    }
    return known.get(figure) or (f"{figure[:-6]}, eager" if figure.endswith("_eager") else figure)


def _told(figure: str, value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return NOT_MEASURED
    if figure == "sqnr_db":
        return decibel(value)
    if figure == "worst_rel_error":
        return error(value)
    if figure.endswith("_kb"):
        return size(value * 1024)
    return fraction(value)


def _change(one: Change) -> Cell:
    """The difference with its sign, and whether it is for the better; nothing where one of the two is no number."""
    if not isinstance(one.old, (int, float)) or not isinstance(one.new, (int, float)):
        return Cell("")
    by = one.new - one.old
    if not math.isfinite(by) or (one.figure == "sqnr_db" and CAP_DB in (abs(one.old), abs(one.new))):
        return Cell("")
    unit = " dB" if one.figure == "sqnr_db" else ""
    if one.figure.endswith("_kb"):
        text = f"{'+' if by > 0 else '-'}{size(abs(by) * 1024)}"
        if one.old:
            text += f" ({by / one.old:+.1%})"
    else:
        text = f"{by:+.3g}{unit}"
    worse = (by > 0) == (one.figure in _BETTER_DOWN)
    return Cell(f"{SIGNS['warned' if worse else 'passed']} {text}", "number")
