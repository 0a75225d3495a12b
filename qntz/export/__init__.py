"""A captured model turned into ONNX: by torch's TorchScript exporter, which keeps `if` and loops of scripted models,
or, for an exported program, by the exporter of torch.export. Then checked, run, and compared with the eager model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qntz import ort, plugins
from qntz.artifacts import write_model
from qntz.compare import Difference, differences, require_parity
from qntz.config import OPSET, known_opset, require_names
from qntz.errors import ExportError, ParityError, RewriteError, did_you_mean, one_line
from qntz.export.diverging import first_diverging, keys_of
from qntz.export.dynamo import of_program
from qntz.export.names import sources, unwrap
from qntz.export.torchscript import of_script
from qntz.graph import add_made_from, check, nodes_of, operators
from qntz.graph_passes import apply_passes
from qntz.packed import Packed, packed
from qntz.records import Arrays, Capture, Provided, Symbolic, Translation
from qntz.statements import shown
from qntz.versions import applicable

SYMBOLICS = ("qntz_symbolics", "qntz_translations")
"""The hooks that give the translations of operators, for one exporter and for the other."""
_FIRST_OPSET = 7  # that the exporters write


def opset_of(opset: int | None) -> int:
    """The opset, the default for None; raises ConfigError where ONNX has no such opset, or the exporters do not."""
    import onnx

    return OPSET if opset is None else known_opset(opset, bounds=(_FIRST_OPSET, onnx.defs.onnx_opset_version()))


@dataclass(frozen=True)
class Exported:
    """An ONNX model and what is known of it.

    Attributes:
        file: its bytes. opset: of the default domain. operators: name to number. symbolics, passes: what became of
        each (name, provider, fired, reason). parity: the worst difference from the eager model under ONNX Runtime.
        sources: of each node the operator, the path of the module that it comes from ("" for the model itself), and the
        statement of its source (`qntz.statements`).
    """

    file: Packed
    opset: int
    operators: dict[str, int]
    symbolics: list[dict[str, Any]]
    passes: list[dict[str, Any]]
    parity: Difference
    sources: dict[str, dict[str, str]]

    @property
    def data(self) -> bytes:
        """The bytes of the file; of a model beyond 2 GB those of its graph."""
        return self.file.data


def export(
    captured: Capture,
    path: Path | str | None = None,
    *,
    opset: int | None = None,
    tolerance: float = 1e-4,
    symbolics: Sequence[Provided] | None = None,
    passes: Sequence[Provided] | None = None,
    require: Sequence[str] = (),
    forbid: Sequence[str] = (),
    made_from: Mapping[str, str] | None = None,
) -> Exported:
    """Exports, checks, runs on every probe under ONNX Runtime and compares with the eager outputs.

    Args:
        captured: what `qntz.torchscript.capture` gives. path: where the model is written to, once it is right.
        opset: None for the highest that exporter and backends take.
        symbolics: translations of torch operators, `Symbolic` and `Translation` records; passes: graph passes of phase
        "export", in their order. None: those that qntz ships, installed plugins provide, and the working directory
        holds in plugins/.
        require, forbid: names among both.
        made_from: the files that went into `captured`, SHA-256 by path, for the graph's metadata.

    Raises:
        ExportError: torch has no translation, or what it wrote is no valid ONNX.
        ParityError: outputs differ by more than `tolerance` of the largest magnitude.
        RewriteError: something that was required did not fire.
        ConfigError: ONNX has no such opset.
    """
    opset = opset_of(opset)
    require_names(require, "export.require")
    require_names(forbid, "export.forbid")
    installed = plugins.load(Path.cwd(), "export") if symbolics is None or passes is None else None
    if installed is not None and passes is None:
        passes = installed.provided("qntz_graph_passes", phase="export")
    exported: Exported | None = captured.exported
    as_tried = symbolics is None and not (passes or require or forbid or made_from)
    if exported is None or exported.opset != opset or not as_tried:
        if installed is not None and symbolics is None:
            symbolics = [one for hook in SYMBOLICS for one in installed.provided(hook, opset=opset)]
        args = (opset, tolerance, symbolics or (), passes or (), require, forbid, made_from or {})
        exported = _exported(captured, *args)
    if path is not None:
        write_model(Path(path), exported.file)
    return exported


def _exported(
    captured: Capture,
    opset: int,
    tolerance: float,
    symbolics: Sequence[Provided],
    passes: Sequence[Provided],
    require: Sequence[str],
    forbid: Sequence[str],
    made_from: Mapping[str, str],
) -> Exported:
    import torch

    known = [p.record.name for p in (*symbolics, *passes)]
    for name in (*require, *forbid):
        if name not in known:
            raise RewriteError(f"no symbolic or graph pass {name!r}", where="export", do=did_you_mean(name, known))
    scripted = isinstance(captured.module, torch.jit.ScriptModule)
    kind, write = (Symbolic, of_script) if scripted else (Translation, of_program)
    fit, reasons = applicable((one for one in symbolics if one.record.name not in forbid), opset)
    model, fired = write(captured, opset, [one for one in fit if isinstance(one.record, kind)])
    reasons |= dict.fromkeys(forbid, "forbidden")
    reasons |= {one.record.name: "it is for the other exporter" for one in fit if not isinstance(one.record, kind)}
    unwrap(model)
    told = _told(symbolics, fired, reasons, require)
    told_from, keys = sources(model, captured.statements), keys_of(model)
    names = {provided.record.name for provided in passes}
    chosen = sorted(names & set(require)), sorted(names & set(forbid))
    model, passed = apply_passes(model, passes, *chosen, opset=opset, probes=captured.probes)
    _strip(model)
    add_made_from(model, made_from)
    try:
        check(model)
    except Exception as error:
        raise ExportError("the exported graph is no valid ONNX", where="model.onnx", why=one_line(error)) from error
    file = packed(model, "model.onnx")
    outputs = ort.run_all(file, [*captured.probes, *captured.further])
    count = len(captured.probes)
    try:
        parity = require_parity(outputs[:count], captured.golden, tolerance, "model.onnx")
        if captured.further:
            made, usual = outputs[count:], captured.golden
            require_parity(made, captured.wanted, tolerance, "model.onnx", usual=usual, inputs="made input")
    except ParityError as error:
        inputs = _worst(captured, outputs)
        name = first_diverging(captured, model, keys, inputs, tolerance)
        where = "Find the operator by its module in sources.json." if name is None else _place(name, told_from[name])
        raise ParityError(error.what, where=error.where, why=error.why, do=where) from error
    return Exported(file, opset, operators(model), told, passed, parity, told_from)


def _worst(captured: Capture, outputs: Sequence[Arrays]) -> Arrays:
    """The inputs on which the outputs are furthest from the eager model's."""
    found = differences(outputs, [*captured.golden, *captured.wanted], captured.golden)
    return [*captured.probes, *captured.further][max(found, key=lambda one: one.error).probe]


