"""Every input of every stage, found by itself, and one change of each.

A new key of the configuration, module, weight, data file or plugin takes part as soon as it is there; a key that takes
no value that can be made up from its type has to be given one in `VALUES`, or the tests fail.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qntz.config import ENGINE_STAGES, MODEL_STAGES, STAGES, Config
from tests.mutation import keys

ROOT = Path(__file__).parent.parent.parent
MODELS = {"digits": "examples.digits.model", "rows": "examples.rows.model", "early_exit": "examples.early_exit.model"}
ENGINES = {
    "digits-fp32": "digits",
    "digits-fp16": "digits",
    "digits-int8": "digits",
    "rows-fp16": "rows",
    "rows-int8": "rows",
    "early_exit-fp32": "early_exit",
}
BACKEND = "tensorrt_rtx"
FULL = {"engine": {"use": "tensorrt", "compute_capabilities": ["sm89"]}}  # has options that RTX lacks
GATED = {"report": {"gates": {"digits-int8": {"sqnr_db": 1, "baseline": "digits-fp32", "bytes_ratio": 9}}}}
SAVED_BYTES = b"a model"  # compose reads its digest alone
SAVED = {"factory": None, "weights": None, "trusted": hashlib.sha256(SAVED_BYTES).hexdigest()}

VALUES: dict[str, tuple[dict[str, Any], Any]] = {
    "model.factory": ({}, {"width": 48}),
    "model.torchscript": ({"model": {**SAVED, "torchscript": "examples/one.saved"}}, "examples/other.saved"),
    "model.program": ({"model": {**SAVED, "program": "examples/one.saved"}}, "examples/other.saved"),
    "model.weights": ({}, "examples/rows/weights.safetensors"),
    "model.metric": ({"model": {"metric": None}}, "accuracy"),
    "model.extra_inputs": ({}, ["README.md"]),
    "model.probes.file": ({}, "examples/digits/data/test.npz"),
    "model.data.calibrate": ({}, {"count": 128}),
    "model.data.test": ({}, {"count": 64}),
    "model.inputs.image.shape": ({}, ["batch", 1, 8, 9]),
    "model.inputs.image.dtype": ({}, "float16"),
    "model.inputs.image.range": ({}, [0, 2]),
    "model.dims.batch.min": ({}, 2),
    "model.dims.batch.opt": ({}, 9),
    "model.dims.batch.max": ({}, 63),
    "check.severity": ({}, {"captured-device": "note"}),
    "torchscript.method": ({}, "script"),
    "torchscript.require": ({}, ["complex-rotary"]),
    "torchscript.forbid": ({}, ["complex-rotary"]),
    "export.opset": ({}, 18),
    "simplify.method": ({}, "onnxslim"),
    "quantize.precision": ({"quantize": {"use": "fp16"}}, "bf16"),
    "quantize.method": ({}, "percentile"),
    "quantize.options": ({}, {"percentile": 99.0}),
    "quantize.elsewhere": ({}, "fp16"),
    "quantize.block": ({}, 64),
    "quantize.layers": ({}, {"head": {"method": "max"}}),
    "quantize.tolerance.agreement": ({}, 0.5),
    "verify.tolerance.agreement": ({}, 0.5),
    "engine.backend": ({}, "onnxruntime"),
    "engine.compute_capabilities": ({}, ["sm89"]),
    "engine.profiles": ({}, [{"batch": {"min": 1, "opt": 4, "max": 64}}]),
    "engine.memory_pools": (FULL, {"tactic_shared_memory": 65536}),
    "engine.workspace_bytes": (FULL, 1 << 28),
    "engine.optimization_level": (FULL, 2),
    "engine.aux_streams": (FULL, 1),
    "engine.tiling_level": (FULL, "fast"),
    "engine.verbosity": ({}, "detailed"),
    "engine.refit": (FULL, "all"),
    "engine.strip_plan": ({"engine": {**FULL["engine"], "refit": "all"}}, True),
    "engine.tactic_sources": (FULL, ["jit_convolutions"]),
    "engine.hardware_compatibility": (FULL, "ampere_plus"),
    "engine.version_compatible": (FULL, True),
    "engine.exclude_lean_runtime": ({"engine": {**FULL["engine"], "version_compatible": True}}, True),
    "engine.weight_streaming": (FULL, True),
    "engine.timing_cache": (FULL, True),
    "engine.implicit_int8": (FULL, True),
    "report.gates.digits-int8.metric_drop": (GATED, 0.5),
    "report.gates.digits-int8.sqnr_db": (GATED, 2.0),
    "report.gates.digits-int8.agreement": (GATED, 0.5),
    "report.gates.digits-int8.bytes": (GATED, 1 << 30),
    "report.gates.digits-int8.baseline": (GATED, "digits-fp16"),
    "report.gates.digits-int8.bytes_ratio": (GATED, 8.0),
    "report.gates.digits-int8.latency_ratio": (GATED, 9.0),
    "report.gates.digits-int8.run": (GATED, True),
}
"""By key: what the entry has beside before the change (overrides of its groups), and the key's other value."""
NAMES = {"model.inputs": "image", "model.dims": "batch", "report.gates": "digits-int8"}
"""Of mappings by name one that is there."""
WITHOUT_ANOTHER = ("calibrate.needed", "report.engines", "model.trusted")
"""Keys that take one value: compose sets it, or it follows the file that it is the digest of."""


