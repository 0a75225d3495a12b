"""The entry of a user's model: conf/model/<name>.yaml and what params.yaml says of it, checked before anything is
written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qntz.artifacts import digest_file
from qntz.config import NAME, DimConfig, ModelConfig, build
from qntz.errors import ConfigError, UsageError, did_you_mean
from qntz.scaffold.source import Arguments, find
from qntz.trust import HOLDS

SIZES = DimConfig(1, 8, 64)  # of a dimension that is not given any
SAVED = {".ts": "torchscript", ".torchscript": "torchscript", ".pt2": "program"}
STATE_DICTS = (".safetensors", ".pt", ".pth")
HINT = """\
# int8 wants data to calibrate on, and a gate on accuracy labelled data and a metric. Without those it is judged on
# inputs drawn from each input's `range: [0, 1]`, or from a normal distribution: tell the range that your data have.
# data:
#   calibrate: {source: npz, file: data/train.npz, count: 256}
#   test: {source: npz, file: data/test.npz}
# metric: accuracy
"""


@dataclass(frozen=True)
class Entry:
    """A model to be written: its name, the text of conf/model/<name>.yaml, its lines of params.yaml by kind, what
    compose has to wait for, and a sentence for what is left to do before it can be built."""

    name: str
    conf: str
    params: Mapping[str, Sequence[str]]
    deps: tuple[str, ...]
    notes: tuple[str, ...] = ()


def entry(
    root: Path,
    model: str,
    *,
    name: str | None = None,
    inputs: Sequence[str] = (),
    dims: Sequence[str] = (),
    arguments: Sequence[str] = (),
    weights: str | None = None,
) -> Entry:
    """The entry of a model.

    Args:
        model: "pkg.module:Class", "pkg.module.Class", "pkg/module.py:Class", or a saved model, "net.ts", "net.pt2".
        inputs: "x=float32:batch,3,224,224", in any order where the source tells forward's; integers with their range,
            "ids=int64:batch,length:0,30521". dims: "length=8,64,128". arguments: "width=32". weights: a file.

    Raises:
        UsageError: one of them cannot be read, or does not fit the model's source.
    """
    made = {"factory": None, "torchscript": None, "program": None}
    if Path(model).suffix in (*SAVED, *STATE_DICTS):
        stem, orders, where = _saved(root, model, made, weights, arguments), None, model
    else:
        stem, orders, where = _factory(root, model, made, arguments)
    name = _name(name, stem)
    found = {key: value for key, value in made.items() if value is not None}
    if weights is not None:
        found["weights"] = _file(root, weights, "--weights")
    specs = _inputs(inputs, orders, where)
    found["inputs"] = specs
    if sizes := _dims(dims, specs):
        found["dims"] = sizes
    try:
        build(ModelConfig, found, "model")
    except ConfigError as error:
        place = _option(error.where)
        raise UsageError(error.what, where=place, why=error.why, do=error.do) from error
    saved = next((key for key in HOLDS if key in found), None)
    trusted = _trusted(root / found[saved]) if saved else ""
    notes = (_to_trust(saved, found[saved], name),) if saved else () if weights else (_to_train(name),)
    return Entry(name, _conf(model, found, trusted), _params(name), _deps(found), notes)


def _to_train(name: str) -> str:
    why = "without weights it is built as the class draws them, and what an untrained net decides by little"
    return f"{why} may not agree in a lower precision: name its state dict in conf/model/{name}.yaml, `weights:`."


def _trusted(path: Path) -> str:
    """The line by which a saved model is trusted, taken out of use: only its user can say so."""
    if not path.is_file():  # DVC will fetch it
        return "# trusted: 0123...  # the 64 digits that sha256sum prints of it; only if you trust who made it\n"
    return f"# trusted: {digest_file(path)}  # only if you trust who made it\n"


def _to_trust(key: str, file: str, name: str) -> str:
    why = f"{HOLDS[key]}, so compose refuses {file} as long as `trusted:` stands behind a # in conf/model/{name}.yaml"
    return f"{why}: take that away if you trust who made it."


def _option(where: str) -> str:
    """The option of the command line that a key of the configuration came from."""
    for key, option in (("inputs.", "--input "), ("dims.", "--dim ")):
        if where.startswith(f"model.{key}"):
            return option + where.removeprefix(f"model.{key}")
    return where


def _name(given: str | None, stem: str) -> str:
    name = given if given is not None else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()
    if not NAME.fullmatch(name):
        do = "Names start with a letter, then letters, digits, _ and -."
        raise UsageError(f"{name!r} is no name", where="--name", do=do)
    return name


def _factory(
    root: Path, model: str, made: dict[str, Any], arguments: Sequence[str]
) -> tuple[str, Arguments | None, str]:
    """Sets the factory; returns the class's name, what forward takes where that is told, and its place."""
    module, _, name = model.rpartition(":") if ":" in model else model.rpartition(".")
    if module.endswith(".py"):
        module = _module(root, module)
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise UsageError(f"{model!r} names no class", where="--model", do="Write pkg.module:Class.")
    try:
        source = find(root, module, name)
    except ConfigError as error:
        raise UsageError(error.what, where=error.where, why=error.why, do=error.do) from error
    given = {key: _value(text) for key, text in (_pair(one, "--arg", "width=32") for one in arguments)}
    if hydras := [key for key in given if key.startswith("_")]:
        why = "names that begin with an underscore are Hydra's own"
        raise UsageError(f"{hydras[0]!r} is no argument", where="--arg", why=why, do="Leave it out.")
    _require_arguments(given, source.made_with, f"{source.place}: {name}")
    made["factory"] = {"_target_": f"{module}.{name}", **given}
    return name, source.called_with, f"{source.place}: {name}.forward"