def _place(name: str, source: Mapping[str, str]) -> str:
    """The first diverging node, for a reader."""
    line = shown(source["statement"], Path.cwd()) if source["statement"] else "an unknown line"
    module = source["module"] or "the model"
    return f"{source['operator']} {name!r} of {module}, {line}, is the first that is off."


def _told(
    symbolics: Sequence[Provided],
    fired: Mapping[str, Sequence[str]],
    reasons: Mapping[str, str],
    require: Sequence[str],
) -> list[dict[str, Any]]:
    told = []
    for provided in symbolics:
        name = provided.record.name
        places = fired.get(name, ())
        reason = "" if places else reasons.get(name, "the captured model has no such operator")
        if name in require and not places:
            raise RewriteError(
                f"symbolic {name!r} is required and did not fire",
                where=provided.provider,
                why=reason,
                do="Take it out of export.require.",
            )
        if provided.is_builtin and not places and reason != "forbidden":
            continue  # the reader asks what plugins did, and what was done
        used = sorted(set(places))
        told.append(
            {"name": name, "provider": provided.provider, "fired": len(places), "places": used, "reason": reason}
        )
    return told


def _strip(model: Any) -> None:
    """Drops what names this machine or process: doc strings and metadata, which hold source paths and lines."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in nodes_of(model.graph):
        node.doc_string = ""
        del node.metadata_props[:]


def record(exported: Exported, tolerance: float) -> dict[str, Any]:
    """export.json: opset, operators, what symbolics and passes did, and the parity."""
    return {
        "opset": exported.opset,
        "nodes": sum(exported.operators.values()),
        "operators": exported.operators,
        "bytes": exported.file.size,
        "symbolics": exported.symbolics,
        "passes": exported.passes,
        "parity": exported.parity.as_dict(),
        "tolerance": tolerance,
    }
