"""The tables of a report: rows of cells that one template macro draws."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qntz.records import Provided
from qntz.report.run import EngineRun, Run
from qntz.report.verdict import SIGNS, State
from qntz.report.wording import NOT_MEASURED, count, decibel, error, fraction, many, size


@dataclass(frozen=True)
class Cell:
    """A cell's text; `kind` is a class of the style sheet: a state, "number", "code", "absent" or "prose"."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption for those who hear the page; the first cell of a row heads it. `empty`: what is said
    where there is no row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "None."


def engines(run: Run) -> Table:
    """The engines with the figures that tell them apart."""
    metric = run.metric or "metric"
    columns = (
        "Engine", "Precision", "Run here", f"{metric}, eager", metric, "Agreement", "Worst rel. error", "SQNR",
        "Figures of", "Engine size", "ONNX size", "Backend", "Target",
    )  # fmt: skip
    return Table("Engines and their figures", columns, tuple(_engine_row(engine, run.metric) for engine in run.engines))


def _engine_row(engine: EngineRun, metric: str | None) -> tuple[Cell, ...]:
    built = engine.engine
    idle = Cell(f"{SIGNS['skipped']} no: {engine.why_not_run}", "skipped prose")
    return (
        Cell(engine.name),
        _said(engine.precision),
        _state("passed", "yes") if engine.was_run else idle,
        _figure(fraction(engine.figure(f"{metric}_eager"))),
        _figure(fraction(engine.figure(metric))),
        _figure(fraction(engine.figure("agreement"))),
        _figure(error(engine.figure("worst_rel_error"))),
        _figure(decibel(engine.figure("sqnr_db"))),
        Cell("engine") if engine.was_run else Cell("ONNX graph", "absent wrap"),
        _figure(size(engine.plan_bytes)),
        _figure(size(engine.onnx_bytes)),
        _said(" ".join(str(built[key]) for key in ("backend", "version") if key in built), "wrap"),
        _said(built.get("target"), "wrap"),
    )


def findings(run: Run) -> Table:
    """What check found, as it ordered it."""
    rows = tuple(
        (
            _state(_SEVERITIES.get(found.get("severity", ""), "done"), str(found.get("severity", ""))),
            Cell(" ".join(str(found[key]) for key in ("code", "slug") if found.get(key))),
            Cell(_place(found), "code"),
            Cell(str(found.get("message", "")), "prose"),
            Cell(str(found.get("evidence", ""))),
            Cell(" → ".join(map(str, found.get("chain") or ())), "code"),
        )
        for found in run.check.get("findings", ())
    )
    empty = "check found nothing." if "findings" in run.check else f"Findings: {NOT_MEASURED}."
    columns = ("Severity", "Rule", "Place", "Message", "Evidence", "Called by")
    return Table("Findings of the check", columns, rows, empty)


_SEVERITIES: dict[str, State] = {"error": "failed", "warning": "warned", "note": "done"}


def _place(found: Mapping[str, Any]) -> str:
    place = str(found.get("path", ""))
    return f"{place}:{found['line']}" if place and found.get("line") else place


def parity(run: Run) -> Table:
    """How far each artifact is from the eager model, and where it is farthest."""
    rows = []
    for stage, record in (("torchscript", run.torchscript), ("export", run.export), ("simplify", run.simplify)):
        worst = record.get("parity") or {}
        value = math.inf if "error" in worst and worst["error"] is None else worst.get("error")
        shape = worst.get("shape")
        rows.append(
            (
                Cell(stage),
                _figure(error(value)),
                _figure(error(record.get("tolerance"))),
                _said(worst.get("output"), "code"),
                _said(worst.get("probe"), "number"),
                _said(None if shape is None else json.dumps(shape), "code"),
            )
        )
    columns = ("Stage", "Worst rel. error", "Tolerance", "Output", "Probe", "Shape")
    return Table("Difference from the eager model after each stage", columns, tuple(rows))


