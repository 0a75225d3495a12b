"""Builds an engine from the quantized graph, by the backend that the configuration names."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from qntz.columns import aligned
from qntz.config import EngineConfig
from qntz.errors import BackendError, did_you_mean
from qntz.graph import operators
from qntz.origins import Origin
from qntz.quantizable import node_names
from qntz.records import Backend, Built, Progress, Provided, TensorSpec
from qntz.statements import shown


def choose_backend(name: str, backends: Mapping[str, Backend]) -> Backend:
    """The backend of that name; raises BackendError with the nearest name where there is none."""
    if name not in backends:
        raise BackendError(f"no backend {name!r}", where="engine.backend", do=did_you_mean(name, backends))
    return backends[name]


def build_engine(
    onnx_path: Path,
    specs: Sequence[TensorSpec],
    config: EngineConfig,
    precision: str,
    backend: Backend,
    progress: Progress,
    made_from: Mapping[str, Any],
) -> tuple[Built, dict[str, Any]]:
    """The plan's bytes and what engine.json tells of it: the same for the same plan, so without the seconds it took.

    Args:
        onnx_path: the quantized graph. specs: the model's inputs with their shape ranges. precision: that stands in
        the graph. made_from: digests of what went into the graph and the engine, by name.

    Raises:
        BackendError: the backend cannot do it here (said before any long work), refuses the graph, or makes nothing.
    """
    refusal = backend.refusal(config, precision)
    if refusal is not None:
        raise refusal
    built = backend.build(onnx_path, specs, config, progress)
    if not built.plan:
        why = f"{backend.name} {built.version} gives no bytes and no reason"
        raise BackendError("the backend made an empty engine", where=str(onnx_path), why=why)
    options = dataclasses.asdict(config)
    del options["backend"]
    return built, {
        "backend": backend.name,
        "version": built.version,
        "target": built.target,
        "precision": precision,
        "options": options,
        "inputs": [_tensor(spec) for spec in built.inputs],
        "outputs": [_tensor(spec) for spec in built.outputs],
        "bytes": len(built.plan),
        "plan_sha256": hashlib.sha256(built.plan).hexdigest(),
        "made_from": dict(sorted(made_from.items())),
        "details": built.details,
    }


def licences(tools: Iterable[str]) -> dict[str, str]:
    """The licence of each installed distribution, as it states it; those that state none, or are none, are left out."""
    found = {}
    for name in tools:
        try:
            told = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:  # Python itself
            continue
        classified = [one.rpartition(" :: ")[2] for one in told.get_all("Classifier", []) if one.startswith("License")]
        stated = told.get("License-Expression") or ", ".join(classified) or (told.get("License") or "").splitlines()[:1]
        licence = stated if isinstance(stated, str) else "".join(stated)
        if licence:
            found[name] = licence
    return found


def refused_table(
    nodes: Sequence[tuple[int, str, str, str]],
    model: onnx.ModelProto,
    come_from: Mapping[str, Origin],
    passes: Sequence[Provided],
    root: Path,
) -> list[str]:
    """The nodes that a backend refuses, a line each under a head: node, operator, module, source line, reason, and the
    graph pass that would take the operator out of the graph, where one is installed.

    Args:
        nodes: as `BackendError.nodes`. model: the graph. come_from: the origin of its nodes by name. passes: those that
            are installed, whether the configuration lets them run or not. root: of the sources.
    """
    helps = _helping({node[2] for node in nodes}, model, passes)
    names = node_names(model.graph)
    rows = [("node", "operator", "module", "source", "why", "what helps")]
    for index, name, operator, why in nodes:
        known = names[index] if 0 <= index < len(names) and model.graph.node[index].op_type == operator else name
        origin = come_from.get(known, Origin())
        source = shown(origin.statement, root) if origin.statement else ""
        rows.append((known, operator, origin.module, source, why, helps.get(operator, "")))
    return aligned(rows)


def _helping(refused: Iterable[str], model: onnx.ModelProto, passes: Sequence[Provided]) -> dict[str, str]:
    """By operator the first pass that takes some of them out of the graph; one that fails at it does not count."""
    before = operators(model)
    found: dict[str, str] = {}
    for one in passes:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        try:
            changed, fired = one.record.apply(copy)
            after = operators(changed)
        except Exception:  # it was never tried on a quantized graph
            continue
        for operator in refused if fired else ():
            if after.get(operator, 0) < before.get(operator, 0):
                do = f"graph pass {one.record.name} (of {one.provider}): let it run (simplify.forbid)"
                found.setdefault(operator, do)
    return found


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "min": list(spec.min),
        "opt": list(spec.opt),
        "max": list(spec.max),
        **({"profiles": [[list(shape) for shape in one] for one in spec.profiles]} if spec.profiles else {}),
    }
