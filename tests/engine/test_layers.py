"""Layers by precision: of the network, on TensorRT-RTX itself; of the engine, as inspectors tell of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from qntz.builtin._tensorrt_layers import SPELLED, counted
from qntz.builtin.tensorrt_rtx import qntz_backends
from qntz.config import EngineConfig
from qntz.progress import Silent
from qntz.records import TensorSpec
from tests.engine.engine_graphs import BATCH, linear
from tests.engine.fake_tensorrt import recorded
from tests.engine.test_tensorrt_api import VERSIONS, Bench, bench  # noqa: F401
from tests.quantize.conftest import Bench as Quantizing
from tests.quantize.conftest import Graphs, graphs, methods  # noqa: F401

DETAILED = EngineConfig(verbosity="detailed")


def layer(name: str, format: str | None) -> dict:
    tensors = [] if format is None else [{"Name": "t", "Format/Datatype": format}]
    return {"Name": name, "LayerType": "kgen", "Inputs": tensors, "Outputs": [{"Format/Datatype": "Int64"}]}


def test_a_detailed_engine_tells_its_layers(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    details = bench.backend.build(linear(tmp_path), [BATCH], DETAILED, Silent()).details
    assert details["layers_by_precision"] == {"fp32": 1}
    format = "Row major linear FP32"
    assert details["engine_layers"] == [
        {"name": "product", "kind": "MatMul", "precision": "fp32", "format": format},
    ]
    assert details["network_layers_by_precision"] == {"fp32": 1}
    assert details["warnings"] == []


def test_formats_as_versions_spell_them(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    """The long ones are of TensorRT 8 and 10 with a context, the short ones of TensorRT 10 without."""
    spelled = {
        "Row major linear FP16 format": "fp16",
        "Half": "fp16",
        "Channel major FP32 format where channel % 4 == 0": "fp32",
        "Float": "fp32",
        "Thirty-two wide channel vectorized row major Int8 format": "int8",
        "Int8": "int8",
        "BFloat16": "bf16",
        "FP8": "fp8",
        "Int4": "int4",
        "UInt8": "uint8",
        "Row major Int32 format": "int32",
        "N/A due to dynamic shapes": "untold",
    }
    layers = [*(layer(f"l{i}", text) for i, text in enumerate(spelled)), layer("shape", None)]
    bench.trt.seen["information"] = json.dumps({"Layers": layers, "Bindings": ["x", "y"]})
    details = bench.backend.build(linear(tmp_path), [BATCH], DETAILED, Silent()).details
    assert [one["precision"] for one in details["engine_layers"]] == [*spelled.values(), "int64"]
    assert details["layers_by_precision"] == counted(details["engine_layers"])
    assert details["layers_by_precision"]["fp16"] == 2


@pytest.mark.parametrize(
    ("information", "why"),
    [
        ('{"Layers": ["product"]}', "the inspector's JSON is none that is known (AttributeError:"),
        ('{"Layers": [{"Name": "a "b""}]}', "the inspector's JSON is none that is known (JSONDecodeError:"),
        ('{"Layers": []}', "the inspector tells of no layer"),
    ],
)
def test_an_inspector_that_tells_nothing_costs_no_engine(
    bench: Bench,  # noqa: F811
    tmp_path: Path,
    information: str,
    why: str,
) -> None:
    bench.trt.seen["information"] = information
    built = bench.backend.build(linear(tmp_path), [BATCH], DETAILED, Silent())
    assert built.plan
    assert "layers_by_precision" not in built.details
    (warning,) = built.details["warnings"]
    assert warning.startswith(f"the engine's layers are not told: {why}")


def test_they_are_told_where_they_were_asked_for_and_can_be(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    """A stripped plan cannot be loaded, and one without details has nothing to tell."""
    for config in (EngineConfig(), EngineConfig(verbosity="detailed", refit="all", strip_plan=True)):
        details = bench.backend.build(linear(tmp_path), [BATCH], config, Silent()).details
        assert set(details) == {"layers", "network_layers_by_precision", "dynamic", "warnings"}
        assert ("Runtime", "deserialize_cuda_engine") not in bench.trt.touched


def test_version_compatible_plans_are_loaded_with_leave(bench: Bench, tmp_path: Path) -> None:  # noqa: F811
    if bench.backend.name != "tensorrt":
        pytest.skip("tensorrt_rtx has none")
    config = EngineConfig("tensorrt", ["sm89"], verbosity="detailed", version_compatible=True)
    assert bench.backend.build(linear(tmp_path), [BATCH], config, Silent()).details["layers_by_precision"] == {
        "fp32": 1
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_types_and_kinds_are_recorded(version: str) -> None:
    from qntz.builtin._tensorrt_layers import PASSED, PRODUCTS, UNCOUNTED

    enums = {name: set(one["enum"]) for name, one in recorded(version)["classes"].items() if "enum" in one}
    assert set(SPELLED) <= enums["DataType"]
    assert {*PASSED, *PRODUCTS, *UNCOUNTED} <= enums["LayerType"]


@pytest.mark.parametrize(
    ("kind", "shape", "config", "expected"),
    [
        # Gemm and MatMul; what is left are the Relu and two sums, one of them the Gemm's bias.
        ("mlp", (6,), {"precision": "int8"}, {"int8": 2}),
        # Three convolutions and the Gemm.
        ("conv_net", (3, 6, 5), {"precision": "int8"}, {"int8": 4}),
        ("attention", (4, 6), {"precision": "int8"}, {"int8": 6}),
        ("attention", (4, 6), {"precision": "int8", "elsewhere": "fp16"}, {"int8": 6}),
        ("mlp", (6,), {"precision": "fp16"}, {}),
    ],
)
def test_tensorrt_rtx_tells_the_networks_layers(
    graphs: Graphs,  # noqa: F811
    methods: dict,  # noqa: F811
    tmp_path: Path,
    kind: str,
    shape: tuple[int, ...],
    config: dict,
    expected: dict[str, int],
) -> None:
    pytest.importorskip("tensorrt_rtx")
    (backend,) = qntz_backends()
    quantizing = Quantizing(tmp_path, methods)
    model = getattr(graphs, kind)()
    x = graphs.rng.normal(0, 2, (16, *shape)).astype(np.float32)
    quantized = quantizing.quantized(model, quantizing.calibrated(model, x=x), **config)
    onnx.save(quantizing.written, tmp_path / "quantized.onnx")
    spec = TensorSpec("x", "float32", (1, *shape), (4, *shape), (9, *shape))
    told = [
        backend.build(tmp_path / "quantized.onnx", [spec], EngineConfig(), Silent()).details[
            "network_layers_by_precision"
        ]
        for _ in range(2)
    ]
    assert told[0] == told[1]
    low = {name: count for name, count in told[0].items() if name.startswith("int8")}
    assert low == expected
    if expected:
        assert low["int8"] == len(quantized.quantized)
    half = config.get("elsewhere") == "fp16" or config["precision"] == "fp16"
    most = max((count, name) for name, count in told[0].items() if name.startswith("fp"))[1]
    assert most == ("fp16" if half else "fp32")


def test_weights_of_int4_count_as_such(graphs: Graphs, methods: dict, tmp_path: Path) -> None:  # noqa: F811
    pytest.importorskip("tensorrt_rtx")
    (backend,) = qntz_backends()
    nodes = [
        ("MatMul", ["x", "w1"], ["h"], "first", {}),
        ("Relu", ["h"], ["r"], "relu", {}),
        ("Gemm", ["r", "w2"], ["y"], "second", {"transB": 1}),
    ]
    weights = {"w1": graphs.weight(128, 64), "w2": graphs.weight(8, 64)}
    model = graphs.model(nodes, weights, {"x": ["n", 128]}, {"y": ["n", 8]})
    quantizing = Quantizing(tmp_path, methods)
    quantizing.quantized(model, precision="int4", block=64, correct_biases=False, elsewhere="fp16")
    spec = TensorSpec("x", "float32", (1, 128), (4, 128), (9, 128))
    details = backend.build(quantizing.target, [spec], EngineConfig(), Silent()).details
    told = details["network_layers_by_precision"]
    assert told["int4"] == 2
    assert told["fp16"] >= 1
