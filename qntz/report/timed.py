"""The record of a report: its engines' figures in short, for the table of all models, and what it timed: latency of the
engines, which no other stage's record may hold, since it is of a machine. `qntz report` reads it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from qntz.artifacts import json_bytes, read_json
from qntz.bench import Timing
from qntz.bench.record import timing_json, timing_of
from qntz.errors import ArtifactError, one_line
from qntz.report.run import EngineRun, Run

BUILT_AGAIN = "built again since it was timed"


def timings_json(run: Run) -> bytes:
    """The figures of a run's engines, and the timings, each with the digest of the engine that was timed, why others
    were not, and the machine."""
    plans = {engine.name: engine.engine.get("plan_sha256") for engine in run.engines}
    engines = {engine.name: in_short(engine, run.metric) for engine in run.engines}
    timings = {name: {"plan_sha256": plans[name], **timing_json(timing)} for name, timing in run.timings.items()}
    return json_bytes(
        {"engines": engines, "timed_on": run.timed_on, "timings": timings, "not_timed": dict(run.not_timed)}
    )


def in_short(engine: EngineRun, metric: str | None) -> dict[str, Any]:
    """What the record has of an engine. metric: the name of the model's."""
    return {
        "precision": engine.precision,
        "backend": engine.engine.get("backend"),
        "target": engine.engine.get("target"),
        "bytes": engine.plan_bytes,
        "metric": metric,
        "metrics": dict(engine.metrics),
    }


def with_timings(run: Run, path: Path) -> Run:
    """The run with what its report recorded; of an engine that was built again since, that it was. As it is where there
    is no report yet.

    Raises:
        ArtifactError: the record is damaged.
    """
    if not path.is_file():
        return run
    record = read_json(path)
    timings: dict[str, Timing] = {}
    try:
        not_timed = {str(name): str(why) for name, why in record["not_timed"].items()}
        for engine in run.engines:
            one = record["timings"].get(engine.name)
            if one is not None and one["plan_sha256"] != engine.engine.get("plan_sha256"):
                not_timed[engine.name] = BUILT_AGAIN
            elif one is not None:
                timings[engine.name] = timing_of({key: value for key, value in one.items() if key != "plan_sha256"})
        timed_on = str(record["timed_on"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        do = f"Run `dvc repro -f report@{run.model}`."
        raise ArtifactError("is damaged", where=str(path), why=one_line(error), do=do) from error
    return dataclasses.replace(run, timings=timings, not_timed=not_timed, timed_on=timed_on)
