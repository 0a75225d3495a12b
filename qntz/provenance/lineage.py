"""What an engine was made from, stage by stage back to the sources, weights and data, as dvc.lock recorded it.

dvc.lock tells what the engine *was* built from; where the workspace says something else by now, `Forecast` tells. Two
records are held against one another, engine.json and dvc.lock, and both against the bytes that are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qntz import parts
from qntz.artifacts import digest_file, read_json
from qntz.errors import ArtifactError
from qntz.provenance.workspace import name_of

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.stage import Stage

WEIGHTS = ("model.weights", "model.torchscript", "model.program")
FILES = ("data", "extra", "model_files")


@dataclass
class Artifact:
    """A file or folder that a stage writes or reads: its path, its MD5 by dvc.lock, and the stage that writes it, where
    one does. `earlier`: that stage has written another since."""

    path: str
    md5: str
    stage: str | None = None
    earlier: bool = False


@dataclass
class Step:
    """One stage as it ran.

    Attributes:
        params: what it read of the configuration, by key. inputs: `inputs.<stage>`, the digests of everything else.
        made_of: by digest of `inputs` the modules or files that it is of, where that is known here.
        weights: the model's file of them. reads, writes: artifacts.
    """

    stage: str
    command: str
    params: dict[str, Any]
    inputs: dict[str, Any]
    made_of: dict[str, dict[str, str]]
    weights: str | None
    reads: list[Artifact] = field(default_factory=list)
    writes: list[Artifact] = field(default_factory=list)

    def files(self) -> dict[str, str]:
        """The files of weights, of data and further ones that it read, SHA-256 by path."""
        found = {path: value for kind in FILES for path, value in (self.inputs.get(kind) or {}).items()}
        if self.weights and self.inputs.get("weights"):
            found[self.weights] = self.inputs["weights"]
        return found

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "reads": [vars(a) for a in self.reads], "writes": [vars(a) for a in self.writes]}


def lineage(root: Path, stages: Iterable[Stage], last: str) -> dict[str, Step]:
    """The stage `last` and those that it comes from, by name, the last first.

    Raises:
        ArtifactError: dvc.lock has no entry for it: it was never built.
    """
    known = {name_of(stage): stage for stage in stages}
    writers = {out.fs_path: (stage, out) for stage in known.values() for out in stage.outs}
    found: dict[str, Step] = {}
    pending = [last]
    while pending:
        name = pending.pop(0)
        stage = known[name]
        if name in found or not any(out.hash_info for out in stage.outs):
            continue
        found[name] = _step(root, stage, writers)
        pending += [one.stage for one in found[name].reads if one.stage]
    if last not in found:
        raise ArtifactError(
            "was never built", where="dvc.lock", why=f"no entry for {last}", do=f"Run `dvc repro {last}`."
        )
    return found


def _step(root: Path, stage: Stage, writers: Mapping[str, tuple[Stage, Output]]) -> Step:
    params: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for dep in stage.params:
        for key, value in (dep.hash_info.value or {}).items():
            if key.startswith("inputs.") and isinstance(value, dict):
                inputs = value
            else:
                params[key] = value
    weights = next((str(params[key]) for key in WEIGHTS if params.get(key)), None)
    made_of = {digest: names for digest in _digests(inputs) if (names := parts.kept(root, digest)) is not None}
    step = Step(name_of(stage), str(stage.cmd), params, inputs, made_of, weights)
    for dep in stage.deps:
        if dep in stage.params:
            continue
        writer, out = writers.get(dep.fs_path, (None, None))
        earlier = out is not None and out.hash_info != dep.hash_info
        step.reads.append(Artifact(str(dep), dep.hash_info.value or "", name_of(writer) if writer else None, earlier))
    step.writes = [Artifact(str(out), out.hash_info.value or "") for out in stage.outs]
    return step


def _digests(inputs: Mapping[str, Any]) -> Iterator[str]:
    """Those of many parts: of code, of a plugin with what it imports, of a folder of data."""
    for name in ("code", "model", "data_code"):
        if inputs.get(name):
            yield inputs[name]
    for name in ("plugins", *FILES):
        yield from (inputs.get(name) or {}).values()


def changed_by_hand(stages: Iterable[Stage]) -> list[str]:
    """The artifacts whose bytes are not those of dvc.lock."""
    return [
        str(out)
        for stage in stages
        for out in stage.outs
        if not out.persist and out.hash_info and out.exists and out.changed_checksum()
    ]


@dataclass(frozen=True)
class Disagreement:
    """engine.json says one thing of what the engine was made from, dvc.lock or a file another."""

    what: str
    recorded: Any
    found: Any

    def as_dict(self) -> dict[str, Any]:
        return vars(self)


def disagreements(files: Mapping[str, Path], steps: Mapping[str, Step], last: str) -> list[Disagreement]:
    """What engine.json says against dvc.lock and the files.

    Args:
        files: engine.json, model.engine, quantized.onnx, calibration.cache, by name, those that are here.

    Raises:
        ArtifactError: engine.json is damaged.
    """
    record = read_json(files["engine.json"])
    made_from = record.get("made_from") if isinstance(record, dict) else None
    recorded = (made_from.get("files") or {}) if isinstance(made_from, dict) else None
    if not isinstance(made_from, dict) or not isinstance(recorded, dict):
        why = "no made_from" if recorded is None else "made_from.files is no mapping"
        raise ArtifactError("is damaged", where=str(files["engine.json"]), why=why, do=f"Run `dvc repro {last}`.")
    inputs = steps[last].inputs
    pairs = [(key, made_from.get(key), inputs.get(key)) for key in ("code", "plugins", "tools")]
    pairs += [
        (name, made_from[name], digest_file(files[name]))
        for name in ("quantized.onnx", "calibration.cache")
        if name in made_from and name in files
    ]
    if "model.engine" in files:
        pairs.append(("plan_sha256", record.get("plan_sha256"), digest_file(files["model.engine"])))
    read: dict[str, set[str]] = {}
    for step in steps.values():
        for path, digest in step.files().items():
            read.setdefault(path, set()).add(digest)
    for path, digest in recorded.items():
        inside = any(path.startswith(f"{folder}/") for folder in read)  # of a folder of data, which has one digest
        if digest not in list(read.get(path, ())) and not inside:  # it may be anything
            pairs.append((path, digest, ", ".join(sorted(read.get(path, ()))) or None))
    return [Disagreement(what, told, there) for what, told, there in pairs if told != there]
