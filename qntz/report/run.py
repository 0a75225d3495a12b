"""Everything that the earlier stages recorded of one model and its engines."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qntz.artifacts import EnginePaths, ModelPaths, digest_file, read_json
from qntz.bench import Timing
from qntz.bench.record import timing_json
from qntz.engine_record import AGAIN, read_engine_record
from qntz.errors import ArtifactError, unreadable
from qntz.report.activations import Activation, read_activations

Record = Mapping[str, Any]


@dataclass(frozen=True)
class LayerFigure:
    """A tensor of the quantized graph: the position of its node in the simplified graph, the node's name, and the SQNR
    in dB (inf where it equals the unquantized one; None where it was not measured)."""

    index: int
    layer: str
    tensor: str
    op: str
    sqnr_db: float | None


@dataclass(frozen=True)
class ProbeFigure:
    """An output on one probe: worst error over the largest magnitude, and SQNR in dB (None: not measured)."""

    probe: str
    output: str
    shape: str
    rel_error: float | None
    sqnr_db: float | None


@dataclass(frozen=True)
class Material:
    """A file that the run made. `path` is relative to the model's folder; `size` in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class EngineRun:
    """The records of one engine."""

    name: str
    quantize: Record
    engine: Record
    metrics: Record
    layers: tuple[LayerFigure, ...]
    probes: tuple[ProbeFigure, ...]
    activations: tuple[Activation, ...] = ()

    @property
    def precision(self) -> str | None:
        return self.engine.get("precision") or self.quantize.get("precision")

    @property
    def was_run(self) -> bool | None:
        """Whether verify ran the engine; None where it does not say."""
        answer = self.metrics.get("engine_run")
        return None if answer is None else answer == "yes"

    @property
    def why_not_run(self) -> str:
        """Why the engine was not run, "" where it was."""
        if self.was_run is None:
            return "verify does not say"
        return "" if self.was_run else str(self.metrics["engine_run"]).removeprefix("no: ")

    def figure(self, name: str | None) -> float | None:
        """A figure of metrics.json: None where it was not measured, NaN where it was and is no number (null)."""
        if name is None or name not in self.metrics:
            return None
        value = self.metrics[name]
        return math.nan if value is None else value

    @property
    def metric(self) -> str | None:
        """The name of the model's metric: the figure that is there for the eager model too. None: it has none."""
        return min((name for name in self.metrics if f"{name}_eager" in self.metrics), default=None)

    @property
    def plan_bytes(self) -> float | None:
        return _bytes(self.engine.get("bytes"), self.metrics.get("engine_kb"))

    @property
    def onnx_bytes(self) -> float | None:
        return _bytes(self.quantize.get("bytes"), self.metrics.get("onnx_kb"))


@dataclass(frozen=True)
class Run:
    """The records of one model and its engines, the engines sorted by name; with the timings of those that were timed,
    by the others' names why they were not, and the machine.

    `missing`: of a run that was gathered as far as it is built, the stage that has not run, by engine, and under "" of
    the model itself.
    """

    model: str
    check: Record
    torchscript: Record
    export: Record
    simplify: Record
    engines: tuple[EngineRun, ...]
    materials: tuple[Material, ...] = ()
    timings: Mapping[str, Timing] = field(default_factory=dict)
    not_timed: Mapping[str, str] = field(default_factory=dict)
    timed_on: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON records as the hook `qntz_report` gets them: by stage, and under "engines" by engine and stage."""
        return {
            "model": self.model,
            "check": dict(self.check),
            "torchscript": dict(self.torchscript),
            "export": dict(self.export),
            "simplify": dict(self.simplify),
            "engines": {
                engine.name: {
                    "quantize": dict(engine.quantize),
                    "engine": dict(engine.engine),
                    "metrics": dict(engine.metrics),
                    "latency": timing_json(self.timings[engine.name]) if engine.name in self.timings else {},
                }
                for engine in self.engines
            },
        }

    @property
    def metric(self) -> str | None:
        """The name of the model's metric; None: it has none."""
        return min((name for engine in self.engines if (name := engine.metric)), default=None)


def gather(paths: ModelPaths, engines: Sequence[str], *, allow_missing: bool = False) -> Run:
    """Reads the records of a model and of the engines named.

    Args:
        allow_missing: what is not built is left out, and told in `Run.missing`.

    Raises:
        ArtifactError: a record is missing or damaged, or an engine is not the one that its record describes.
    """
    missing = _missing(paths, engines) if allow_missing else {}
    if "" in missing:
        check = _record(paths.check_json) if paths.check_json.is_file() else {}
        return Run(paths.model, check, {}, {}, {}, (), missing=missing)
    engines = [name for name in engines if name not in missing]
    found = [_engine(paths.engine(name)) for name in engines]
    seen = read_activations(paths, {one.name: one.quantize for one in found})
    return Run(
        model=paths.model,
        check=_record(paths.check_json),
        torchscript=_record(paths.torchscript_json),
        export=_record(paths.export_json),
        simplify=_record(paths.simplify_json),
        engines=tuple(dataclasses.replace(one, activations=tuple(seen.get(one.name, ()))) for one in found),
        materials=_materials(paths, engines),
        missing=missing,
    )


