"""Composes conf/ and params.yaml into one checked file per model and per engine, with the fingerprints of its inputs.

Hydra composes the groups onto the dataclasses of `qntz.config`; the mappings of params.yaml are merged over them. An
entry that cannot be composed becomes a file that holds its error, so that its stages fail with it and no others do.
Neither torch nor onnx nor a plugin is imported.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qntz import __version__, parts
from qntz.artifacts import BUILD, composed_path, digest_file, is_being_written, require_inside, write_bytes, write_text
from qntz.config import (
    ENGINE_STAGES,
    MODEL_STAGES,
    NAME,
    READS,
    STAGES,
    VARIABLE,
    QuantizeConfig,
    ReportConfig,
    build,
    require_engines,
)
from qntz.errors import ConfigError, QntzError, did_you_mean, one_line
from qntz.fingerprint import Fingerprints, Memo, digest
from qntz.pipelines import is_split
from qntz.redact import secret_in
from qntz.trust import require_trusted
from qntz.watch import WATCHED, Watched, as_text, files_in

CONF = "conf"
PARAMS = "params.yaml"
MEMO = BUILD / "memo" / "compose.json"
FLEET = BUILD / "config" / "fleet.yaml"
KINDS = ("models", "engines")
WRITTEN = ("config/models", "config/engines", "memo", "bench", "sensitivity", "timing-cache")  # what no stage looks at
EXAMPLES = {"models": "models: {digits: {}}", "engines": "engines: {digits-fp16: {model: digits}}"}
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass
class Composition:
    """What was composed: entries by name, and the errors of those that could not be, by (kind, name)."""

    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    engines: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[tuple[str, str], QntzError] = field(default_factory=dict)

    def engine(self, name: str) -> dict[str, Any]:
        """An engine's composed file; raises its own ConfigError, or one with the nearest name where there is none."""
        if ("engines", name) in self.errors:
            raise self.errors["engines", name]
        if name not in self.engines:
            raise ConfigError(f"no engine {name!r}", where="params.yaml", do=did_you_mean(name, list(self.engines)))
        return self.engines[name]

    written: list[Path] = field(default_factory=list)
    watched: dict[str, frozenset[Watched]] = field(default_factory=dict)
    fleet: dict[str, Any] | None = None
    states: dict[Watched, Any] = field(default_factory=dict)

    @property
    def mistakes(self) -> list[QntzError]:
        """The errors, each once: without those of engines whose model has it already."""
        return [error for error in self.errors.values() if not isinstance(error, _Follows)]


def compose(root: Path) -> Composition:
    """Composes everything and writes what changed under build/config; removes the files of entries that are gone.

    Raises:
        ConfigError: params.yaml or conf/ as a whole cannot be read, or a name in it is none. Errors of single entries
            are returned instead.
    """
    result = composed_entries(root)
    _write(root, result)
    return result


