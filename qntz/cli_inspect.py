"""`qntz inspect ENGINE [--against OTHER]`: what an engine is made of, and what differs between two, layer by layer."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qntz.columns import aligned
from qntz.errors import ArtifactError, one_line

_DIGEST = re.compile("[0-9a-f]{64}")
SAME_DB = 0.5  # layers whose SQNR differs by less are not listed
_TOLD = (
    "backend", "version", "target", "precision", "options", "inputs", "outputs", "bytes", "plan_sha256", "made_from"
)  # fmt: skip
_QUANTIZE = {"quantized": list[str], "skipped": dict[str, Any], "operators_after": dict[str, int]}


def add_parser(commands: Any) -> None:
    """Adds the command to those of `qntz`."""
    parser = commands.add_parser("inspect", help="what an engine is made of, and what differs between two")
    parser.add_argument("engine", metavar="ENGINE", help="an engine of params.yaml, after `dvc repro engine@ENGINE`")
    parser.add_argument("--against", metavar="ENGINE", help="another: what differs, in the records and layer by layer")
    parser.add_argument("--json", action="store_true", help="engine.json as it is, or the differences")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints; returns the exit code, 1 where two engines differ."""
    root = Path.cwd()
    one = _read(root, options.engine)
    if options.against is None:
        if options.json:
            print(json.dumps(one.engine, indent=2, sort_keys=True, ensure_ascii=False))
        else:
            _print_whole(one)
        return 0
    other = _read(root, options.against)
    records = list(_differences(one.told(), other.told()))
    layers = list(_layers(one, other))
    if options.json:
        told = {"records": [list(row) for row in records], "layers": [list(row) for row in layers]}
        print(json.dumps(told, indent=2, ensure_ascii=False, default=str))
    else:
        _print_table(("", one.name, other.name), [[key, *map(_short, values)] for key, *values in records])
        if layers:
            print()
            _print_table(("layer", one.name, other.name), layers)
        if not (records or layers):
            print("the two are alike")
    return 1 if records or layers else 0


@dataclass(frozen=True)
class _Engine:
    name: str
    engine: Mapping[str, Any]
    quantize: Mapping[str, Any]
    layers: Mapping[str, float | None]  # SQNR in dB of the tensors that nodes yield, the least, by node

    def told(self) -> dict[str, str]:
        """The records flattened, what stands at each key as text."""
        kept = ("method", "rescaled", "corrected", "operators_after", "bytes", "passes")
        return dict(_flat({**self.engine, "quantize": {key: self.quantize.get(key) for key in kept}}))

    def precision(self, node: str) -> str:
        """Of a node: the engine's, where it was lowered by name."""
        return str(self.engine["precision"]) if node in self.quantize.get("quantized", ()) else "-"


def _read(root: Path, name: str) -> _Engine:
    """The records of an engine of params.yaml, as it is composed now."""
    from qntz.artifacts import ModelPaths
    from qntz.compose import composed_entries
    from qntz.engine_record import read_engine_record, read_record

    files = ModelPaths(root, composed_entries(root).engine(name)["model_name"]).engine(name)
    for path in (files.engine_json, files.quantize_json):
        if not path.is_file():
            raise ArtifactError("is missing", where=str(path), do=f"Run `dvc repro engine@{name}`.")
    engine = read_engine_record(files.engine_json, _TOLD, _again(name))
    quantize = read_record(files.quantize_json, _QUANTIZE, do=_again(name))
    return _Engine(name, engine, quantize, _layer_figures(files.layer_figures, name))


def _again(name: str) -> str:
    return f"Run `dvc repro verify@{name}`."