def _missing(paths: ModelPaths, engines: Sequence[str]) -> dict[str, str]:
    """The first stage whose record is not there, by engine, and under "" of the model's own stages."""
    found: dict[str, str] = {}
    of_model = ("check", paths.verdict), ("torchscript", paths.torchscript_json), ("export", paths.export_json)
    records = {"": [*of_model, ("simplify", paths.simplify_json)]}
    for name in engines:
        one = paths.engine(name)
        records[name] = [
            ("quantize", one.quantize_json),
            ("engine", one.engine_json),
            *(("verify", path) for path in (one.metrics, one.layer_figures, one.probe_figures)),
        ]
    for name, needed in records.items():
        for stage, path in needed:
            if not path.is_file():
                found.setdefault(name, stage)
    return found


def gather_engine(paths: EnginePaths) -> EngineRun:
    """The records of one engine, without its figures by layer and probe; raises ArtifactError where one is missing or
    damaged."""
    return EngineRun(
        name=paths.name,
        quantize=_record(paths.quantize_json),
        engine=read_engine_record(paths.engine_json),
        metrics=_figures(_record(paths.metrics), paths.metrics),
        layers=(),
        probes=(),
    )


def _engine(paths: EnginePaths) -> EngineRun:
    return dataclasses.replace(
        gather_engine(paths),
        layers=tuple(
            LayerFigure(
                _whole(row["index"], paths.layer_figures),
                row["layer"],
                row["tensor"],
                row["op"],
                _number(row["sqnr_db"], paths.layer_figures),
            )
            for row in _rows(paths.layer_figures, ("index", "layer", "tensor", "op", "sqnr_db"))
        ),
        probes=tuple(
            ProbeFigure(
                row["probe"],
                row["output"],
                row["shape"],
                _number(row["rel_error"], paths.probe_figures),
                _number(row["sqnr_db"], paths.probe_figures),
            )
            for row in _rows(paths.probe_figures, ("probe", "output", "shape", "rel_error", "sqnr_db"))
        ),
    )


def _materials(paths: ModelPaths, engines: Sequence[str]) -> tuple[Material, ...]:
    files = [paths.probes, paths.golden, paths.onnx, paths.simplified, paths.histograms]
    for name in engines:
        engine = paths.engine(name)
        files += [engine.quantized, engine.calibration_cache, engine.plan]
    found = tuple(
        Material(file.relative_to(paths.folder).as_posix(), file.stat().st_size, digest_file(file))
        for file in files
        if file.is_file()
    )
    for name in engines:
        _require_described(paths.engine(name), found)
    return found


def _require_described(engine: EnginePaths, found: Sequence[Material]) -> None:
    plan = engine.plan.relative_to(engine.of.folder).as_posix()
    stated = read_engine_record(engine.engine_json).get("plan_sha256")
    for material in found:
        if material.path == plan and stated and material.sha256 != stated:
            raise ArtifactError(
                "is not the engine that engine.json describes",
                where=str(engine.plan),
                why=f"its SHA-256 begins with {material.sha256[:12]}, the record's with {stated[:12]}",
                do=f"Run `dvc repro engine@{engine.name}`.",
            )


def _record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    if not isinstance(record, dict):
        raise ArtifactError("is no record", where=str(path), why=f"it holds a {type(record).__name__}", do=AGAIN)
    return record


def _figures(record: dict[str, Any], path: Path) -> dict[str, Any]:
    for name, value in record.items():
        if (name == "engine_run") != isinstance(value, str) or isinstance(value, (list, dict)):
            raise ArtifactError("is damaged", where=str(path), why=f"{name} is {value!r}", do=AGAIN)
    return record


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        text = path.read_text(encoding="utf-8")
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        rows = list(reader)
        names = reader.fieldnames or ()
    except OSError as error:
        raise unreadable(path, error) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ArtifactError("is damaged", where=str(path), why=str(error), do=AGAIN) from None
    missing = [column for column in columns if column not in names]
    if missing:
        why = f"{', '.join(missing)} not in the first line"
        raise ArtifactError("lacks a column", where=str(path), why=why, do=AGAIN)
    if not text.endswith("\n"):
        raise ArtifactError("is damaged", where=str(path), why="its last line is cut off", do=AGAIN)
    return rows


def _number(text: str, path: Path) -> float | None:
    if text == "":
        return None
    try:
        value = float(text)
    except ValueError:
        raise ArtifactError("is damaged", where=str(path), why=f"{text!r} is no number", do=AGAIN) from None
    return None if math.isnan(value) else value


def _whole(text: str, path: Path) -> int:
    if not text.isdecimal():
        raise ArtifactError("is damaged", where=str(path), why=f"{text!r} is no index", do=AGAIN)
    return int(text)


def _bytes(exact: float | None, kilobytes: float | None) -> float | None:
    return exact if exact is not None or kilobytes is None else kilobytes * 1024
