"""build_engine and choose_backend, over real backends where it can be and over a small one for its own duties."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from qntz.builtin import onnxruntime as onnxruntime_backend
from qntz.builtin import tensorrt as tensorrt_backend
from qntz.builtin import tensorrt_rtx as rtx_backend
from qntz.config import EngineConfig
from qntz.engine import build_engine, choose_backend
from qntz.errors import BackendError
from qntz.progress import Silent
from qntz.records import Backend, Built
from tests.engine.engine_graphs import BATCH, WEIGHT, linear

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for module in (onnxruntime_backend, rtx_backend, tensorrt_backend)
    for backend in module.qntz_backends()
}


class Small:
    """A backend that refuses or builds what it is told to."""

    name = "small"

    def __init__(self, refusal: BackendError | None = None, plan: bytes = b"plan"):
        self._refusal, self._plan, self.asked = refusal, plan, []

    def refusal(self, config, precision):
        self.asked.append("refusal")
        return self._refusal

    def build(self, onnx_path, inputs, config, progress):
        self.asked.append("build")
        return Built(self._plan, "3.1", "a toaster", 1.23456, tuple(inputs), (), {"layers": 7})


def build(backend: Backend, path: Path = Path("a.onnx")) -> tuple[Built, dict]:
    return build_engine(
        path,
        [BATCH],
        EngineConfig(optimization_level=2),
        "int8",
        backend,
        Silent(),
        {"quantized.onnx": "f0", "a": "b1"},
    )


def test_engine_json_holds_what_was_built() -> None:
    built, told = build(Small())
    assert built.plan == b"plan"
    options = told.pop("options")
    assert set(options) == {one.name for one in dataclasses.fields(EngineConfig)} - {"backend"}
    assert (options["compute_capabilities"], options["optimization_level"], options["tf32"]) == ([], 2, False)
    assert told == {
        "backend": "small",
        "version": "3.1",
        "target": "a toaster",
        "precision": "int8",
        "inputs": [{"name": "x", "dtype": "float32", "min": [1, 5], "opt": [4, 5], "max": [9, 5]}],
        "outputs": [],
        "bytes": 4,
        "plan_sha256": hashlib.sha256(b"plan").hexdigest(),
        "made_from": {"a": "b1", "quantized.onnx": "f0"},
        "details": {"layers": 7},
    }


def test_a_refusal_comes_before_the_build() -> None:
    backend = Small(refusal=BackendError("not here"))
    with pytest.raises(BackendError, match="not here"):
        build(backend)
    assert backend.asked == ["refusal"]


def test_an_empty_plan_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"a\.onnx: the backend made an empty engine: small 3\.1 gives no bytes"):
        build(Small(plan=b""))


def test_a_real_engine_has_a_record_that_json_takes(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    built, told = build(choose_backend("tensorrt_rtx", BACKENDS), linear(tmp_path))
    assert told["bytes"] == len(built.plan) > WEIGHT.nbytes
    assert built.seconds > 0
    assert told["outputs"] == [{"name": "y", "dtype": "float32", "min": [-1, 3], "opt": [-1, 3], "max": [-1, 3]}]
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_backends_are_chosen_by_name() -> None:
    assert sorted(BACKENDS) == ["onnxruntime", "tensorrt", "tensorrt_rtx"]
    assert choose_backend("tensorrt", BACKENDS).name == "tensorrt"
    with pytest.raises(BackendError, match=r"no backend 'tensort_rtx'\. Did you mean 'tensorrt_rtx'\?"):
        choose_backend("tensort_rtx", BACKENDS)
