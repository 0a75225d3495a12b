"""A run directory made by hand: its figures are stated here and nowhere computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qntz.artifacts import EnginePaths, ModelPaths, write_bytes, write_json, write_npz, write_text
from qntz.histograms import arrays_of, histogram_of

LAYERS = "index,layer,tensor,op,sqnr_db\n0,/stem/Conv,/stem/Conv_output_0,Conv,41.25\n2,/head/Gemm,logits,Gemm,18.5\n"
PROBES = "probe,output,shape,rel_error,sqnr_db\n0,logits,2x10,0.021,33.25\n1,logits,3x10,0.019,\n"


def model_records(paths: ModelPaths, **changed: Any) -> None:
    """Writes the records of a model's stages; `changed` replaces whole records by the stage's name."""
    records: dict[str, Any] = {
        "check": {"findings": []},
        "torchscript": {
            "method": "trace",
            "why": "torchscript.method is trace",
            "parity": {"error": 1.25e-7, "output": "logits", "probe": 3, "shape": [5, 10]},
            "tolerance": 1e-4,
            "probes": 8,
            "parameters": 12345,
            "rewrites": [
                {
                    "name": "hard-gelu", "provider": "plugins/gelu.py", "places": ["blocks.0.act", "blocks.1.act"],
                    "worst_error": 3.5e-4, "tolerance": 1e-3, "reason": "",
                },
                {
                    "name": "no-lstm", "provider": "plugins/lstm.py", "places": [], "worst_error": None,
                    "tolerance": 1e-5, "reason": "no submodule matches",
                },
            ],
        },
        "export": {
            "opset": 17,
            "parity": {"error": 2.5e-7, "output": "logits", "probe": 1, "shape": [3, 10]},
            "tolerance": 1e-4,
            "operators": {"Conv": 2, "Identity": 3, "Gemm": 1},
            "symbolics": [{"name": "aten::nan_to_num", "provider": "plugins/nan.py", "fired": 2, "reason": ""}],
            "passes": [],
        },
        "simplify": {
            "nodes_before": 6,
            "nodes_after": 3,
            "operators_before": {"Conv": 2, "Identity": 3, "Gemm": 1},
            "operators_after": {"Conv": 2, "Gemm": 1},
            "bytes_before": 51200,
            "bytes_after": 50176,
            "parity": {"error": 0.0, "output": "logits", "probe": 0, "shape": [2, 10]},
            "tolerance": 1e-4,
            "passes": [{"name": "drop-cast", "provider": "acme", "fired": 0, "reason": "the graph has nothing that it matches"}],
        },
    }  # fmt: skip
    records.update(changed)
    for stage, record in records.items():
        write_json(paths.folder / f"{stage}.json", record)


def engine_records(paths: EnginePaths, *, layers: str = LAYERS, probes: str = PROBES, **changed: Any) -> None:
    """Writes the records of one engine; `changed` replaces whole records by the file's name."""
    records: dict[str, Any] = {
        "quantize": {
            "precision": "int8",
            "calibrated": True,
            "method": "mse",
            "operators_after": {"Conv": 2, "Gemm": 1, "QuantizeLinear": 4, "DequantizeLinear": 4},
            "skipped": {"/stem/Add": "its axis is dynamic"},
            "passes": [],
            "constants": {"mask": {"what": "1 of 4 values clipped to 65504", "module": "head", "statement": ""}},
            "notes": ["two tensors were never above zero"],
            "bytes": 22528,
        },
        "engine": {
            "backend": "tensorrt_rtx",
            "version": "1.7.1",
            "target": "sm89",
            "precision": "int8",
            "inputs": [{"name": "image", "dtype": "float32", "min": [1, 8], "opt": [8, 8], "max": [64, 8]}],
            "outputs": [{"name": "logits", "dtype": "float32", "min": [1, 10], "opt": [-1, 10], "max": [64, 10]}],
            "bytes": 92160,
        },
        "metrics": {
            "accuracy_eager": 0.9733,
            "accuracy": 0.9711,
            "agreement": 0.99997,
            "worst_rel_error": 0.021,
            "sqnr_db": 33.25,
            "engine_run": "yes",
        },
    }
    records.update(changed)
    for name, record in records.items():
        write_json(paths.folder / f"{name}.json", record)
    write_json(paths.ranges, {"precision": "int8", "method": "mse", "tensors": {}})
    write_text(paths.layer_figures, layers)
    write_text(paths.probe_figures, probes)


def calibrated(paths: EnginePaths, seen: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> None:
    """Writes the histograms of float32 values by tensor, and the thresholds of an engine."""
    histograms = {tensor: histogram_of(values) for tensor, values in seen.items()}
    write_npz(paths.of.histograms, arrays_of(histograms))
    tensors = {tensor: {"amax": amax, "scale": amax / 127} for tensor, amax in thresholds.items()}
    write_json(paths.ranges, {"precision": "int8", "method": "mse", "tensors": tensors})


@pytest.fixture
def paths(tmp_path: Path) -> ModelPaths:
    return ModelPaths(tmp_path, "digits")


@pytest.fixture
def one_engine(paths: ModelPaths) -> Callable[..., ModelPaths]:
    """Writes the model and one engine, "digits-int8", and gives the paths."""

    def write(model: dict[str, Any] | None = None, **engine: Any) -> ModelPaths:
        model_records(paths, **(model or {}))
        engine_records(paths.engine("digits-int8"), **engine)
        write_bytes(paths.onnx, b"model")
        write_bytes(paths.engine("digits-int8").plan, b"plan")
        return paths

    return write