def rewrites(run: Run) -> Table:
    """Every rewrite, symbolic and pass: whether it fired, where, and with what error."""
    rows = []
    for proof in run.torchscript.get("rewrites", ()):
        places = proof.get("places", ())
        where = ", ".join(place or "(the model)" for place in places) or str(proof.get("reason", ""))
        proven = _figure(error(proof.get("worst_error"))), _figure(error(proof.get("tolerance")))
        rows.append(_rewrite_row(f"{proof.get('kind', 'module')}, torchscript", proof, len(places), where, proven))
    stages: list[tuple[str, Iterable[Mapping[str, Any]]]] = [
        ("symbolic, export", run.export.get("symbolics", ())),
        ("pass, export", run.export.get("passes", ())),
        ("pass, simplify", run.simplify.get("passes", ())),
    ]
    stages += [(f"pass, quantize {engine.name}", engine.quantize.get("passes", ())) for engine in run.engines]
    parity = run.export.get("parity", {}).get("error"), run.export.get("tolerance")
    for kind, told in stages:
        for one in told:
            places = ", ".join(place or "(the model)" for place in one.get("places", ()))
            found, limit = parity if kind.startswith("symbolic") else (one.get("error"), one.get("tolerance"))
            proven = _figure(error(found)), _figure(error(limit))
            where = places or str(one.get("reason", ""))
            rows.append(_rewrite_row(kind, one, int(one.get("fired") or 0), where, proven))
    columns = ("Name", "Kind", "From", "Fired", "Where, or why not", "Error", "Tolerance")
    return Table("Rewrites and their proof", columns, tuple(rows), "No plugin provides a rewrite, symbolic or pass.")


def folded(run: Run) -> Table:
    """What the simplifier and each pass after it did to the graph: nodes, bytes, and the operators that changed."""
    rows = []
    for one in (run.simplify.get("folded"), *run.simplify.get("passes", ())):
        if not one or "nodes" not in one:
            continue
        operators = ", ".join(f"{name} {a} to {b}" for name, (a, b) in sorted(one["operators"].items()))
        nodes, sizes = one["nodes"], one["bytes"]
        figures = (f"{count(nodes[0])} to {count(nodes[1])}", f"{size(sizes[0])} to {size(sizes[1])}")
        rows.append(
            (Cell(one["name"]), *(Cell(text, "number") for text in figures), Cell(operators or "none", "prose"))
        )
    columns = ("Step", "Nodes", "Size", "Operators that changed in number")
    return Table("What the simplification folded", columns, tuple(rows))


def _rewrite_row(
    kind: str, told: Mapping[str, Any], fired: int, where: str, proven: tuple[Cell, Cell]
) -> tuple[Cell, ...]:
    happened = _state("passed", many(fired, "time")) if fired else _state("skipped", "did not fire")
    proof = proven if fired else (Cell("nothing to prove", "absent"), Cell(""))
    return (Cell(told["name"]), Cell(kind), Cell(str(told.get("provider", ""))), happened, Cell(where, "prose"), *proof)


def operators(run: Run) -> Table:
    """How often each operator stands in the graph, from the export to every engine's graph."""
    counts: list[tuple[str, Mapping[str, int] | None]] = [
        ("Exported", run.export.get("operators") or run.simplify.get("operators_before")),
        ("Simplified", run.simplify.get("operators_after")),
        *((engine.name, engine.quantize.get("operators_after")) for engine in run.engines),
    ]
    names = sorted({name for _, known in counts if known for name in known})
    rows = [(Cell("all nodes"), *(_figure(count(sum(known.values()) if known else None)) for _, known in counts))]
    for name in names:
        rows.append((Cell(name), *(_figure(_times(known, name)) for _, known in counts)))
    return Table("Operators before and after", ("Operator", *(label for label, _ in counts)), tuple(rows))


def _times(known: Mapping[str, int] | None, name: str) -> str:
    return NOT_MEASURED if known is None else str(known.get(name, 0))


def worst_layers(engine: EngineRun, most: int) -> Table:
    """The layers of an engine with the lowest SQNR, the worst first; not those that equal the unquantized graph's."""
    differing = [layer for layer in engine.layers if layer.sqnr_db is not None and layer.sqnr_db < math.inf]
    worst = sorted(differing, key=lambda layer: (layer.sqnr_db, layer.index))[:most]
    rows = tuple(
        (
            Cell(str(layer.index), "number"),
            _figure(decibel(layer.sqnr_db)),
            Cell(layer.op),
            Cell(layer.tensor, "code"),
            Cell(layer.layer, "code"),
        )
        for layer in worst
    )
    caption = f"{engine.name}: {len(worst)} of the {many(len(differing), 'layer')} that differ, the worst first"
    equal = any(layer.sqnr_db == math.inf for layer in engine.layers)
    empty = "Every layer equals the unquantized one." if equal else f"Layers: {NOT_MEASURED}."
    return Table(caption, ("No.", "SQNR", "Operator", "Tensor", "Node"), rows, empty)


