"""fp16 and bf16: rounding against NumPy and torch, slots that stay float32, the twin, and engines."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qntz.compare import relative_error, sqnr_db
from qntz.errors import QuantizeError
from qntz.packed import packed, read_packed
from qntz.quantize import runnable
from qntz.quantize.half import NOT_IN_BFLOAT16, rounded

EPSILON = {"fp16": 2.0**-11, "bf16": 2.0**-8}  # half a unit in the last place of 1
HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}


def test_rounding_to_bfloat16_is_torchs():
    import torch

    values = np.random.default_rng(0).normal(0, 1, 4000) * 10 ** np.linspace(-38, 37, 4000)
    values = np.concatenate([values, [0.0, -0.0, np.inf, -np.inf, 1.00390625, 1.01171875]]).astype(np.float32)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(rounded(values, TensorProto.BFLOAT16), expected)


def test_finite_values_stay_finite():
    largest = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max], np.float32)
    assert rounded(largest, TensorProto.BFLOAT16).tolist() == [0x7F7F, 0xFF7F]
    assert rounded(largest, TensorProto.FLOAT16).tolist() == [65504.0, -65504.0]
    assert np.isinf(rounded(np.array([np.inf], np.float32), TensorProto.FLOAT16)).all()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("net", ["mlp", "conv_net", "attention", "early_exit"])
def test_nets_stay_within_their_rounding(graphs, bench, precision, net):
    model = getattr(graphs, net)()
    shape = [d.dim_value or 8 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = graphs.weight(*shape, scale=1)
    bench.quantized(model, precision=precision)
    reference, got = bench.run(model, x=x), bench.run(runnable(read_packed(bench.target)), x=x)
    assert got.dtype == np.float32
    # At most eight roundings in a row are seen at the output, each of half a unit in the last place.
    assert 0 < relative_error(got, reference) < 8 * EPSILON[precision]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_all_inside_is_half_and_the_ends_are_float32(graphs, bench, precision):
    model = graphs.conv_net()
    quantized = bench.quantized(model, precision=precision)
    written = bench.written
    kinds = {tensor.name: tensor.data_type for tensor in written.graph.initializer}
    assert written.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert written.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    wide = {"up"} if precision == "bf16" else set()
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT} == ({"k3_float32"} if wide else set())
    inner = {name: kind for name, kind in types(written).items() if name in ("c1", "r1", "c2", "a", "r2", "t", "m")}
    assert inner == dict.fromkeys(("c1", "r1", "c2", "a", "r2", "t", "m"), HALF[precision])
    assert set(quantized.skipped) == wide
    assert set(quantized.quantized) == {n.name for n in model.graph.node} - wide


def test_the_twin_of_bfloat16_is_close_to_torch_in_bfloat16(graphs, bench):
    """Same rounding after each operator; torch and ONNX Runtime add in another order, and torch fuses bias and sum, so
    that a value may end on the other side of a rounding: two units in the last place of the largest."""
    import torch
    from torch.nn import functional

    nodes = [
        ("Gemm", ["x", "w1", "b1"], ["h"], "gemm", {"transB": 1}),
        ("Tanh", ["h"], ["t"], "tanh", {}),
        ("LayerNormalization", ["t", "scale", "shift"], ["n"], "norm", {}),
        ("Gemm", ["n", "w2", "b2"], ["y"], "gemm2", {"transB": 1}),
    ]
    weights = {
        "w1": graphs.weight(9, 6),
        "b1": graphs.weight(9),
        "scale": 1 + graphs.weight(9),
        "shift": graphs.weight(9),
        "w2": graphs.weight(4, 9),
        "b2": graphs.weight(4),
    }
    model = graphs.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 4]})
    x = graphs.weight(40, 6, scale=1)
    bench.quantized(model, precision="bf16")
    got = bench.run(runnable(read_packed(bench.target)), x=x)
    w = {name: torch.from_numpy(array).bfloat16() for name, array in weights.items()}
    hidden = functional.linear(torch.from_numpy(x).bfloat16(), w["w1"], w["b1"]).tanh()
    normed = functional.layer_norm(hidden, (9,), w["scale"], w["shift"])
    expected = functional.linear(normed, w["w2"], w["b2"]).float().numpy()
    assert relative_error(got, expected) <= 2 * 2.0**-7
    assert sqnr_db(got, expected) > sqnr_db(bench.run(model, x=x), expected) - 1
    bits = got.view(np.uint32)
    assert not (bits & 0xFFFF).any()  # every output is a bfloat16


def test_the_twin_shows_an_overflow_that_onnx_runtime_hides(graphs, bench):
    nodes = [("Mul", ["x", "x"], ["m"], "square", {}), ("Sqrt", ["m"], ["y"], "sqrt", {})]
    model = graphs.model(nodes, {}, {"x": ["n"]}, {"y": ["n"]})
    x = np.array([300.0, 2.0], np.float32)
    bench.quantized(model, precision="fp16")
    assert bench.run(runnable(read_packed(bench.target)), x=x).tolist() == [np.inf, 2.0]
    assert bench.run(bench.written, x=x).tolist() == [300.0, 2.0]


def test_the_twin_of_a_float32_model_is_the_model(graphs):
    model = packed(graphs.mlp(), "model.onnx")
    assert runnable(model) is model


def test_the_twin_keeps_half_inputs_and_outputs():
    nodes = [helper.make_node("Mul", ["x", "x"], ["m"], "mul"), helper.make_node("Relu", ["m"], ["y"], "relu")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    from qntz import ort

    x = np.array([3.0, 0.1, 300.0], np.float16)
    got = ort.run(ort.session(runnable(packed(model, "model.onnx"))), {"x": x})["y"]
    assert got.dtype == np.float16
    assert got.tolist() == [9.0, float(np.float16(0.1) * np.float16(0.1)), np.inf]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_slots_that_onnx_holds_in_float32_stay_so(graphs, bench, precision):
    """Range takes no half, the scales of Resize neither; the constants behind them keep all their digits."""
    nodes = [
        ("Resize", ["x", "", "scales"], ["r"], "resize", {"mode": "linear"}),
        ("Range", ["start", "stop", "step"], ["range"], "range", {}),
        ("Mul", ["r", "range"], ["m"], "mul", {}),
        ("Mul", ["m", "step"], ["y"], "mul2", {}),
    ]
    weights = {
        "scales": np.array([1, 1, 1, 1.8], np.float32),
        "start": np.array(0.1, np.float32),
        "stop": np.array(0.75, np.float32),
        "step": np.array(0.1, np.float32),
    }
    model = graphs.model(nodes, weights, {"x": ["n", 2, 3, 4]}, {"y": ["n", 2, 3, None]})
    quantized = bench.quantized(model, precision=precision)
    kept = {t.name: numpy_helper.to_array(t) for t in bench.written.graph.initializer}
    assert kept["scales_float32"].tolist() == weights["scales"].tolist()
    assert "scales" not in kept
    assert kept["step_float32"] == np.float32(0.1)
    assert kept["step"].dtype != np.float32  # the Mul reads it in half
    assert quantized.skipped == {"range": f"Range takes no {'float16' if precision == 'fp16' else 'bfloat16'} in ONNX"}
    x = graphs.weight(2, 2, 3, 4, scale=1)
    got = bench.run(runnable(read_packed(bench.target)), x=x)
    assert 0 < relative_error(got, bench.run(model, x=x)) < 5 * EPSILON[precision]


def test_excluded_nodes_compute_in_float32(graphs, bench):
    model = graphs.mlp()
    quantized = bench.quantized(model, precision="bf16", exclude=["gemm", "re*"])
    kinds = types(bench.written)
    by_name = {node.name: node for node in bench.written.graph.node}
    assert kinds[by_name["gemm"].output[0]] == TensorProto.FLOAT
    assert kinds[by_name["relu"].output[0]] == TensorProto.FLOAT
    assert kinds["m"] == TensorProto.BFLOAT16
    assert quantized.skipped == {"gemm": "excluded by 'gemm'", "relu": "excluded by 're*'"}
    assert quantized.quantized == ("matmul", "bias")


def test_an_if_cannot_be_excluded_apart_from_its_branches(graphs, bench):
    with pytest.raises(QuantizeError, match=r"^quantize\.exclude: pattern 'if' matches no node that would be"):
        bench.quantized(graphs.early_exit(), precision="fp16", exclude=["if"])
    assert bench.quantized(graphs.early_exit(), precision="fp16", exclude=["*"]).quantized == ()


def test_a_constant_may_be_an_output(graphs, bench):
    nodes = [("Range", ["start", "x", "start"], ["y"], "range", {})]
    weights = {"start": np.array(0.1, np.float32)}
    model = graphs.model(nodes, weights, {"x": []}, {"start": [], "y": [None]})
    bench.quantized(model, precision="fp16")
    got = bench.run(bench.target.read_bytes(), x=np.array(1, np.float32))
    assert got == np.float32(np.float16(0.1))


def test_constants_beyond_half_are_clipped_and_told(graphs, bench):
    nodes = [
        ("Add", ["x", "mask"], ["a"], "mask", {}),
        ("Add", ["a", "epsilon"], ["e"], "guard", {}),
        ("Where", ["flags", "e", "huge"], ["y"], "where", {}),
    ]
    weights = {
        "mask": np.array([0, -3.4e38, -1e5, -np.inf], np.float32),
        "epsilon": np.array(1e-12, np.float32),
        "flags": np.array([True, True, True, False]),
        "huge": np.array([1e5], np.float32),
    }
    model = graphs.model(nodes, weights, {"x": ["n", 4]}, {"y": ["n", 4]})
    quantized = bench.quantized(model, precision="fp16")
    assert {name: one["what"] for name, one in quantized.constants.items()} == {
        "mask": "2 of 4 values clipped to 65504",
        "epsilon": "1e-12 raised to 5.96046e-08, the least above zero",
        "huge": "1 of 1 values clipped to 65504",
    }
    kept = {t.name: numpy_helper.to_array(t) for t in bench.written.graph.initializer}
    assert kept["mask"].tolist() == [0, -65504, -65504, -np.inf]
    assert kept["epsilon"] == 2.0**-24
    wide = bench.quantized(model, precision="bf16").constants
    assert {name: one["what"] for name, one in wide.items()} == {"mask": "1 of 4 values clipped to 3.38953e+38"}


def test_constants_in_attributes_are_converted(graphs, bench):
    value = numpy_helper.from_array(np.array([0.1], np.float32))
    nodes = [
        ("Constant", [], ["c"], "c", {"value_float": 0.1}),
        ("Constant", [], ["d"], "d", {"value_floats": [0.1, 0.2]}),
        ("Shape", ["x"], ["s"], "shape", {}),
        ("ConstantOfShape", ["s"], ["z"], "zeros", {}),
        ("ConstantOfShape", ["s"], ["o"], "filled", {"value": value}),
        ("Cast", ["s"], ["sf"], "cast", {"to": TensorProto.FLOAT}),
        ("Sum", ["x", "c", "d", "z", "o", "sf"], ["y"], "sum", {}),
    ]
    model = graphs.model(nodes, {}, {"x": [2, 2]}, {"y": [2, 2]})
    x = graphs.weight(2, 2)
    for precision in ("fp16", "bf16"):
        bench.quantized(model, precision=precision)
        assert {types(bench.written)[name] for name in ("c", "d", "z", "o", "sf")} == {HALF[precision]}
        got = bench.run(runnable(read_packed(bench.target)), x=x)
        assert 0 < relative_error(got, bench.run(model, x=x)) < 6 * EPSILON[precision]


def test_an_operator_of_unknown_type_is_refused(graphs, bench):
    model = graphs.mlp()
    model.graph.node.insert(3, helper.make_node("Custom", ["m"], ["m2"], "custom", domain="acme"))
    model.graph.node[4].input[0] = "m2"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(QuantizeError) as caught:
        bench.quantized(model, precision="fp16")
    assert str(caught.value) == (
        "Custom custom: the type of 'm2' is unknown: the operator has to stay in float32 and ONNX cannot infer its"
        " types. Keep this engine in fp32, or add the types by a graph pass."
    )
    model.graph.value_info.append(helper.make_tensor_value_info("m2", TensorProto.FLOAT, ["n", 4]))
    assert bench.quantized(model, precision="fp16").skipped == {"custom": "Custom takes no float16 in ONNX"}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("net", ["mlp", "conv_net", "attention", "early_exit"])
def test_an_engine_can_be_built(graphs, bench, rtx_build, net, precision):
    bench.quantized(getattr(graphs, net)(), precision=precision)
    size = rtx_build(bench.target.read_bytes())
    assert isinstance(size, int), size
    assert size > 1000


@pytest.mark.parametrize("operator", NOT_IN_BFLOAT16)
def test_what_tensorrt_refuses_in_bfloat16_still_builds(graphs, bench, rtx_build, operator):
    """And would not, were it not kept in float32: otherwise the entry can go."""
    weights = {"w": graphs.weight(3, 4, 2, 2)} if operator == "ConvTranspose" else {}
    attributes = {"kernel_shape": [2, 2]} if operator == "LpPool" else {}
    nodes = [
        ("Relu", ["x"], ["r"], "relu", {}),
        (operator, ["r", *weights], ["z"], "node", attributes),
        ("Relu", ["z"], ["y"], "relu2", {}),
    ]
    model = graphs.model(nodes, weights, {"x": [2, 3, 4, 5]}, {"y": [None] * 4}, opset=18)
    bench.quantized(model, precision="bf16")
    size = rtx_build(bench.target.read_bytes())
    assert isinstance(size, int), size
    naive = bench.written
    for node in naive.graph.node:
        for attribute in node.attribute:
            if node.name.startswith(("z_", "r/Cast")) and attribute.name == "to":
                attribute.i = TensorProto.BFLOAT16
    for tensor in naive.graph.initializer:
        values = rounded(numpy_helper.to_array(tensor).astype(np.float32), TensorProto.BFLOAT16)
        name, shape = tensor.name, tuple(tensor.dims)
        tensor.CopyFrom(helper.make_tensor(name, TensorProto.BFLOAT16, shape, values.tobytes(), raw=True))
    assert isinstance(rtx_build(naive.SerializeToString()), str)