def _module(root: Path, given: str) -> str:
    """The module that a file of the project is imported as; src/ is no package, where it is none."""
    parts = Path(_file(root, given, "--model")).with_suffix("").parts
    if parts[0] == "src" and not (root / "src" / "__init__.py").is_file():
        parts = parts[1:]
    return ".".join(parts)


def _require_arguments(given: Mapping[str, Any], takes: Arguments | None, where: str) -> None:
    if takes is None:
        return
    for key in given:
        if key not in takes.names and not takes.others:
            raise UsageError(f"takes no {key!r}", where=where, do=did_you_mean(key, takes.names))
    missing = [key for key in takes.required if key not in given]
    if missing:
        do = f"Give {' '.join(f'--arg {key}=VALUE' for key in missing)}."
        raise UsageError(f"wants {', '.join(missing)}", where=where, do=do)


def _saved(root: Path, model: str, made: dict[str, Any], weights: str | None, arguments: Sequence[str]) -> str:
    """Sets the file of a saved model; returns its stem."""
    suffix = Path(model).suffix
    if suffix in STATE_DICTS:
        do = "Name the class, and give the file by --weights; a saved model ends in .ts or .pt2."
        raise UsageError("is a file of weights", where=f"--model {model}", do=do)
    for option, given in (("--weights", weights), ("--arg", arguments)):
        if given:
            raise UsageError(f"{option} does not go with a saved model", where=f"--model {model}", do="Leave it out.")
    made[SAVED[suffix]] = _file(root, model, "--model")
    return Path(model).stem


def _file(root: Path, given: str, option: str) -> str:
    """The path relative to the root of a file that is there, or that DVC will fetch; given relative to the working
    directory, or absolute."""
    path = Path(os.path.abspath(given))
    if not path.is_relative_to(root):
        do = "Put it into the project, so that a clone has it too."
        raise UsageError("lies outside of the project", where=f"{option} {given}", why=f"that is {root}", do=do)
    if not path.is_file() and not path.with_name(f"{path.name}.dvc").is_file():
        raise UsageError("is a folder" if path.is_dir() else "no such file", where=f"{option} {given}")
    return path.relative_to(root).as_posix()