def probes(engine: EngineRun) -> Table:
    """The outputs of an engine on each probe."""
    rows = tuple(
        (
            Cell(probe.probe, "number"),
            Cell(probe.output, "code"),
            Cell(probe.shape, "code"),
            _figure(error(probe.rel_error)),
            _figure(decibel(probe.sqnr_db)),
        )
        for probe in engine.probes
    )
    columns = ("Probe", "Output", "Shape", "Worst rel. error", "SQNR")
    return Table(f"{engine.name}: outputs on the probes", columns, rows, f"Probes: {NOT_MEASURED}.")


def skipped(engine: EngineRun) -> Table:
    """The nodes that quantize left in floating point, and why."""
    left = sorted(engine.quantize.get("skipped", {}).items())
    rows = tuple((Cell(node, "code"), Cell(reason, "prose")) for node, reason in left)
    return Table(f"{engine.name}: nodes left in floating point", ("Node", "Reason"), rows)


def bindings(engine: EngineRun) -> Table:
    """An engine's inputs and outputs with their shape ranges."""
    rows = tuple(
        (Cell(spec["name"], "code"), Cell(way), _said(spec.get("dtype"), "code"), *(_shape(spec, at) for at in _RANGE))
        for way, key in (("input", "inputs"), ("output", "outputs"))
        for spec in engine.engine.get(key, ())
    )
    columns = ("Name", "Kind", "Type", "Smallest", "Best", "Largest")
    caption = f"{engine.name}: inputs and outputs (?: known at run time)"
    return Table(caption, columns, rows, "engine.json does not say.")


_RANGE = ("min", "opt", "max")


def _shape(spec: Mapping[str, Any], at: str) -> Cell:
    sizes = spec.get(at)
    if sizes is None:
        return _said(None)
    return Cell(" x ".join("?" if size == -1 else str(size) for size in sizes) or "scalar", "code")


def facts(engine: EngineRun) -> Table:
    """Everything else that is on record of an engine."""
    told: list[tuple[str, Any]] = [(f"quantize: {name}", engine.quantize.get(name)) for name in ("method", "figures")]
    told += [
        (f"engine: {name}", engine.engine.get(name)) for name in ("options", "details", "made_from", "plan_sha256")
    ]
    told += [(f"verify: {name}", value) for name, value in sorted(engine.metrics.items())]
    rows = [(Cell(label), Cell(text, "code")) for name, value in told for label, text in _flat(name, value)]
    return Table(f"{engine.name}: all that is on record", ("What", "Value"), tuple(rows))


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for key, inner in sorted(value.items()) for pair in _flat(f"{name}.{key}", inner)]
    if value is None:
        return []
    return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True))]


def plugin_rows(rows: Sequence[Provided]) -> list[tuple[str, Table]]:
    """The lines that plugins add, by section, in the order in which the sections first come."""
    sections: dict[str, list[tuple[Cell, ...]]] = {}
    for provided in rows:
        row = provided.record
        line = (Cell(row.label), Cell(row.value, "prose"), Cell(provided.provider))
        sections.setdefault(row.section, []).append(line)
    return [(name, Table(name, ("What", "Value", "From"), tuple(lines))) for name, lines in sections.items()]


def materials(run: Run) -> Table:
    """The files that were made, with their digests."""
    rows = tuple((Cell(one.path, "code"), _figure(size(one.size)), Cell(one.sha256, "code")) for one in run.materials)
    return Table("Bill of materials", ("File", "Size", "SHA-256"), rows)


def _state(state: State, word: str) -> Cell:
    return Cell(f"{SIGNS[state]} {word}".rstrip(), state)


def _figure(text: str) -> Cell:
    return Cell(text, "absent" if text == NOT_MEASURED else "number")


def _said(value: Any, kind: str = "") -> Cell:
    return Cell("not recorded", "absent") if value in (None, "") else Cell(str(value), kind)
