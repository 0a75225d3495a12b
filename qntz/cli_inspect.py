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

from qntz.errors import ArtifactError, ConfigError, did_you_mean

_DIGEST = re.compile("[0-9a-f]{64}")
SAME_DB = 0.5  # layers whose SQNR differs by less are not listed


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
        return str(self.engine["precision"]) if node in self.quantize.get("quantized", ()) else "float"


def _read(root: Path, name: str) -> _Engine:
    """The records of an engine, wherever its model is."""
    from qntz.artifacts import BUILD, ModelPaths, read_json

    folders = {path.parent.name: path for path in sorted((root / BUILD / "models").glob("*/engines/*/engine.json"))}
    if name not in folders:
        what = f"no engine {name!r} was built here"
        raise ConfigError(what, where=BUILD, do=f"{did_you_mean(name, folders)} Run `dvc repro engine@{name}`.")
    files = ModelPaths(root, folders[name].parents[2].name).engine(name)
    quantize = read_json(files.quantize_json)
    return _Engine(name, read_json(files.engine_json), quantize, _layer_figures(files.layer_figures))


def _layer_figures(path: Path) -> dict[str, float | None]:
    """Nothing where the engine was not verified yet."""
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        found: dict[str, float | None] = {}
        for row in rows:
            figure = float(row["sqnr_db"]) if row["sqnr_db"] else None
            known = found.get(row["layer"])
            found[row["layer"]] = figure if known is None else known if figure is None else min(known, figure)
        return found
    except (KeyError, ValueError, OSError) as error:
        raise ArtifactError("is damaged", where=str(path), why=str(error), do="Run `dvc repro` again.") from error


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
    quantized = [*one.quantize.get("quantized", ()), *other.quantize.get("quantized", ())]
    for node in dict.fromkeys([*one.layers, *other.layers, *quantized]):
        figures = one.layers.get(node), other.layers.get(node)
        precisions = one.precision(node), other.precision(node)
        if precisions != precisions[::-1] or _apart(*figures):
            yield node, *(f"{kind} {_decibels(db)}" for kind, db in zip(precisions, figures, strict=True))


def _apart(one: float | None, other: float | None) -> bool:
    if one is None or other is None or math.isinf(one) or math.isinf(other):
        return one != other
    return abs(one - other) >= SAME_DB


def _decibels(value: float | None) -> str:
    return "" if value is None else "exact" if value == math.inf else f"{value:.1f} dB"


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
    groups: list[tuple[str, Mapping[str, Any]]] = [
        ("options", options),
        *(
            (head, {tensor["name"]: _shape(tensor) for tensor in tensors})
            for head, tensors in zip(("inputs", "outputs"), kinds, strict=True)
        ),
        ("files", engine["made_from"].get("files", {})),
        (
            "tools",
            {name: _tool(name, version, engine) for name, version in engine["made_from"]["tools"].items()},
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
    print(f"\n{len(quantized)} nodes in {engine['precision']}; {len(skipped)} left in floating point by name")
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
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