def composed_entries(root: Path) -> Composition:
    """Composes everything, and writes nothing but what it remembers, under build/memo; raises as `compose` does."""
    version = _version()
    require_inside(root, *(root / BUILD / folder for folder in WRITTEN))
    memo = Memo.read(root / MEMO, version)
    before = memo.text(version)
    fingerprints = Fingerprints(root, memo)
    params = read_params(root / PARAMS)
    composer = _Composer(root, memo, fingerprints)
    result = Composition()
    for name, entry in params["models"].items():
        _attempt(result, "models", name, lambda n=name, e=entry: composer.model(n, e))
    for name, entry in params["engines"].items():
        _attempt(result, "engines", name, lambda n=name, e=entry: composer.engine(n, e, params["models"], result))
    _connect(result)
    for kind, stages in (("models", MODEL_STAGES), ("engines", ENGINE_STAGES)):
        for name, composed in list(getattr(result, kind).items()):
            cause = result.errors.get(("models", composed.get("model_name", "")))
            if cause is not None:
                del getattr(result, kind)[name]
                result.errors[kind, name] = _follows(cause, composed["model_name"], f"{PARAMS}: {kind}.{name}")
                continue
            try:
                _require_trusted(fingerprints, composed["model"], f"{PARAMS}: {kind}.{name}.model.trusted")
                if kind == "models":
                    _require_gated(result, composed["report"], f"{PARAMS}: {kind}.{name}.report.gates")
                composed["inputs"] = {}
                for stage in stages:
                    composed["inputs"][stage] = _inputs(fingerprints, stage, composed)
                    result.watched[f"{stage}@{name}"] = fingerprints.watched()
            except ConfigError as error:
                del getattr(result, kind)[name]
                result.errors[kind, name] = error
            except (QntzError, OSError, ValueError, NotImplementedError) as error:
                del getattr(result, kind)[name]
                result.errors[kind, name] = ConfigError(
                    "a file that it names cannot be read", where=f"{PARAMS}: {kind}.{name}", why=one_line(error)
                )
    if is_split(root):
        result.fleet = fingerprints.stage("fleet")
        result.watched["fleet"] = fingerprints.watched()
    result.states = fingerprints.states
    parts.keep(root, fingerprints.parts)
    after = memo.text(version)
    if after != before:
        write_text(root / MEMO, after)
    return result


def _version() -> str:
    """Another version of these reads no memo: it may compose or digest differently."""
    import importlib.metadata
    import sys

    versions = [importlib.metadata.version(d) for d in ("hydra-core", "omegaconf", "pyyaml")]
    code = [digest_file(Path(__file__).with_name(f"{name}.py")) for name in ("fingerprint", "plugins", "hookspecs")]
    return " ".join([__version__, sys.version, *versions, *code])


class _Follows(ConfigError):
    """An engine's error that its model has already."""


def _follows(error: QntzError, model: str, where: str) -> ConfigError:
    return _Follows(f"its model {model!r} cannot be composed", where=where, why=str(error))


def _attempt(result: Composition, kind: str, name: str, make: Any) -> None:
    try:
        getattr(result, kind)[name] = make()
    except QntzError as error:
        result.errors[kind, str(name)] = error


def _connect(result: Composition) -> None:
    """Tells each model which engines are built from it, and whether they need histograms."""
    for name, composed in result.models.items():
        engines = {n: e for n, e in sorted(result.engines.items()) if e["model_name"] == name}
        composed["report"]["engines"] = list(engines)
        composed["calibrate"]["needed"] = any(
            build(QuantizeConfig, one["quantize"]).calibrated for one in engines.values()
        )


def _require_gated(result: Composition, report: Mapping[str, Any], where: str) -> None:
    """Raises ConfigError for gates of engines that the model has not; any that has an error itself may be one of it."""
    refused = [name for kind, name in result.errors if kind == "engines"]
    require_engines(build(ReportConfig, report).gates, [*report["engines"], *refused], where)


def _require_trusted(fingerprints: Fingerprints, model: Mapping[str, Any], where: str) -> None:
    for key in ("torchscript", "program"):
        file = model[key]
        if file and (fingerprints.root / file).is_file():  # where it is missing, the stage that loads it says so
            require_trusted(key, file, fingerprints.content(fingerprints.root / file), model["trusted"], where)


def _inputs(fingerprints: Fingerprints, stage: str, composed: Mapping[str, Any]) -> dict[str, Any]:
    reads, model = READS[stage], composed["model"]
    data = model["data"]
    idle = [] if composed["calibrate"]["needed"] else ["calibrate"]  # then they are not read
    return fingerprints.stage(
        stage,
        model=model if "model.factory" in reads else None,
        data=[data[key] for key in ("calibrate", "test") if f"model.data.{key}" in reads and key not in idle],
        files=[model["probes"]["file"]] if "model.probes" in reads else (),
        extra=model["extra_inputs"],
        # the first input decides the batch, and probes are drawn in this order
        order=[*model["inputs"], "", *model["dims"]] if "model.inputs" in reads else (),
        backend=composed["engine"]["backend"] if "engine" in reads else None,
    )


