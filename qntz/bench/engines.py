"""The engines of a model against each other, for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qntz.artifacts import ModelPaths, read_runs
from qntz.bench.measure import Timing, measure
from qntz.bench.subject import BACKEND, Subject
from qntz.engine_record import read_engine_record
from qntz.records import Arrays, Backend
from qntz.runtimes import engine_config


def time_engines(
    files: ModelPaths, names: Sequence[str], backends: Mapping[str, Backend], seconds: float
) -> tuple[dict[str, Timing], dict[str, str]]:
    """The timings of the engines that can run here, all on the same probe, and by the others' names why there is none.

    Args:
        names: of the model's engines. backends: that are installed. seconds: of each engine.

    Raises:
        ArtifactError: a record is missing or damaged.
    """
    subjects, absent = [], {}
    for name in names:
        config = engine_config(files.engine(name).engine_json)
        backend = backends.get(config.backend)
        why = f"no backend {config.backend!r}" if backend is None else backend.why_not_run(config)
        if why is None:
            path = files.engine(name).plan
            subjects.append(Subject(name, BACKEND, files.root, path, backend=config.backend, engine=config))
        else:
            absent[name] = why
    if not subjects:
        return {}, absent
    record = read_engine_record(files.engine(subjects[0].name).engine_json, ("inputs",))
    probe, inputs = _probe(read_runs(files.probes), record["inputs"])
    timings, refused = measure(subjects, {probe: inputs}, seconds=seconds)
    return {one.subject: one for one in timings}, {**absent, **{one.subject: one.why for one in refused}}


def _probe(probes: Sequence[Arrays], inputs: Sequence[Mapping[str, Any]]) -> tuple[str, Arrays]:
    """The probe of the engine's usual sizes, or else the first one; and its shapes in words."""
    usual = {one["name"]: tuple(one["opt"]) for one in inputs}
    fitting = [one for one in probes if all(name in one and one[name].shape == usual[name] for name in usual)]
    chosen = (fitting or list(probes))[0]
    shapes = ", ".join(f"{name} {'x'.join(map(str, chosen[name].shape))}" for name in usual if name in chosen)
    return shapes, chosen