@dataclass(frozen=True)
class Mutation:
    """One change of one input.

    Attributes:
        kind: of input, for the table. name: the input. expected: the stages that must run, "export@digits".
        before: overrides of the entry, by group, that stand before and after. entry: of params.yaml. key, value: the
            change of the configuration; or change: of the project's files, which returns what undoes it.
    """

    kind: str
    name: str
    expected: frozenset[str]
    entry: tuple[str, str] = ("engines", "digits-int8")
    before: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""
    value: Any = None
    change: Callable[[Path], Callable[[], None]] | None = None


def at(stages: typing.Iterable[str], models: typing.Iterable[str] = MODELS) -> frozenset[str]:
    """The stages of these models and of all their engines."""
    models = set(models)
    of_models = {f"{stage}@{model}" for stage in stages if stage in MODEL_STAGES for model in models}
    return frozenset(
        of_models | {f"{s}@{e}" for s in stages if s in ENGINE_STAGES for e, m in ENGINES.items() if m in models}
    )


# configuration


def leaves(kind: Any = Config, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key, type, default) of every key that can be set."""
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(kind):
        name, hint = f"{key}.{one.name}".lstrip("."), hints[one.name]
        inner = typing.get_args(hint)[-1] if typing.get_origin(hint) is dict else hint
        if dataclasses.is_dataclass(inner):
            yield from leaves(inner, name if inner is hint else f"{name}.{NAMES[name]}")
        elif name not in WITHOUT_ANOTHER:
            made = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
            yield name, hint, made


def another(hint: Any, default: Any) -> Any:
    """Another value of a type, where any will do; raises LookupError where that cannot be known."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(one for one in typing.get_args(hint) if one is not type(None))
    if hint is bool:
        return not default
    if hint is int:
        return (default or 0) + 1
    if hint is float:
        return (default or 0) + 0.125
    if hint == list[str]:
        return ["nothing"]
    raise LookupError


def of_configuration() -> Iterator[Mutation]:
    for key, hint, default in leaves():
        if key in VALUES:
            before, value = VALUES[key]
        else:
            try:
                before, value = {}, another(hint, default)
            except LookupError:
                raise LookupError(f"{key}: give it another value in VALUES") from None
        group = key.partition(".")[0]
        stages = keys.stages_of_key(key)
        if group in ENGINE_STAGES:
            entry = ("engines", "digits-int8")
            expected = frozenset(f"{stage}@digits-int8" for stage in stages)
        else:
            entry, expected = ("models", "digits"), at(stages, ["digits"])
        yield Mutation("configuration", key, expected, entry, before, key, value)