def composed_files(root: Path, result: Composition) -> dict[Path, bytes]:
    """The files under build/config that `compose` writes, by path."""
    wanted: dict[Path, dict[str, Any]] = {}
    for kind in KINDS:
        for name, composed in getattr(result, kind).items():
            stages = MODEL_STAGES if kind == "models" else ENGINE_STAGES
            wanted[composed_path(root, kind, name)] = {
                k: v for k, v in composed.items() if k not in STAGES or k in stages
            }
    for (kind, name), error in result.errors.items():
        wanted[composed_path(root, kind, name)] = _failed(kind, name, error)
    if result.fleet is not None:
        wanted[root / FLEET] = {"models": sorted(result.models), "inputs": {"fleet": result.fleet}}
    return {
        path: yaml.dump(composed, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True).encode()
        for path, composed in wanted.items()
    }


def _write(root: Path, result: Composition) -> None:
    wanted = composed_files(root, result)
    for folder in (root / BUILD / "config", *(composed_path(root, kind, "_").parent for kind in KINDS)):
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():  # of entries that are gone, or of an earlier version: it would stand in dvc.lock
            if path not in wanted and path.is_file() and not is_being_written(path):
                path.unlink(missing_ok=True)
    wanted[root / WATCHED] = as_text(result.watched, result.states).encode()
    for path, data in wanted.items():
        if not path.is_file() or path.read_bytes() != data:
            write_bytes(path, data)
            result.written.append(path)


def _failed(kind: str, name: str, error: QntzError) -> dict[str, Any]:
    """The file of an entry that could not be composed: every key that a stage reads is there, and null."""
    composed: dict[str, Any] = {"name": name, "error": error.as_dict(), "inputs": {}}
    stages = MODEL_STAGES if kind == "models" else ENGINE_STAGES
    composed["inputs"] = {stage: {"error": error.as_dict()} for stage in stages}
    # the longest first: "quantize.precision" makes the mapping that "quantize" then leaves as it is
    for dotted in sorted({key for stage in stages for key in READS[stage]}, key=lambda key: -key.count(".")):
        place = composed
        *parents, last = dotted.split(".")
        for part in parents:
            place = place.setdefault(part, {})
        place.setdefault(last, None)
    return composed


# params.yaml


class _NoDuplicates(_Loader):  # type: ignore[misc, valid-type]
    """YAML, where a key that stands twice is an error (PyYAML keeps the last, silently)."""

    shown = ""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if isinstance(name, (list, dict)):
                raise ConfigError(f"{name!r} is no key", where=f"{self.shown}:{key.start_mark.line + 1}")
            if name in seen:
                raise ConfigError(
                    f"{name!r} stands twice",
                    where=f"{self.shown}:{seen[name]} and line {key.start_mark.line + 1}",
                    do="Rename or remove one of the two.",
                )
            seen[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


# As YAML 1.2 has it, which DVC reads the same file by: `on` and `off` are words, 1e-4 is a number.
_NoDuplicates.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_NoDuplicates.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"
)
_NoDuplicates.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    "-+0123456789.",
)


def read_yaml(path: Path, shown: str) -> Any:
    """A YAML file; raises ConfigError where it is missing, no YAML, or has a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("is missing", where=shown) from None
    except UnicodeDecodeError as error:
        raise ConfigError("is no UTF-8 text", where=shown, why=one_line(error)) from None
    except OSError as error:
        raise ConfigError("cannot be read", where=shown, why=one_line(error)) from None
    loader = _NoDuplicates(text)
    loader.shown = shown
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{shown}:{mark.line + 1}" if mark else shown
        raise ConfigError("is no YAML", where=place, why=getattr(error, "problem", None) or str(error)) from None
    finally:
        loader.dispose()


def read_params(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of params.yaml, `models` and `engines`, each a mapping by name; raises ConfigError, also for what is
    no name."""
    data = read_yaml(path, path.name)
    if not isinstance(data, Mapping):
        raise ConfigError("holds no entries", where=path.name, do="Give it `models:` and `engines:`.")
    entries: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        found = data.get(kind)
        if not isinstance(found, Mapping) or not found:
            raise ConfigError(
                f"`{kind}` is empty" if not found else f"`{kind}` is a {type(found).__name__}, no mapping",
                where=path.name,
                do=f"Name at least one, for instance {EXAMPLES[kind]}.",
            )
        entries[kind] = dict(found)
        for name in found:
            _require_name(name, f"{path.name}: {kind}")
    for name, entry in entries["engines"].items():
        if isinstance(entry, Mapping) and isinstance(entry.get("model"), str):
            _require_name(entry["model"], f"{path.name}: engines.{name}.model")
    return entries


