"""Builds an engine from the quantized graph, by the backend that the configuration names."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qntz.config import EngineConfig
from qntz.errors import BackendError, did_you_mean
from qntz.records import Backend, Built, Progress, TensorSpec


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


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "min": list(spec.min),
        "opt": list(spec.opt),
        "max": list(spec.max),
        **({"profiles": [[list(shape) for shape in one] for one in spec.profiles]} if spec.profiles else {}),
    }
