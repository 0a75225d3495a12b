"""The engines of all models in one table, from the records of their reports."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qntz.artifacts import ModelPaths, read_json
from qntz.errors import ArtifactError, one_line
from qntz.report.run import Run, gather_engine
from qntz.report.timed import in_short, with_timings

COLUMNS = (
    "model",
    "engine",
    "precision",
    "backend",
    "target",
    "bytes",
    "metric",
    "value",
    "value_eager",
    "agreement",
    "sqnr_db",
    "worst_rel_error",
    "median_ms",
)


def rows(root: Path, models: Iterable[str]) -> list[dict[str, Any]]:
    """The figures of each engine by `COLUMNS`, in the order of the models; None where there is none.

    Raises:
        ArtifactError: the record of a report is missing or damaged.
    """
    return [row for model in models for row in _of(ModelPaths(root, model))]


def row(root: Path, model: str, engine: str) -> dict[str, Any]:
    """The figures of one engine, from its own records: also where its model's report is of a time before them.

    Raises:
        ArtifactError: a record is missing or damaged.
    """
    paths = ModelPaths(root, model)
    one = gather_engine(paths.engine(engine))
    run = with_timings(Run(model, {}, {}, {}, {}, (one,)), paths.timings)
    timing = run.timings.get(engine)
    figures = _figures(in_short(one, one.metric), {} if timing is None else {"median_ms": timing.median_ms})
    return {"model": model, "engine": engine, **figures}


def _of(paths: ModelPaths) -> list[dict[str, Any]]:
    record = read_json(paths.timings)
    try:
        return [
            {"model": paths.model, "engine": name, **_figures(one, record["timings"].get(name) or {})}
            for name, one in record["engines"].items()
        ]
    except (AttributeError, KeyError, TypeError) as error:
        do = f"Run `dvc repro -f report@{paths.model}`."
        raise ArtifactError("is damaged", where=str(paths.timings), why=one_line(error), do=do) from error


def _figures(one: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, Any]:
    metrics, metric = one["metrics"], one["metric"]
    told = {name: one[name] for name in ("precision", "backend", "target", "bytes", "metric")}
    told |= {name: metrics.get(name) for name in ("agreement", "sqnr_db", "worst_rel_error")}
    return {
        **told,
        "value": metrics.get(metric),
        "value_eager": metrics.get(f"{metric}_eager"),
        "median_ms": timing.get("median_ms"),
    }


def fleet_csv(found: Iterable[Mapping[str, Any]]) -> bytes:
    """The rows as CSV, empty where there is no figure."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue().encode()