def _require_name(name: Any, where: str) -> None:
    """Raises ConfigError for what is no name: DVC puts them into paths that it removes and commands that it runs."""
    if not NAME.fullmatch(str(name)):
        do = "Names start with a letter, then letters, digits, _ and -."
        raise ConfigError(f"{str(name)!r} is no name", where=where, do=do)
    if not isinstance(name, str):
        raise ConfigError(f"{name!r} is a {type(name).__name__}, no name", where=where, do="Put it in quotes.")


# one entry


class _Composer:
    def __init__(self, root: Path, memo: Memo, fingerprints: Fingerprints):
        self.root, self.memo = root, memo
        self._bases: dict[Any, Any] = {}
        if not (root / CONF / "config.yaml").is_file():
            raise ConfigError("is missing", where=f"{CONF}/config.yaml", do="Run it from the project's root.")
        self.options = {g.name: sorted(p.stem for p in g.glob("*.yaml")) for g in (root / CONF).iterdir() if g.is_dir()}
        written = [path for path in sorted(files_in(root / CONF)) if path.suffix == ".yaml"]
        _require_within(root / CONF / "config.yaml")
        self._key = digest(
            [
                {str(path.relative_to(root)): fingerprints.content(path) for path in written},
                fingerprints.sources(fingerprints.closure(["qntz.compose"])),
                _environment([*written, root / PARAMS]),
            ]
        )
        remembered = memo.values.get("entries", {})
        self._remembered = remembered.get("composed", {}) if remembered.get("key") == self._key else {}
        memo.values["entries"] = {"key": self._key, "composed": {}}

    def model(self, name: str, entry: Any) -> dict[str, Any]:
        where = f"{PARAMS}: models.{name}"
        overrides = self._mapping(entry, where)
        use = overrides.pop("use", name)
        self._refuse_unknown(overrides, {"model", *STAGES}, where)
        return {"name": name, **self._composed(use, [(where, overrides)])}

    def engine(self, name: str, entry: Any, models: Mapping[str, Any], result: Composition) -> dict[str, Any]:
        where = f"{PARAMS}: engines.{name}"
        overrides = self._mapping(entry, where)
        of = overrides.pop("model", None)
        if of is None:
            raise ConfigError("no model is named", where=where, do=f"Add `model:`. {did_you_mean('', models)}")
        if not isinstance(of, str) or of not in models:
            raise ConfigError(
                f"unknown model {of!r}", where=f"{where}.model", do=did_you_mean(str(of), map(str, models))
            )
        if ("models", of) in result.errors:
            raise _follows(result.errors["models", of], of, where)
        for group in overrides:
            if group in MODEL_STAGES:
                raise ConfigError(
                    f"{group!r} belongs to the model, which all its engines share",
                    where=where,
                    do=f"Set it under models.{of}, or add a model: {of}_2: {{use: {of}, {group}: ...}}.",
                )
        self._refuse_unknown(overrides, set(ENGINE_STAGES), where)
        inherited = self._mapping(models[of], f"{PARAMS}: models.{of}")
        use = inherited.pop("use", of)
        composed = self._composed(use, [(f"{PARAMS}: models.{of}", inherited), (where, overrides)])
        return {"name": name, "model_name": of, **composed}

    def _mapping(self, entry: Any, where: str) -> dict[str, Any]:
        if entry is None:
            return {}
        if not isinstance(entry, Mapping):
            raise ConfigError(
                f"{entry!r} is no mapping", where=where, do="Write `{}` where there is nothing to override."
            )
        return dict(entry)

    def _refuse_unknown(self, overrides: Mapping[str, Any], groups: set[str], where: str) -> None:
        for group, value in overrides.items():
            if group not in groups:
                raise ConfigError(
                    f"unknown group {group!r}", where=where, do=did_you_mean(str(group), groups | {"use"})
                )
            if value is not None and not isinstance(value, Mapping):
                raise ConfigError(
                    f"{group}: {value!r} is a bare value, and DVC cannot override below it",
                    where=where,
                    do=f"Write {group}: {{use: {value}}}.",
                )

    def _composed(self, use: Any, layers: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        key = digest(repr([use, layers]))  # the order of inputs means something, and so do types: 1 is not "1"
        remembered = self.memo.values["entries"]["composed"]
        if key not in remembered:
            known = self._remembered.get(key)
            if known is None or secret_in(json.dumps(known, ensure_ascii=False)):  # told where it stands
                known = self._compose(use, layers)
            remembered[key] = known
        return _copied(remembered[key])

    def _compose(self, use: Any, layers: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
        from qntz.hydra_compose import compose_entry

        choices: dict[str, tuple[str, Any]] = {"model": (layers[0][0], use)}
        values: list[tuple[str, dict[str, Any]]] = []
        for where, overrides in layers:
            given: dict[str, Any] = {}
            for group, mapping in overrides.items():
                rest = dict(mapping or {})
                if group == "model" and "use" in rest:
                    raise ConfigError("model.use", where=where, do="Put `use:` beside `model:`, one level up.")
                if "use" in rest:
                    choices[group] = (f"{where}.{group}.use", rest.pop("use"))
                given[group] = rest
            values.append((where, given))
        for group, (where, choice) in choices.items():
            if choice not in self.options.get(group, ()):
                raise ConfigError(
                    f"no {CONF}/{group}/{choice}.yaml",
                    where=where,
                    do=did_you_mean(str(choice), self.options.get(group, ())),
                )
        composed = compose_entry(self.root / CONF, {g: c for g, (_, c) in choices.items()}, values, self._bases)
        _require_plain(composed, layers[-1][0])
        return composed


def _require_plain(value: Any, where: str) -> None:
    """Raises ConfigError for what is no text, number, boolean, list or mapping by text: a date, or a key that is a
    number, means one thing to YAML and another to what reads it back."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"key {key!r} is a {type(key).__name__}", where=where, do="Put it in quotes.")
            _require_plain(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for inner in value:
            _require_plain(inner, where)
    elif value is not None and not isinstance(value, (str, int, float, bool)):
        raise ConfigError(f"{value} is a {type(value).__name__}", where=where, do="Put it in quotes.")


def _copied(composed: dict[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in composed.items()}


def _require_within(path: Path) -> None:
    """Raises ConfigError where Hydra is told to look outside of conf/: nothing there is watched."""
    written = read_yaml(path, f"{CONF}/{path.name}")
    hydra = written.get("hydra") if isinstance(written, Mapping) else None
    if isinstance(hydra, Mapping) and hydra.get("searchpath"):
        do = f"Put the files into {CONF}/, or a link to their folder."
        raise ConfigError("hydra.searchpath leads outside", where=f"{CONF}/{path.name}", do=do)


def _environment(paths: Sequence[Path]) -> dict[str, str | None]:
    """The environment variables that files refer to."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()]
    if any(re.search(r"oc\.env\s*:\s*['\"]?\$", text) for text in texts):
        return dict(os.environ)  # a name that is itself interpolated may be any
    names = {name for text in texts for name in VARIABLE.findall(text)}
    return {name: os.environ.get(name) for name in sorted(names)}
