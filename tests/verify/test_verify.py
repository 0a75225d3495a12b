"""verify over ONNX graphs whose figures NumPy works out beside it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qntz.builtin.onnxruntime import OnnxRuntimeBackend
from qntz.config import EngineConfig, ToleranceConfig, VerifyConfig
from qntz.errors import BackendError, ParityError
from qntz.figures import measure, metrics_of
from qntz.packed import packed
from qntz.records import Arrays, Metric
from qntz.verify import Verified, layer_figures, verify

RNG = np.random.default_rng(5)
W1 = RNG.normal(size=(5, 4)).astype(np.float32)
W2 = RNG.normal(size=(4, 3)).astype(np.float32)
SCALE = np.float32(0.25)
ROWS = (3, 2)
PROBES = [{"x": RNG.normal(size=(rows, 5)).astype(np.float32)} for rows in ROWS]
ACCURACY = Metric(
    "accuracy",
    score=lambda outputs, targets: float((outputs["y"].argmax(-1) == targets).mean()),
    agree=lambda a, b: float((a["y"].argmax(-1) == b["y"].argmax(-1)).mean()),
)
LOOSE = VerifyConfig(tolerance=ToleranceConfig(sqnr_db=3.0, agreement=0.0, metric_drop=1.0))


class NoGpu(OnnxRuntimeBackend):
    """An engine that cannot be run here."""

    def why_not_run(self, config: EngineConfig) -> str | None:
        return "no CUDA GPU on this machine"

    def load(self, plan: Path, config: EngineConfig):
        raise AssertionError("an engine that cannot be run was loaded")


def network(path: Path, *, quantized: bool = False, w2: np.ndarray = W2) -> Path:
    """y = relu(x @ w1) @ w2, where x is rounded to multiples of SCALE in the quantized one."""
    value = helper.make_tensor_value_info
    start = [helper.make_node("MatMul", ["x", "w1"], ["hidden"], name="first")]
    if quantized:
        start = [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["rounded"]),
            helper.make_node("MatMul", ["rounded", "w1"], ["hidden"], name="first"),
        ]
    nodes = [
        *start,
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Shape", ["active"], ["sizes"]),
        helper.make_node("MatMul", ["active", "w2"], ["y"], name="second"),
    ]
    weights = {"w1": W1, "w2": w2, "scale": np.array(SCALE), "zero": np.array(0, np.int8)}
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", 5])],
        [value("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


def by_numpy(x: np.ndarray, rounded: bool) -> dict[str, np.ndarray]:
    x = np.round(x.astype(np.float64) / SCALE) * SCALE if rounded else x.astype(np.float64)
    hidden = x @ W1
    active = np.maximum(hidden, 0)
    return {"hidden": hidden, "active": active, "y": active @ W2}


def decibels(actual: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    noise = sum(((a - e) ** 2).sum() for a, e in zip(actual, expected, strict=True))
    return 10 * math.log10(sum((e**2).sum() for e in expected) / noise)


EXACT = [by_numpy(probe["x"], rounded=False) for probe in PROBES]
ROUNDED = [by_numpy(probe["x"], rounded=True) for probe in PROBES]
GOLDEN: list[Arrays] = [{"y": run["y"].astype(np.float32)} for run in EXACT]


def verified(folder: Path, backend: OnnxRuntimeBackend, *, precision: str = "int8", **changed) -> Verified:
    quantized = network(folder / "quantized.onnx", quantized=True)
    plan = folder / "model.engine"
    plan.write_bytes(quantized.read_bytes())
    arguments = {
        "engine": EngineConfig(backend="onnxruntime"),
        "config": LOOSE,
        "batches": [],
        "reference": [],
        "metric": None,
        "sizes": {"onnx": 2048, "engine": 92160},
        **changed,
    }
    return verify(
        quantized=quantized,
        simplified=network(folder / "simplified.onnx"),
        plan=plan,
        backend=backend,
        precision=precision,
        probes=PROBES,
        golden=GOLDEN,
        **arguments,
    )


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_figures_are_numpys(tmp_path: Path) -> None:
    result = verified(tmp_path, OnnxRuntimeBackend())
    expected, actual = [run["y"] for run in EXACT], [run["y"] for run in ROUNDED]
    largest = max(np.abs(e).max() for e in expected)
    errors = [np.abs(a - e).max() / largest for a, e in zip(actual, expected, strict=True)]
    decided = np.concatenate([a.argmax(-1) == e.argmax(-1) for a, e in zip(actual, expected, strict=True)])
    assert result.engine == "run"
    assert list(result.metrics) == ["worst_rel_error", "agreement", "sqnr_db", "onnx_kb", "engine_kb", "engine_run"]
    assert result.metrics["worst_rel_error"] == pytest.approx(max(errors), rel=1e-3)
    assert result.metrics["agreement"] == pytest.approx(decided.mean())
    assert result.metrics["sqnr_db"] == pytest.approx(decibels(actual, expected), abs=0.01)
    assert (result.metrics["onnx_kb"], result.metrics["engine_kb"]) == (2.0, 90.0)
    assert result.metrics["engine_run"] == "yes"
    told = rows(result.probe_figures)
    assert [(row["probe"], row["output"], row["shape"]) for row in told] == [("0", "y", "3x3"), ("1", "y", "2x3")]
    for probe, row in enumerate(told):
        assert float(row["rel_error"]) == pytest.approx(errors[probe], rel=1e-3)
        assert float(row["sqnr_db"]) == pytest.approx(decibels([actual[probe]], [expected[probe]]), abs=0.01)


def test_each_layer_is_compared_on_the_first_probe(tmp_path: Path) -> None:
    told = rows(verified(tmp_path, OnnxRuntimeBackend()).layer_figures)
    assert [(row["index"], row["layer"], row["tensor"], row["op"]) for row in told] == [
        ("0", "first", "hidden", "MatMul"),
        ("1", "Relu_active", "active", "Relu"),
        ("3", "second", "y", "MatMul"),  # sizes, between them, is no floating tensor
    ]
    for row in told:
        wanted = decibels([ROUNDED[0][row["tensor"]]], [EXACT[0][row["tensor"]]])
        assert float(row["sqnr_db"]) == pytest.approx(wanted, abs=0.01)


def test_equal_layers_have_an_infinite_sqnr(tmp_path: Path) -> None:
    simplified, other = network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", w2=2 * W2)
    figures = {tensor: value for _, _, tensor, _, value in layer_figures(simplified, other, PROBES[0])}
    assert figures["hidden"] == figures["active"] == math.inf
    assert figures["y"] == pytest.approx(0.0, abs=1e-6)  # twice the output: the noise is as large as the signal


def test_half_precision_tensors_are_compared_with_their_float_twins(tmp_path: Path) -> None:
    simplified = network(tmp_path / "a.onnx")
    model = onnx.load(str(simplified))
    model.graph.node[1].output[0] = "wide"
    model.graph.node.insert(2, helper.make_node("Cast", ["wide"], ["active"], to=TensorProto.FLOAT16))
    model.graph.node.insert(3, helper.make_node("Cast", ["active"], ["back"], to=TensorProto.FLOAT))
    model.graph.node[5].input[0] = "back"
    figures = {t: value for _, _, t, _, value in layer_figures(simplified, packed(model, "model.onnx"), PROBES[0])}
    exact = np.maximum(PROBES[0]["x"] @ W1, 0)
    wanted = decibels([exact.astype(np.float16).astype(np.float64)], [exact.astype(np.float64)])
    assert figures["active"] == pytest.approx(wanted, abs=0.5)


def test_an_engine_that_cannot_be_run_is_never_said_to_have_passed(tmp_path: Path) -> None:
    result = verified(tmp_path, NoGpu())
    assert result.engine == (
        "not run: no CUDA GPU on this machine; the figures are of quantized.onnx under ONNX Runtime"
    )
    assert result.metrics["engine_run"] == "no: no CUDA GPU on this machine"
    run = {k: v for k, v in verified(tmp_path, OnnxRuntimeBackend()).metrics.items() if k != "engine_run"}
    assert {k: v for k, v in result.metrics.items() if k != "engine_run"} == run


def test_of_implicit_int8_the_stand_in_is_told_for_what_it_is(tmp_path: Path) -> None:
    result = verified(tmp_path, NoGpu(), engine=EngineConfig("tensorrt", implicit_int8=True))
    assert result.engine.endswith(
        "the figures are of quantized.onnx under ONNX Runtime, in explicit Q/DQ: the engine has its ranges, and TensorRT chose its layers' precision"
    )


def test_require_run_refuses_what_cannot_be_run(tmp_path: Path) -> None:
    with pytest.raises(BackendError) as caught:
        verified(tmp_path, NoGpu(), config=VerifyConfig(require_run=True))
    assert str(caught.value).endswith(
        "model.engine: the engine cannot be run here: no CUDA GPU on this machine. Verify on a machine with the target"
        " GPU, or set verify.require_run: false."
    )


def test_a_twin_is_run_in_place_of_the_graph(tmp_path: Path) -> None:
    twin = network(tmp_path / "twin.onnx")
    result = verified(tmp_path, NoGpu(), runnable=twin)
    assert result.metrics["sqnr_db"] > 100
    assert {float(row["sqnr_db"]) for row in rows(result.layer_figures)} == {math.inf}
    assert "the figures are of quantized.onnx" in result.engine


def test_a_failed_gate_names_the_file_the_output_and_the_wish(tmp_path: Path) -> None:
    wanted = decibels([run["y"] for run in ROUNDED], [run["y"] for run in EXACT])
    assert wanted < 40
    strict = VerifyConfig(tolerance=ToleranceConfig(sqnr_db=40.0))
    with pytest.raises(ParityError) as caught:
        verified(tmp_path, OnnxRuntimeBackend(), config=strict)
    assert f"model.engine: is too far from the eager model: SQNR of output 'y' is {wanted:.2f} dB" in str(caught.value)
    assert "(at least 40 wanted)" in str(caught.value)
    with pytest.raises(ParityError, match=r"quantized\.onnx: differs from the eager model: output 'y' on probe"):
        verified(tmp_path, NoGpu(), precision="fp32")


def test_the_metric_has_its_own_keys(tmp_path: Path) -> None:
    batches = [(probe, np.zeros(rows, dtype=np.int64)) for probe, rows in zip(PROBES, ROWS, strict=True)]
    result = verified(tmp_path, OnnxRuntimeBackend(), batches=batches, reference=GOLDEN, metric=ACCURACY)
    eager = np.concatenate([run["y"].argmax(-1) == 0 for run in EXACT]).mean()
    artifact = np.concatenate([run["y"].argmax(-1) == 0 for run in ROUNDED]).mean()
    assert result.metrics["accuracy_eager"] == pytest.approx(eager)
    assert result.metrics["accuracy"] == pytest.approx(artifact)


def test_json_takes_every_figure() -> None:
    zeros, ones = {"y": np.zeros((2, 1), np.float32)}, {"y": np.ones((2, 1), np.float32)}
    equal = measure(lambda inputs: ones, [{}], [ones], [], [], None)
    assert metrics_of(equal, None, {}, "yes") == {"worst_rel_error": 0.0, "sqnr_db": 200.0, "engine_run": "yes"}
    lost = metrics_of(measure(lambda inputs: ones, [{}], [zeros], [], [], None), None, {})
    assert lost == {"worst_rel_error": None, "sqnr_db": -200.0}
    json.dumps(lost, allow_nan=False)
