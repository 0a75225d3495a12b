"""int8: the Q/DQ graph's structure and scales, its numbers against a simulation in NumPy, and engines from it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qntz.compare import sqnr_db


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def read_through(model: onnx.ModelProto, node: str, operand: int) -> tuple[str, str]:
    """The tensor that a node's operand comes from, and "int8" where it comes through Q/DQ."""
    made = producers(model)
    name = next(n for n in model.graph.node if n.name == node).input[operand]
    if name in made and made[name].op_type == "DequantizeLinear":
        quantizer = made[made[name].input[0]]
        assert quantizer.op_type == "QuantizeLinear"
        assert list(quantizer.input[1:]) == list(made[name].input[1:])
        return quantizer.input[0], "int8"
    return name, "float"


def fake_quantized(x: np.ndarray, scale: np.ndarray | np.float32) -> np.ndarray:
    return (np.clip(np.rint(x / scale), -128, 127) * scale).astype(np.float32)


@pytest.mark.parametrize("method", ["max", "mse", "entropy", "percentile"])
def test_mlp_equals_a_simulation_in_numpy(graphs, bench, methods, method):
    model = graphs.mlp()
    x = graphs.rng.normal(0, 2, (300, 6)).astype(np.float32)
    histograms = bench.calibrated(model, x=x)
    quantized = bench.quantized(model, histograms, precision="int8", method=method)
    amax = {name: methods[method].threshold(histograms[name]) for name in ("x", "r")}
    assert quantized.ranges == amax
    w = initializers(model)

    per_row = np.abs(w["w1"]).max(1, keepdims=True) / np.float32(127)
    per_column = np.abs(w["w2"]).max(0, keepdims=True) / np.float32(127)
    hidden = fake_quantized(x, np.float32(amax["x"] / 127)) @ fake_quantized(w["w1"], per_row).T + 0.5 * w["b1"]
    rectified = np.maximum(hidden, 0)
    expected = fake_quantized(rectified, np.float32(amax["r"] / 127)) @ fake_quantized(w["w2"], per_column) + w["b2"]

    got = bench.run(bench.written, x=x)
    # A hidden value at the edge of a step may fall on either side: one step of r through the largest weight.
    step = amax["r"] / 127 * np.abs(w["w2"]).max()
    assert np.mean(np.abs(got - expected) < 1e-5) > 0.99
    assert np.abs(got - expected).max() <= 1.01 * step
    assert 25 < sqnr_db(got, bench.run(model, x=x)) < 60


def test_scales_are_amax_over_127_to_the_last_bit(graphs, bench):
    model = graphs.conv_net()
    x = graphs.rng.normal(0, 1, (9, 3, 6, 5)).astype(np.float32)
    quantized = bench.quantized(model, bench.calibrated(model, x=x), precision="int8", method="max")
    values, before = initializers(bench.written), initializers(model)
    assert set(quantized.ranges) == {"x", "r1", "r2", "m"}
    for tensor, amax in quantized.ranges.items():
        assert values[f"{tensor}_scale"] == np.float32(amax / 127)
        assert values[f"{tensor}_scale"].shape == ()
    for weight, axis in (("k1", 0), ("k2", 0), ("k3", 1), ("w", 1)):
        others = tuple(i for i in range(before[weight].ndim) if i != axis)
        expected = np.abs(before[weight]).max(others) / 127
        assert values[f"{weight}_scale"] == pytest.approx(expected, rel=1e-6)
        quantizer = next(n for n in bench.written.graph.node if n.input[0] == weight)
        assert {a.name: a.i for a in quantizer.attribute}["axis"] == axis
    zeros = [value for name, value in values.items() if name.endswith("_zero_point")]
    assert len(zeros) == 8
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_only_inputs_of_weighted_nodes_and_the_convolved_shortcut_are_quantized(graphs, bench):
    model = graphs.conv_net()
    x = graphs.rng.normal(0, 1, (9, 3, 6, 5)).astype(np.float32)
    bench.quantized(model, bench.calibrated(model, x=x), precision="int8")
    written = bench.written
    assert read_through(written, "block", 0) == ("r1", "int8")
    assert read_through(written, "block", 1) == ("k2", "int8")
    assert read_through(written, "residual", 1) == ("r1", "int8")
    assert read_through(written, "residual", 0) == ("c2", "float")
    assert read_through(written, "stem", 2) == ("b1", "float")
    assert read_through(written, "head", 2) == ("b2", "float")
    onnx.checker.check_model(written, full_check=True)


