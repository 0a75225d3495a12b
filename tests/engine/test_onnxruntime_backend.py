"""The backend onnxruntime, end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from qntz.builtin.onnxruntime import qntz_backends
from qntz.config import EngineConfig
from qntz.errors import BackendError
from qntz.progress import Silent
from qntz.records import TensorSpec
from tests.engine.engine_graphs import BATCH, WEIGHT, info, linear, saved

(BACKEND,) = qntz_backends()


def test_the_plan_is_the_graph_and_runs_anywhere(tmp_path: Path) -> None:
    path = linear(tmp_path)
    unused = TensorSpec("unused", "int64", (1,), (1,), (1,))
    built = BACKEND.build(path, [unused, BATCH], EngineConfig(), Silent())
    assert built.plan == path.read_bytes()
    assert built.inputs == (BATCH,)
    assert built.outputs == (TensorSpec("y", "float32", (-1, 3), (-1, 3), (-1, 3)),)
    assert BACKEND.why_not_run(EngineConfig()) is None
    plan = tmp_path / "model.engine"
    plan.write_bytes(built.plan)
    x = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)
    outputs = BACKEND.load(plan, EngineConfig()).run({"x": x})
    assert list(outputs) == ["y"]
    np.testing.assert_allclose(outputs["y"], x.astype(np.float64) @ WEIGHT, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            EngineConfig(backend="onnxruntime", compute_capabilities=["sm89"]),
            "engine.compute_capabilities: onnxruntime has no compute_capabilities: tensorrt and tensorrt_rtx have this option. Remove"
            " it, or choose another engine.backend.",
        ),
        (
            EngineConfig(backend="onnxruntime", workspace_bytes=1),
            "engine.workspace_bytes: onnxruntime has no workspace_bytes: tensorrt and tensorrt_rtx have this option."
            " Remove it, or choose another engine.backend.",
        ),
        (
            EngineConfig(backend="onnxruntime", optimization_level=0),
            "engine.optimization_level: onnxruntime has no optimization_level: tensorrt and tensorrt_rtx have this"
            " option. Remove it, or choose another engine.backend.",
        ),
    ],
)
def test_options_of_the_others_are_refused(config: EngineConfig, text: str) -> None:
    assert str(BACKEND.refusal(config, "fp32")) == text
    assert BACKEND.refusal(EngineConfig(backend="onnxruntime"), "int8") is None
    assert "onnxruntime has no bf16" in str(BACKEND.refusal(EngineConfig(backend="onnxruntime"), "bf16"))
    assert "quantize.precision: onnxruntime is not right in fp8: its optimizers drop a Relu" in str(
        BACKEND.refusal(EngineConfig(backend="onnxruntime"), "fp8")
    )
    assert BACKEND.refusal(EngineConfig(backend="onnxruntime"), "int4") is None


def test_a_graph_that_does_not_open_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Odd", ["x"], ["y"], domain="acme")
    path = saved(tmp_path / "odd.onnx", [node], [info("x", (2, 5))], [info("y", (2, 5))])
    with pytest.raises(BackendError, match=r"odd\.onnx: ONNX Runtime refuses the graph: .*Odd"):
        BACKEND.build(path, [BATCH], EngineConfig(), Silent())


def test_the_build_stops_when_asked(tmp_path: Path) -> None:
    class Stop:
        def step(self, phase: str, done: int, total: int) -> bool:
            return False

    with pytest.raises(BackendError, match="the build was stopped"):
        BACKEND.build(linear(tmp_path), [BATCH], EngineConfig(), Stop())