# files


def appended(path: str, text: str) -> Callable[[Path], Callable[[], None]]:
    def change(project: Path) -> Callable[[], None]:
        file = project / path
        before = file.read_bytes()
        file.write_bytes(before + text.encode())
        return lambda: (file.write_bytes(before), None)[1]

    return change


@functools.cache
def loaded() -> dict[str, frozenset[str]]:
    """The modules of each stage, "export@digits", as `keys.modules_of` tells them."""
    return {
        f"{stage}@{entry}": keys.modules_of(stage, BACKEND if stage in ENGINE_STAGES else None, MODELS.get(entry))
        for stage in STAGES
        for entry in (ENGINES if stage in ENGINE_STAGES else MODELS)
    }


def loading(module: str) -> frozenset[str]:
    """The stages that a change of this module must rerun."""
    return frozenset(stage for stage, found in loaded().items() if module in found)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def of_sources() -> Iterator[Mutation]:
    """A statement at the end of each module of the tool, the stages, the plugins and the models."""
    for folder, kind in (("qntz", "module of qntz"), ("stages", "stage"), ("plugins", "plugin"), ("examples", "model")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            shown = str(path.relative_to(ROOT))
            yield Mutation(kind, shown, loading(_module(path)), change=appended(shown, "\nMUTATED = 1\n"))


def of_data() -> Iterator[Mutation]:
    """A byte more in each file of weights and data of the examples."""
    for model in MODELS:
        for path in sorted((ROOT / "examples" / model).rglob("*")):
            if path.suffix not in (".safetensors", ".npz"):
                continue
            shown = str(path.relative_to(ROOT))
            readers = [model, *(["early_exit"] if model == "digits" and path.suffix == ".npz" else [])]
            expected = {
                "weights.safetensors": at(("check", "torchscript"), [model]),
                # early_exit has no engine that needs histograms
                "train.npz": at(("calibrate",), [model]),
                "test.npz": at(("torchscript", "quantize", "verify"), readers),
            }[path.name]
            yield Mutation("weights and data", shown, expected, change=appended(shown, "\0"))


def of_templates() -> Iterator[Mutation]:
    """A blank at the end of each file beside the sources of the report."""
    for path in sorted((ROOT / "qntz").rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            shown = str(path.relative_to(ROOT))
            package = ".".join(path.relative_to(ROOT).parts[:2])
            yield Mutation("template", shown, loading(package), change=appended(shown, " "))


# tools


def of_tools() -> Iterator[Mutation]:
    """Another version of each distribution that a stage imports from, laid over the installed one on sys.path."""
    provided = importlib.metadata.packages_distributions()
    tops: dict[str, set[str]] = {}
    for stage, found in loaded().items():
        for top in {name.partition(".")[0] for name in found}:
            if top in sys.stdlib_module_names or top in ("qntz", "stages", "plugins", "examples", "cuda", "pycuda"):
                continue  # pycuda and cuda-python are in no key: see the README
            for distribution in provided.get(top, ()):
                tops.setdefault(distribution, set()).add(stage)
    for distribution, expected in sorted(tops.items()):
        yield Mutation("tool", distribution, frozenset(expected), change=_version(distribution))


def _version(distribution: str) -> Callable[[Path], Callable[[], None]]:
    installed = importlib.metadata.distribution(distribution)

    def change(project: Path) -> Callable[[], None]:
        folder = project.parent / "other versions" / distribution
        info = folder / f"{distribution.replace('-', '_')}-99.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 99.0\n")
        for name in ("RECORD", "top_level.txt", "entry_points.txt"):
            (info / name).write_text(installed.read_text(name) or "")
        sys.path.insert(0, str(folder))
        return lambda: sys.path.remove(str(folder))

    return change


# what must rerun nothing


def of_nothing() -> Iterator[Mutation]:
    """Comments, docstrings, times and other files; a comment in a model's source reaches the check alone, whose
    findings carry lines."""
    for folder in ("qntz", "stages", "plugins", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            shown = str(path.relative_to(ROOT))
            checks = {f"check@{model}" for model, module in MODELS.items() if _module(path) in keys.imported(module)}
            yield Mutation("comment", shown, frozenset(checks), change=appended(shown, "\n# a remark\n"))
    for path in sorted((ROOT / "qntz").rglob("*.py"))[::4]:
        shown = str(path.relative_to(ROOT))
        yield Mutation("docstring", shown, frozenset(), change=_docstring(shown))
    for shown in ("qntz/compose.py", "examples/digits/weights.safetensors", "params.yaml", "conf/config.yaml"):
        yield Mutation("touch", shown, frozenset(), change=_touched(shown))
    for shown in ("README.md", "CHANGELOG.md", "pyproject.toml", "tests/conftest.py", "examples/digits/train.py"):
        yield Mutation("other file", shown, frozenset(), change=_made_or_appended(shown))
    for shown in sorted(str(p.relative_to(ROOT)) for p in (ROOT / "conf").rglob("*.yaml")):
        yield Mutation("comment in YAML", shown, frozenset(), change=appended(shown, "\n# a remark\n"))
        yield Mutation("order of keys", shown, frozenset(), change=_reordered(shown))
    yield Mutation("order of keys", "params.yaml", frozenset(), change=_reordered("params.yaml"))


def _touched(path: str) -> Callable[[Path], Callable[[], None]]:
    def change(project: Path) -> Callable[[], None]:
        (project / path).touch()
        return lambda: None

    return change


def _made_or_appended(path: str) -> Callable[[Path], Callable[[], None]]:
    def change(project: Path) -> Callable[[], None]:
        file = project / path
        before = file.read_bytes() if file.is_file() else b""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(before + b"\nmore\n")
        return lambda: (file.write_bytes(before), None)[1]

    return change


def _docstring(path: str) -> Callable[[Path], Callable[[], None]]:
    """Another sentence in the module's docstring."""

    def change(project: Path) -> Callable[[], None]:
        file = project / path
        before = file.read_text()
        start = before.find('"""')
        if start == 0:
            file.write_text('"""Said otherwise. ' + before[3:])
        return lambda: (file.write_text(before), None)[1]

    return change


def _reordered(path: str) -> Callable[[Path], Callable[[], None]]:
    """The keys of each mapping in reverse, but where their order means something: that of inputs and of dimensions."""
    import yaml

    def reversed_(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            items = list(value.items())
            if key not in ("inputs", "dims"):
                items.reverse()
            return {k: reversed_(v, k) for k, v in items}
        return [reversed_(v) for v in value] if isinstance(value, list) else value

    def change(project: Path) -> Callable[[], None]:
        file = project / path
        before = file.read_text()
        file.write_text(yaml.safe_dump(reversed_(yaml.safe_load(before)), sort_keys=False))
        return lambda: (file.write_text(before), None)[1]

    return change


def all_mutations() -> list[Mutation]:
    makers = (of_configuration, of_sources, of_data, of_templates, of_tools, of_nothing)
    return [mutation for maker in makers for mutation in maker()]


def with_overrides(params: Mapping[str, Any], mutation: Mutation, *, changed: bool) -> dict[str, Any]:
    """params.yaml with the overrides that a mutation of the configuration stands on, and with the change itself."""
    made = json.loads(json.dumps(params))
    kind, name = mutation.entry
    entry = made[kind][name]
    for group, values in mutation.before.items():
        _merge(entry.setdefault(group, {}), json.loads(json.dumps(values)))
    if changed:
        *parents, last = mutation.key.split(".")
        place = entry
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = mutation.value
    return made


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