def test_a_shortcut_beside_a_product_stays_float(graphs, bench):
    """ "n" is read quantized by the projections, and as it is by the sum: quantizing that costs up to 1.5 dB."""
    model = graphs.attention()
    x = graphs.rng.normal(0, 1, (9, 4, 6)).astype(np.float32)
    quantized = bench.quantized(model, bench.calibrated(model, x=x), precision="int8")
    assert read_through(bench.written, "query", 0) == ("n", "int8")
    assert read_through(bench.written, "shortcut", 1) == ("n", "float")
    assert read_through(bench.written, "scores", 0) == ("q", "int8")
    assert read_through(bench.written, "scores", 1) == ("kt", "int8")
    assert quantized.quantized == ("query", "key", "value", "scores", "mix", "output")


def test_a_quantized_tensor_that_is_an_output_stays_float_there(graphs, bench):
    model = graphs.mlp()
    model.graph.output.append(onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, ["n", 5]))
    x = graphs.rng.normal(0, 2, (50, 6)).astype(np.float32)
    bench.quantized(model, bench.calibrated(model, x=x), precision="int8", exclude=["gemm"])
    assert read_through(bench.written, "matmul", 0) == ("r", "int8")
    w = initializers(model)
    from qntz import ort

    got = ort.run(ort.session(bench.target, optimize=ort.DISABLE), {"x": x})["r"]
    assert got == pytest.approx(np.maximum(x @ w["w1"].T + 0.5 * w["b1"], 0), abs=1e-5)


def test_a_weight_that_is_also_read_otherwise_is_read_float_there(graphs, bench):
    """As with an embedding table that is tied to the last product."""
    nodes = [
        ("MatMul", ["x", "w"], ["m"], "matmul", {}),
        ("ReduceSum", ["w"], ["s"], "sum", {"keepdims": 0}),
        ("Add", ["m", "s"], ["y"], "add", {}),
    ]
    model = graphs.model(nodes, {"w": graphs.weight(6, 4)}, {"x": ["n", 6]}, {"y": ["n", 4]})
    bench.quantized(model, bench.calibrated(model, x=graphs.weight(8, 6)), precision="int8")
    assert read_through(bench.written, "matmul", 1) == ("w", "int8")
    assert read_through(bench.written, "sum", 0) == ("w", "float")


def test_a_weight_that_is_added_to_a_convolution_is_no_shortcut(graphs, bench):
    nodes = [
        ("Conv", ["x", "k"], ["a"], "conv", {}),
        ("Conv", ["a", "w"], ["b"], "narrow", {}),
        ("Add", ["a", "w"], ["c"], "add", {}),
        ("Mul", ["c", "b"], ["y"], "mul", {}),
    ]
    weights = {"k": graphs.weight(4, 3, 2, 2), "w": graphs.weight(1, 4, 1, 1)}
    model = graphs.model(nodes, weights, {"x": ["n", 3, 6, 5]}, {"y": ["n", 4, 5, 4]})
    bench.quantized(model, bench.calibrated(model, x=graphs.weight(8, 3, 6, 5)), precision="int8")
    assert read_through(bench.written, "narrow", 1) == ("w", "int8")
    assert read_through(bench.written, "add", 1) == ("w", "float")


def test_nodes_that_cannot_be_quantized_are_told_with_their_reason(graphs, bench):
    nodes = [
        ("MatMul", ["x", "w"], ["a"], "fine", {}),
        ("MatMul", ["c", "a"], ["b"], "constant_first", {}),
        ("MatMul", ["b", "deep"], ["d"], "three_dimensions", {}),
        ("Gemm", ["x", "wt"], ["e"], "other_axis", {"transB": 1}),
        ("Relu", ["w"], ["computed"], "relu", {}),
        ("Gemm", ["x", "computed"], ["f"], "computed_weight", {}),
        ("Gemm", ["x", "w"], ["g"], "same_axis", {"transA": 0}),
        ("Gemm", ["sq", "w"], ["h"], "fine_too", {}),
        ("Gemm", ["sq", "w"], ["i"], "transposed", {"transB": 1}),
        ("Cast", ["x"], ["x64"], "cast", {"to": onnx.TensorProto.DOUBLE}),
        ("MatMul", ["x64", "x64"], ["j64"], "double", {}),
        ("Cast", ["j64"], ["j"], "back", {"to": onnx.TensorProto.FLOAT}),
        ("Sum", ["d", "e", "f", "g", "h", "i", "j"], ["y"], "all", {}),
    ]
    weights = {
        "w": graphs.weight(4, 4),
        "wt": graphs.weight(4, 4),
        "c": graphs.weight(4, 4),
        "sq": graphs.weight(4, 4),
        "deep": graphs.weight(1, 4, 4),
    }
    model = graphs.model(nodes, weights, {"x": [4, 4]}, {"y": [1, 4, 4]})
    quantized = bench.quantized(model, bench.calibrated(model, x=graphs.weight(4, 4)), precision="int8")
    assert quantized.quantized == ("fine", "other_axis", "same_axis")
    assert quantized.skipped == {
        "constant_first": "its first operand is constant",
        "three_dimensions": "its weight has 3 dimensions, not 2",
        "computed_weight": "its weight is computed",
        "fine_too": "its first operand is constant",
        "transposed": "its first operand is constant",
        "double": "'x64' is double, not float32",
    }


