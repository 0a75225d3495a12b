"""Turns TorchScript into ONNX by torch's TorchScript exporter, which keeps `if` and loops of scripted models."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qntz import ort
from qntz.compare import Difference, require_parity
from qntz.config import InputConfig
from qntz.errors import ExportError, RewriteError, did_you_mean, one_line
from qntz.graph import add_made_from, graphs_of, model_bytes, nodes_of, operators
from qntz.graph_passes import apply_passes
from qntz.records import Arrays, Provided
from qntz.symbolics import registered


@dataclass(frozen=True)
class Exported:
    """An ONNX model and what is known of it.

    Attributes:
        data: its bytes. opset: of the default domain. operators: name to number. symbolics, passes: what became of
        each (name, provider, fired, reason). parity: the worst difference from the eager model under ONNX Runtime.
        sources: node name to the path of the module that it comes from ("" for the model itself).
    """

    data: bytes
    opset: int
    operators: dict[str, int]
    symbolics: list[dict[str, Any]]
    passes: list[dict[str, Any]]
    parity: Difference
    sources: dict[str, dict[str, str]]


def export(
    captured: Any,
    inputs: Mapping[str, InputConfig],
    probes: Sequence[Arrays],
    golden: Sequence[Arrays],
    *,
    opset: int = 17,
    tolerance: float = 1e-4,
    symbolics: Sequence[Provided] = (),
    passes: Sequence[Provided] = (),
    require: Sequence[str] = (),
    forbid: Sequence[str] = (),
    made_from: Mapping[str, str] | None = None,
) -> Exported:
    """Exports, checks, runs on every probe under ONNX Runtime and compares with the eager outputs.

    Args:
        captured: a torch.jit.ScriptModule, or the path of a saved one.
        inputs: the model's inputs; a dimension with a name becomes dynamic.
        probes, golden: inputs, and the eager model's outputs on them, by name; the first is the example.
        symbolics: translations of torch operators; passes: graph passes of phase "export", in their order.
        require, forbid: names among both.
        made_from: the files that went into `captured`, SHA-256 by path, for the graph's metadata.

    Raises:
        ExportError: torch has no translation, or what it wrote is no valid ONNX.
        ParityError: outputs differ by more than `tolerance` of the largest magnitude.
        RewriteError: something that was required did not fire. ModelError: no TorchScript file.
    """
    import onnx

    from qntz.model import WRAPPED, in_order, load_torchscript

    script = load_torchscript(captured) if isinstance(captured, Path) else captured
    known = [p.record.name for p in (*symbolics, *passes)]
    for name in (*require, *forbid):
        if name not in known:
            raise RewriteError(f"no symbolic or graph pass {name!r}", where="export", do=did_you_mean(name, known))
    order = in_order(script, list(inputs))
    with registered(symbolics, opset, forbid) as fired:
        model = onnx.load_from_string(_exported(script, inputs, probes, golden, order, opset))
    if hasattr(script, WRAPPED):
        _unwrap(model, WRAPPED)
    told = _told(symbolics, fired, require, forbid)
    names = {provided.record.name for provided in passes}
    model, passed = apply_passes(model, passes, sorted(names & set(require)), sorted(names & set(forbid)))
    _strip(model)
    add_made_from(model, made_from or {})
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ExportError("the exported graph is no valid ONNX", where="model.onnx", why=one_line(error)) from error
    data = model_bytes(model, "model.onnx")
    parity = require_parity(
        ort.run_all(data, probes),
        golden,
        tolerance,
        "model.onnx",
        "Find the operator by its module path in sources.json.",
    )
    return Exported(data, opset, operators(model), told, passed, parity, sources(model))


def _exported(
    script: Any,
    inputs: Mapping[str, InputConfig],
    probes: Sequence[Arrays],
    golden: Sequence[Arrays],
    order: Sequence[str],
    opset: int,
) -> bytes:
    import torch

    from qntz.model import tensors

    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad(), _no_output():
            warnings.simplefilter("ignore")  # the exporter's deprecation, and traces that the probes judge better
            torch.onnx.export(
                script,
                tensors(probes[0], order),
                buffer,
                dynamo=False,
                opset_version=opset,
                input_names=list(order),
                output_names=list(golden[0]),
                dynamic_axes=dynamic_axes(inputs, probes, golden),
            )
    except Exception as error:
        raise ExportError(
            "the model cannot be exported",
            where=f"opset {opset}",
            why=_reason(error),
            do="Raise export.opset, or rewrite the operator by a plugin (README, 'Your own rewrite').",
        ) from error
    return buffer.getvalue()


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """Drops what C++ writes to the process's standard output: on an unsupported operator, the whole graph."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _reason(error: Exception) -> str:
    """torch's own sentence, without the graph that it prints after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "not supported" in line or "Unsupported" in line or "unsupported" in line]
    return (telling or lines or [type(error).__name__])[0][:300]


def dynamic_axes(
    inputs: Mapping[str, InputConfig], probes: Sequence[Arrays], golden: Sequence[Arrays]
) -> dict[str, dict[int, str]]:
    """The dynamic dimensions by tensor and axis: those of the inputs by their names, those of the outputs where the
    probes' sizes differ, named after the input dimension that always has the same size, if one has."""
    axes = {
        name: {axis: size for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for name, spec in inputs.items()
    }
    sizes: dict[str, list[int]] = {
        label: [probe[name].shape[axis] for probe in probes]
        for name, named in axes.items()
        for axis, label in named.items()
    }
    for name, first in golden[0].items():
        axes[name] = {}
        for axis in range(first.ndim):
            seen = [outputs[name].shape[axis] for outputs in golden]
            if len(set(seen)) > 1:
                axes[name][axis] = next((label for label, given in sizes.items() if given == seen), f"{name}_{axis}")
    return {name: named for name, named in axes.items() if named}


def _told(
    symbolics: Sequence[Provided], fired: Mapping[str, int], require: Sequence[str], forbid: Sequence[str]
) -> list[dict[str, Any]]:
    told = []
    for provided in symbolics:
        name = provided.record.name
        count = fired.get(name, 0)
        if name in require and count == 0:
            raise RewriteError(
                f"symbolic {name!r} is required and did not fire",
                where=provided.provider,
                why="the captured model has no such operator",
                do="Take it out of export.require.",
            )
        if provided.is_builtin and not (count or name in forbid):
            continue  # the reader asks what plugins did, and what was done
        reason = "" if count else ("forbidden" if name in forbid else "the captured model has no such operator")
        told.append({"name": name, "provider": provided.provider, "fired": count, "reason": reason})
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


def _unwrap(model: Any, wrapper: str) -> None:
    """Takes the wrapper's scope out of all names: "/wrapper/layer/Gemm" is the user's "/layer/Gemm"."""

    def plain(name: str) -> str:
        return name.removeprefix(f"/{wrapper}").removeprefix(f"{wrapper}.")

    for graph in graphs_of(model.graph):
        for named in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
            named.name = plain(named.name)
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [plain(name) for name in names]


def sources(model: Any) -> dict[str, dict[str, str]]:
    """Node name to the module that it comes from: the exporter names a node "/encoder/layer.0/query/MatMul"."""
    index = {}
    for node in nodes_of(model.graph):
        scope = [part for part in node.name.split("/")[:-1] if part]
        index[node.name] = {"operator": node.op_type, "module": ".".join(scope)}
    return index


def record(exported: Exported, tolerance: float) -> dict[str, Any]:
    """export.json: opset, operators, what symbolics and passes did, and the parity."""
    return {
        "opset": exported.opset,
        "nodes": sum(exported.operators.values()),
        "operators": exported.operators,
        "bytes": len(exported.data),
        "symbolics": exported.symbolics,
        "passes": exported.passes,
        "parity": exported.parity.as_dict(),
        "tolerance": tolerance,
    }