def _pair(text: str, option: str, example: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier() or not value:
        raise UsageError(f"{text!r} is no NAME=VALUE", where=option, do=f"Write {option} {example}.")
    return key, value


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UsageError(f"{text!r} is no value of YAML", where="--arg", do="Put it in quotes.") from None


def _inputs(given: Sequence[str], takes: Arguments | None, where: str) -> dict[str, Any]:
    """By name, in the order of forward's arguments where that is known."""
    example = "x=float32:batch,3,224,224"
    if not given:
        names = takes.required if takes is not None else ()
        told = [f"--input {example.replace('x', name, 1)}" for name in names or ("x",)]
        what = f"takes {', '.join(names)}" if names else "has inputs"
        raise UsageError(what, where=where, do=f"Tell dtype and shape: {' '.join(told)}, for instance.")
    specs: dict[str, Any] = {}
    for text in given:
        name, value = _pair(text, "--input", example)
        if name in specs:
            raise UsageError("is given twice", where=f"--input {name}")
        dtype, shape, *span = value.split(":")[:3] if ":" in value else (value, "")
        if not shape or len(value.split(":")) > 3:
            do = f"Write --input {example}, and of integers --input ids=int64:batch,length:0,30521."
            raise UsageError(f"{text!r} has no dtype and shape", where="--input", do=do)
        specs[name] = {"dtype": dtype, "shape": [_size(one.strip()) for one in shape.strip("[]").split(",")]}
        if span:
            specs[name]["range"] = _numbers(span[0], f"--input {name}", 2, "Give LOW,HIGH.")
    if takes is None:
        return specs
    for name in specs:
        if name not in takes.names and not takes.others:
            raise UsageError(f"has no {name!r}", where=where, do=did_you_mean(name, takes.names))
    missing = [name for name in takes.required if name not in specs]
    if missing:
        raise UsageError(f"takes {', '.join(missing)} as well", where=where, do="Give an --input for each.")
    known = [name for name in takes.names if name in specs]
    return {name: specs[name] for name in (*known, *(n for n in specs if n not in known))}


def _size(text: str) -> Any:
    return int(text) if re.fullmatch(r"-?\d+", text) else text if text.isidentifier() else _no_size(text)


def _no_size(text: str) -> None:
    do = "Give numbers, and names of what is dynamic: batch,3,224,224."
    raise UsageError(f"{text!r} is no size", where="--input", do=do)


def _numbers(text: str, where: str, count: int, do: str) -> list[Any]:
    try:
        found = [float(one) if re.search(r"[.eE]", one) else int(one) for one in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count:
        raise UsageError(f"{text!r} are not {count} numbers", where=where, do=do)
    return found


def _dims(given: Sequence[str], specs: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of every named dimension."""
    named = list(dict.fromkeys(size for spec in specs.values() for size in spec["shape"] if isinstance(size, str)))
    sizes = {name: {"min": SIZES.min, "opt": SIZES.opt, "max": SIZES.max} for name in named}
    for text in given:
        name, value = _pair(text, "--dim", "batch=1,8,64")
        if name not in sizes:
            raise UsageError(f"no input has a dimension {name!r}", where="--dim", do=did_you_mean(name, sizes))
        found = _numbers(value, f"--dim {name}", 3, "Give the smallest, the usual and the largest: batch=1,8,64.")
        sizes[name] = dict(zip(("min", "opt", "max"), found, strict=True))
    return sizes


def _conf(model: str, found: Mapping[str, Any], trusted: str) -> str:
    lines = [f"# {model}; a dimension with a name is dynamic.\n"]
    for key, value in found.items():
        if key in ("inputs", "dims"):
            lines.append(f"{key}:\n" + "".join(f"  {_flow(name)}: {_flow(one)}\n" for name, one in value.items()))
        else:
            lines.append(f"{key}: {_flow(value)}\n")
    if trusted:
        lines.insert(2, trusted)
    if "factory" in found and "weights" not in found:
        lines.insert(2, "# weights: net.safetensors  # a state dict; without one, what the class draws by seed 0\n")
    return "".join(lines) + HINT


def _flow(value: Any) -> str:
    """A value as YAML has it on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _params(name: str) -> dict[str, list[str]]:
    return {
        "models": [f"  {name}: {{}}"],
        "engines": [
            f"  {name}-fp32: {{model: {name}}}",
            f"  {name}-fp16: {{model: {name}, quantize: {{use: fp16}}}}",
            f"  # {name}-int8: {{model: {name}, quantize: {{use: int8}}}}  # with data in conf/model/{name}.yaml",
        ],
    }


def _deps(found: Mapping[str, Any]) -> tuple[str, ...]:
    """The file of the weights, or of the saved model."""
    return tuple(found[key] for key in ("weights", "torchscript", "program") if key in found)