def test_a_weight_that_two_nodes_need_along_different_axes_is_quantized_for_the_first(graphs, bench):
    nodes = [
        ("Gemm", ["x", "w"], ["a"], "rows", {}),
        ("Gemm", ["a", "w"], ["y"], "columns", {"transB": 1}),
    ]
    model = graphs.model(nodes, {"w": graphs.weight(6, 4)}, {"x": ["n", 6]}, {"y": ["n", 6]})
    quantized = bench.quantized(model, bench.calibrated(model, x=graphs.weight(8, 6)), precision="int8")
    assert quantized.quantized == ("rows",)
    assert quantized.skipped == {"columns": "it shares its weight with rows, which needs scales along another axis"}
    assert read_through(bench.written, "columns", 1) == ("w", "float")


def test_weighted_nodes_of_a_subgraph_are_told_and_stay(graphs, bench):
    model = graphs.early_exit()
    x = graphs.rng.normal(0, 1, (7, 3, 4, 5)).astype(np.float32)
    quantized = bench.quantized(model, bench.calibrated(model, x=x), precision="int8", method="max")
    assert quantized.quantized == ("conv",)
    assert quantized.skipped == {"in_then": "it lies in a subgraph of if"}
    assert 20 < sqnr_db(bench.run(bench.written, x=x), bench.run(model, x=x)) < 60


def test_an_input_of_zeros_leaves_its_node_in_float(graphs, bench):
    nodes = [
        ("MatMul", ["x", "w"], ["a"], "alive", {}),
        ("MatMul", ["z", "w2"], ["b"], "dead", {}),
        ("Add", ["a", "b"], ["y"], "add", {}),
    ]
    weights = {"w": graphs.weight(6, 4), "w2": graphs.weight(3, 4)}
    model = graphs.model(nodes, weights, {"x": ["n", 6], "z": ["n", 3]}, {"y": ["n", 4]})
    histograms = bench.calibrated(model, x=graphs.weight(8, 6), z=np.zeros((8, 3), np.float32))
    quantized = bench.quantized(model, histograms, precision="int8")
    assert quantized.quantized == ("alive",)
    assert list(quantized.ranges) == ["x"]
    assert quantized.skipped == {"dead": "its input 'z' was zero on all calibration data"}


def test_nodes_without_a_name_get_one_that_exclude_can_use(graphs, bench):
    model = graphs.mlp()
    for node in model.graph.node:
        node.name = ""
    histograms = bench.calibrated(model, x=graphs.weight(8, 6))
    quantized = bench.quantized(model, histograms, precision="int8", exclude=["MatMul_*"])
    assert quantized.quantized == ("Gemm_h",)
    assert quantized.skipped == {"MatMul_m": "excluded by 'MatMul_*'"}


@pytest.mark.parametrize("net", ["mlp", "conv_net", "attention", "early_exit"])
def test_an_engine_can_be_built(graphs, bench, rtx_build, net):
    model = getattr(graphs, net)()
    shape = [d.dim_value or 8 for d in model.graph.input[0].type.tensor_type.shape.dim]
    bench.quantized(model, bench.calibrated(model, x=graphs.weight(*shape, scale=1)), precision="int8")
    assert any(node.op_type == "QuantizeLinear" for node in bench.written.graph.node)
    size = rtx_build(bench.target.read_bytes())
    assert isinstance(size, int), size
    assert size > 1000