def _layer_figures(path: Path, name: str) -> dict[str, float | None]:
    """Nothing where the engine was not verified yet."""
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        found: dict[str, float | None] = {}
        for row in rows:
            figure = float(row["sqnr_db"]) if row["sqnr_db"] else None
            if figure is not None and math.isnan(figure):
                raise ValueError(f"NaN at {row['layer']}")
            known = found.get(row["layer"])
            found[row["layer"]] = figure if known is None else known if figure is None else min(known, figure)
        return found
    except (KeyError, ValueError, OSError, csv.Error) as error:
        raise ArtifactError("is damaged", where=str(path), why=one_line(error), do=_again(name)) from error


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Each value under its keys; of things with names, and of names alone, one for each."""
    if isinstance(value, Mapping) and value:
        for name, inner in sorted(value.items()):
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value):
        for one in value:
            rest = {name: inner for name, inner in one.items() if name != "name"}
            yield from _flat(rest, f"{key}.{one['name']}")
    elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        for one in value:
            yield f"{key}.{one}", "yes"
    else:
        yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _differences(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for key in sorted({*one, *other}):
        if one.get(key) != other.get(key):
            yield key, one.get(key, "-"), other.get(key, "-")


def _layers(one: _Engine, other: _Engine) -> Iterator[tuple[str, str, str]]:
    """Nodes whose precision differs, or whose SQNR does, in the order of the first engine's graph."""
    from qntz.report.wording import decibel

    quantized = [*one.quantize.get("quantized", ()), *other.quantize.get("quantized", ())]
    for node in dict.fromkeys([*one.layers, *other.layers, *quantized]):
        figures = one.layers.get(node), other.layers.get(node)
        precisions = one.precision(node), other.precision(node)
        if precisions != precisions[::-1] or _apart(*figures):
            told = ("" if db is None else decibel(db) for db in figures)
            yield node, *(f"{kind} {figure}" for kind, figure in zip(precisions, told, strict=True))


def _apart(one: float | None, other: float | None) -> bool:
    if one is None or other is None or math.isinf(one) or math.isinf(other):
        return one != other
    return abs(one - other) >= SAME_DB


def _print_whole(one: _Engine) -> None:
    """The record in groups, what keeps its default left out."""
    from qntz.config import EngineConfig, build

    engine = one.engine
    size = f"{engine['bytes']:,} bytes"
    print(f"{one.name}: {engine['precision']} by {engine['backend']} {engine['version']}, {size}")
    print(f"for {engine['target']}")
    print(f"plan {engine['plan_sha256']}")
    default = build(EngineConfig, {})
    options = {key: value for key, value in engine["options"].items() if value != getattr(default, key, None)}
    kinds = engine["inputs"], engine["outputs"]
    details = engine.get("details", {})
    groups: list[tuple[str, Mapping[str, Any]]] = [
        ("options", options),
        ("layers of the engine, by precision", details.get("layers_by_precision", {})),
        ("layers of the network before it was built, by precision", details.get("network_layers_by_precision", {})),
        *(
            (head, {tensor["name"]: _shape(tensor) for tensor in tensors})
            for head, tensors in zip(("inputs", "outputs"), kinds, strict=True)
        ),
        ("files", engine["made_from"].get("files", {})),
        (
            "tools",
            {name: _tool(name, version, engine) for name, version in engine["made_from"].get("tools", {}).items()},
        ),
        ("operators", one.quantize.get("operators_after", {})),
    ]
    for head, values in groups:
        if values:
            print(f"\n{head}")
            width = max(map(len, values))
            for key, value in values.items():
                print(f"  {key.ljust(width)}  {value if isinstance(value, str) else json.dumps(value)}")
    quantized, skipped = one.quantize.get("quantized", []), one.quantize.get("skipped", {})
    if not quantized and not skipped:
        return
    print(f"\n{len(quantized)} nodes in {engine['precision']}; {len(skipped)} of those that could be are not")
    for node, why in skipped.items():
        print(f"  {node}: {why}")


def _shape(tensor: Mapping[str, Any]) -> str:
    spans = zip(tensor["min"], tensor["max"], strict=True)
    sizes = ", ".join("?" if high < 0 else str(low) if low == high else f"{low}..{high}" for low, high in spans)
    return f"{tensor['dtype']} [{sizes}]"


def _tool(name: str, version: str, engine: Mapping[str, Any]) -> str:
    return f"{version}  {engine.get('licences', {}).get(name, '')}".rstrip()


def _short(text: str) -> str:
    """A digest by its first letters."""
    return text[:12] if _DIGEST.fullmatch(text) else text


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    for line in aligned([head, *rows]):
        print(line)
