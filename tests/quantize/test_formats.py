"""fp8 and int4: the numbers, the graphs that hold them, and what refuses them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from qntz import ort
from qntz.config import QuantizeConfig, build
from qntz.errors import ConfigError, QuantizeError
from qntz.packed import packed
from qntz.quantize import calibration_cache, quantize, ranges_json, runnable
from qntz.quantize.formats import FP8, INT4, INT8
from qntz.quantize.opsets import raised
from qntz.quantize.prepared import prepare
from qntz.quantize.weights import Scaling


def as_fp8(numbers: np.ndarray) -> np.ndarray:
    return np.clip(numbers, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)


def test_fp8_numbers_are_those_of_ml_dtypes():
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    every = np.sort(every[np.isfinite(every)])
    middles = (every[1:] + every[:-1]) / 2  # ties
    random = np.random.default_rng(0).normal(0, 1, 9999) * np.exp2(np.random.default_rng(1).uniform(-14, 10, 9999))
    for numbers in (every, middles, random, np.float64([0, -0.0, 2**-10, 2**-9, 1e-30, 448.1, 463, 1e9])):
        np.testing.assert_array_equal(FP8.rounded(numbers), as_fp8(numbers))


def test_int_numbers_end_at_their_ends():
    numbers = np.float64([-200, -8.6, -0.5, 0.5, 1.5, 6.4, 7.7, 127.5, 300])
    assert INT8.rounded(numbers).tolist() == [-128, -9, 0, 0, 2, 6, 8, 127, 127]
    assert INT4.rounded(numbers).tolist() == [-8, -8, 0, 0, 2, 6, 7, 7, 7]


@pytest.mark.parametrize(("format", "amax"), [(INT8, 5.0), (INT8, 0.7), (FP8, 9.0), (FP8, 0.8), (FP8, 2000.0)])
def test_the_noise_expected_is_what_rounding_makes(format, amax):
    values = np.abs(np.random.default_rng(2).normal(0, 1.5, 200_000))
    scale = amax / format.largest
    made = np.square(values - format.rounded(values / scale) * scale).sum()
    assert format.noise(values, amax).sum() == pytest.approx(made, rel=0.03)


def with_fp8(array: np.ndarray, scale) -> np.ndarray:
    scale = np.float64(np.float32(scale))
    return as_fp8((array / np.float32(scale)).astype(np.float32)) * scale


def test_an_fp8_graph_computes_what_numpy_does(graphs, bench, rtx_build):
    model = graphs.mlp()
    x = graphs.weight(90, 6, scale=1)
    histograms = bench.calibrated(model, x=x)
    done = bench.quantized(model, histograms, precision="fp8", method="max", correct_biases=False)
    held = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    first = np.abs(held["w1"]).max(1) / 448
    h = with_fp8(x, np.abs(x).max() / 448) @ with_fp8(held["w1"], first[:, None]).T + 0.5 * held["b1"]
    r = np.maximum(h, 0)
    second = np.abs(held["w2"]).max(0) / 448
    wanted = with_fp8(r, histograms["r"].amax / 448) @ with_fp8(held["w2"], second) + held["b2"]
    got = bench.run(bench.written, x=x)
    exact = bench.run(model, x=x)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=0.2 * np.abs(got - exact).max())  # a tie may round otherwise
    assert np.abs(got - wanted).mean() < 0.02 * np.abs(got - exact).mean()
    assert ranges_json(done)["tensors"]["x"] == {
        "amax": histograms["x"].amax,
        "scale": float(np.float32(histograms["x"].amax / 448)),
    }
    assert calibration_cache(done).count(b"\n") == 1  # int8's alone
    types = {one.name: one.data_type for one in bench.written.graph.initializer}
    assert {types[f"{name}_zero_point"] for name in ("x", "r", "w1", "w2")} == {TensorProto.FLOAT8E4M3FN}
    assert done.notes == ("the graph is of opset 19, not 17, which has no such Q/DQ",)
    size = rtx_build(bench.target.read_bytes())
    assert isinstance(size, int), size


def test_onnx_runtime_does_not_drop_what_stands_before_fp8(graphs, bench):
    """Its optimizers do, of themselves."""
    import onnxruntime

    for clip in ("Relu", "Clip"):
        model = graphs.mlp()
        if clip == "Clip":
            node = next(one for one in model.graph.node if one.op_type == "Relu")
            node.op_type = "Clip"
            node.input.extend(["zero", "six"])
            for name, value in (("zero", 0), ("six", 6)):
                model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
        x = graphs.weight(90, 6, scale=9)
        done = bench.quantized(model, bench.calibrated(model, x=x), precision="fp8", method="max")
        plain = bench.run(done.file, x=x)
        np.testing.assert_allclose(ort.run(ort.session(done.file), {"x": x})["y"], plain, rtol=1e-5, atol=1e-5)
        if clip == "Clip":
            continue  # that one it does not even load
        theirs = onnxruntime.InferenceSession(done.file.data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        if np.allclose(theirs, plain, rtol=1e-3):
            pytest.fail("ONNX Runtime is mended: qntz.ort.WRONG and the refusal of fp8 by its backend may go")


@pytest.mark.parametrize("net", ["mlp", "conv_net", "attention"])
def test_fp8_takes_channels_of_very_unequal_ranges_as_they_are(graphs, bench, rtx_build, net):
    """Its steps grow with the magnitude, so that rescaling has nothing to do."""
    model = getattr(graphs, net)()
    x = graphs.weight(*[dim.dim_value or 7 for dim in model.graph.input[0].type.tensor_type.shape.dim], scale=1)
    if net != "attention":  # one that is large is read by weights that are small
        x[:, 1] *= 60
        first = model.graph.initializer[0]
        array = numpy_helper.to_array(first).copy()
        array[:, 1] /= 60
        first.CopyFrom(numpy_helper.from_array(array, first.name))
    histograms = bench.calibrated(model, x=x)
    wanted = bench.run(model, x=x)

    def sqnr(**config) -> float:
        done = bench.quantized(model, histograms, method="max", **config)
        got = ort.run(ort.session(runnable(done.file)), {"x": x})["y"]
        return 10 * np.log10(np.square(wanted).sum() / np.square(got - wanted).sum())

    plain = sqnr(precision="fp8")
    assert plain > 24
    assert abs(sqnr(precision="fp8", elsewhere="fp16") - plain) < 3
    size = rtx_build(bench.target.read_bytes())
    assert isinstance(size, int), size
    if net != "attention":
        assert plain > sqnr(precision="int8", rescale=False) + 5
    told = bench.quantized(model, histograms, precision="fp8", method="max", rescale=False).notes
    assert told[-1] == "rescale has no effect on fp8"


def test_methods_that_know_int8s_steps_are_refused_and_not_compared(graphs, bench):
    model = graphs.mlp()
    x = graphs.weight(90, 6, scale=1)
    histograms = bench.calibrated(model, x=x)
    with pytest.raises(QuantizeError) as caught:
        bench.quantized(model, histograms, precision="fp8")
    assert str(caught.value) == "quantize.method: method 'mse' is for int8, not fp8. Set method: max."
    with pytest.raises(QuantizeError, match="quantize.layers.gemm.method: method 'entropy' is for int8, not fp8"):
        bench.quantized(model, histograms, precision="fp8", method="max", layers={"gemm": {"method": "entropy"}})
    config = QuantizeConfig(precision="fp8", method="auto")
    held_out = [({"x": graphs.weight(9, 6, scale=1)}, None)]
    done = quantize(bench.source, histograms, None, config, methods=bench.methods, held_out=held_out)
    assert {one["method"] for one in done.compared} == {"max", "percentile"}


def wide(graphs, inputs: int = 192) -> onnx.ModelProto:
    """Gemm (weight transposed), Relu, MatMul whose weight a second node reads too, and one of too few inputs."""
    nodes = [
        ("Gemm", ["x", "w1", "b1"], ["h"], "gemm", {"transB": 1}),
        ("Relu", ["h"], ["r"], "relu", {}),
        ("MatMul", ["r", "w2"], ["m"], "matmul", {}),
        ("Add", ["m", "b2"], ["a"], "bias", {}),
        ("ReduceSum", ["w2"], ["s"], "sum", {"keepdims": 0}),
        ("Mul", ["a", "s"], ["p"], "times", {}),
        ("MatMul", ["p", "w3"], ["y"], "head", {}),
    ]
    weights = {
        "w1": graphs.weight(256, inputs),
        "b1": graphs.weight(256),
        "w2": graphs.weight(256, 10),
        "b2": graphs.weight(10),
        "w3": graphs.weight(10, 3),
    }
    return graphs.model(nodes, weights, {"x": ["n", inputs]}, {"y": ["n", 3]})


def stored(model: onnx.ModelProto, name: str) -> tuple[np.ndarray, np.ndarray]:
    held = {one.name: one for one in model.graph.initializer}
    assert held[f"{name}_quantized"].data_type == TensorProto.INT4
    numbers = numpy_helper.to_array(held[f"{name}_quantized"]).astype(np.float64)
    return numbers, numpy_helper.to_array(held[f"{name}_scale"]).astype(np.float64)


@pytest.mark.parametrize("elsewhere", ["fp32", "fp16"])
def test_int4_stores_weights_by_blocks(graphs, bench, rtx_build, elsewhere):
    model = wide(graphs)
    held = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer}
    done = bench.quantized(model, precision="int4", correct_biases=False, elsewhere=elsewhere)
    assert done.quantized == ("gemm", "matmul")
    assert done.skipped["head"] == "its 10 inputs are no multiple of 64"
    (n1, s1), (n2, s2) = stored(bench.written, "w1"), stored(bench.written, "w2")
    assert (n1.shape, s1.shape) == ((256, 192), (256, 3))  # 128 does not divide 192
    assert (n2.shape, s2.shape) == ((256, 10), (2, 10))
    w1, w2 = n1 * np.repeat(s1, 64, 1), n2 * np.repeat(s2, 128, 0)
    if elsewhere == "fp32":
        x = graphs.weight(5, 192, scale=1)
        hidden = np.maximum(x @ w1.T + held["b1"], 0)
        wanted = ((hidden @ w2 + held["b2"]) * held["w2"].sum()) @ held["w3"]
        np.testing.assert_allclose(bench.run(bench.written, x=x), wanted, rtol=1e-4, atol=1e-4)
    for weight, made, axis, block in ((held["w1"], w1, 1, 64), (held["w2"], w2, 0, 128)):
        plain_scale = (
            np.abs(np.stack(np.split(weight, weight.shape[axis] // block, axis))).max(1 + axis, keepdims=True) / 7
        )
        plain = np.concatenate(
            list(np.rint(np.stack(np.split(weight, weight.shape[axis] // block, axis)) / plain_scale) * plain_scale),
            axis,
        )
        assert np.square(made - weight).sum() < 0.95 * np.square(plain - weight).sum()
    db = 10 * np.log10(np.square(held["w1"]).sum() / np.square(w1 - held["w1"]).sum())
    assert done.layers["gemm"]["weight_db"] == pytest.approx(db, abs=0.01 if elsewhere == "fp32" else 0.1)
    assert done.layers["gemm"]["input_db"] is None
    assert len(done.file.data) < (len(bench.source.read_bytes()) - 4 * 256 * 10) / 3
    size = rtx_build(bench.target.read_bytes())
    assert isinstance(size, int), size


def test_int4_corrects_biases_by_what_calibration_saw(graphs, bench):
    model = wide(graphs)
    x = (np.random.default_rng(4).normal(0.7, 1, (60, 192))).astype(np.float32)
    histograms = bench.calibrated(model, x=x)
    wanted = bench.run(model, x=x)
    noise = {}
    for correct in (False, True):
        done = bench.quantized(model, histograms, precision="int4", correct_biases=correct)
        noise[correct] = np.square(bench.run(bench.written, x=x) - wanted).mean()
        assert done.corrected == (("gemm", "matmul") if correct else ())
    assert noise[True] < 0.5 * noise[False]


def test_int4_needs_a_matrix(graphs, bench):
    with pytest.raises(QuantizeError) as caught:
        bench.quantized(graphs.conv_net(), precision="int4")
    assert str(caught.value) == (
        "int4 would quantize nothing: int4 is for the weights of Gemm and MatMul;"
        " its 6 inputs are no multiple of 64. Choose another precision."
    )
    for block in (0, 32, 129):
        with pytest.raises(ConfigError, match=f"^block: {block} inputs share no scale in TensorRT. Give 64 or 128.$"):
            QuantizeConfig(precision="int4", block=block)


def test_zero_blocks_and_the_lowest_number():
    weight = np.zeros((128, 3), np.float32)
    weight[:, 1] = np.tile(np.arange(-8, 8), 8) / 8  # exact at a scale of 1 / 8
    weight[5, 2] = -3
    scaling = Scaling(INT4, block=64)
    scales = scaling.scales(weight, 1, "w")
    assert scales.shape == (2, 3)
    lost = scaling.lost(weight, 1, scales)
    assert np.abs(lost).max() < 1e-6
    assert not lost[:, :2].any()
    turned = weight.T.copy()
    np.testing.assert_array_equal(scaling.lost(turned, 0, scaling.scales(turned, 0, "w")), lost.T)


def test_onnx_runtime_does_not_round_what_int4_weights_read(graphs, bench):
    """Of itself it makes the input int8 too."""
    nodes = [("MatMul", ["x", "w"], ["y"], "matmul", {})]
    model = graphs.model(nodes, {"w": graphs.weight(256, 24)}, {"x": ["n", 256]}, {"y": ["n", 24]})
    done = bench.quantized(model, precision="int4", correct_biases=False)
    x = graphs.weight(40, 256, scale=1)
    x[:, 3] *= 200  # int8 would lose the others
    plain, ours = bench.run(done.file, x=x), ort.run(ort.session(done.file), {"x": x})["y"]
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)
    import onnxruntime

    theirs = onnxruntime.InferenceSession(done.file.data, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    if np.allclose(theirs, plain, rtol=1e-3, atol=1e-3):
        pytest.skip("this processor's kernels do not round the input")


def test_convolutions_in_fp8_are_those_of_the_graph_under_the_default_session(graphs, bench):
    nodes = [
        ("Conv", ["x", "k1"], ["c"], "first", {"pads": [1, 1, 1, 1]}),
        ("Conv", ["c", "k2"], ["d"], "second", {}),
        ("Conv", ["d", "k3"], ["y"], "third", {}),
    ]
    weights = {"k1": graphs.weight(4, 3, 3, 3), "k2": graphs.weight(5, 4, 2, 2), "k3": graphs.weight(2, 5, 1, 1)}
    model = graphs.model(nodes, weights, {"x": ["n", 3, 6, 5]}, {"y": ["n", 2, 5, 4]})
    x = graphs.weight(4, 3, 6, 5, scale=1)
    done = bench.quantized(model, bench.calibrated(model, x=x), precision="fp8", method="max")
    plain, ours = bench.run(done.file, x=x), ort.run(ort.session(done.file), {"x": x})["y"]
    assert np.square(ours - plain).sum() < 1e-3 * np.square(bench.run(model, x=x) - plain).sum()


def test_a_graph_with_branches_is_raised_whole(graphs, bench):
    model = graphs.early_exit()
    x = graphs.weight(3, 3, 4, 5, scale=1)
    histograms = bench.calibrated(model, x=x)
    done = bench.quantized(model, histograms, precision="fp8", method="max", elsewhere="fp16")
    assert done.quantized == ("conv",)
    for sign in (1, -1):  # either branch
        wanted = bench.run(model, x=sign * x)
        got = ort.run(ort.session(runnable(done.file)), {"x": sign * x})["y"]
        np.testing.assert_allclose(got, wanted, atol=0.1 * np.abs(wanted).max())


def test_weights_that_others_read_stay_floating_for_them_and_are_told(graphs, bench):
    nodes = [
        ("Gather", ["table", "ids"], ["e"], "embed", {}),
        ("MatMul", ["e", "head"], ["a"], "one", {}),
        ("MatMul", ["x", "head"], ["b"], "two", {}),
        ("MatMul", ["x", "table"], ["c"], "tied", {}),
        ("Add", ["a", "b"], ["s"], "sum", {}),
        ("Concat", ["s", "c"], ["y"], "join", {"axis": 1}),
    ]
    weights = {"table": graphs.weight(128, 128), "head": graphs.weight(128, 5), "ids": np.int64([3, 1, 2, 0])}
    model = graphs.model(nodes, weights, {"x": [4, 128]}, {"y": [4, 133]})
    done = bench.quantized(model, precision="int4", correct_biases=False)
    assert done.quantized == ("one", "two", "tied")
    assert done.notes[0] == "table is stored in floating point too: what is not quantized reads it"
    assert [node.op_type for node in bench.written.graph.node].count("DequantizeLinear") == 2
    (n1, s1), (n2, s2) = stored(bench.written, "head"), stored(bench.written, "table")
    head, table = n1 * np.repeat(s1, 128, 0), n2 * np.repeat(s2, 128, 0)
    x = graphs.weight(4, 128, scale=1)
    wanted = np.concatenate([weights["table"][weights["ids"]] @ head + x @ head, x @ table], 1)
    np.testing.assert_allclose(bench.run(bench.written, x=x), wanted, rtol=1e-4, atol=1e-4)


def test_int4_in_half_precision_computes_what_it_stores(graphs, bench):
    model = wide(graphs)
    done = bench.quantized(model, precision="int4", correct_biases=False, elsewhere="fp16")
    x = graphs.weight(5, 192, scale=1)
    (n1, s1), (n2, s2) = stored(bench.written, "w1"), stored(bench.written, "w2")
    held = {one.name: numpy_helper.to_array(one).astype(np.float64) for one in model.graph.initializer}
    hidden = np.maximum(x @ (n1 * np.repeat(s1, 64, 1)).T + held["b1"], 0)
    wanted = ((hidden @ (n2 * np.repeat(s2, 128, 0)) + held["b2"]) * held["w2"].sum()) @ held["w3"]
    got = ort.run(ort.session(runnable(done.file)), {"x": x})["y"]
    np.testing.assert_allclose(got, wanted, atol=0.01 * np.abs(wanted).max())


def test_int4_asks_for_no_method_and_says_what_it_leaves(graphs, bench):
    model = wide(graphs)
    done = bench.quantized(model, precision="int4", correct_biases=True, method="auto")
    assert done.compared == ()
    assert done.corrected == ()
    assert done.notes[:1] == ("no calibration data of what gemm, matmul read: biases stay",)
    assert done.notes[-1] == "method has no effect on int4"
    assert done.layers["gemm"]["block"] == 64
    assert done.layers["matmul"]["block"] == 128
    nodes = [("MatMul", ["x", "w"], ["y"], "head", {})]
    small = graphs.model(nodes, {"w": graphs.weight(10, 3)}, {"x": [2, 10]}, {"y": [2, 3]})
    with pytest.raises(QuantizeError, match="int4 would quantize nothing: its 10 inputs are no multiple of 64"):
        bench.quantized(small, precision="int4", exclude=["head"])


def test_each_layer_can_be_toggled(graphs, bench):
    model = wide(graphs)
    x = graphs.weight(30, 192, scale=1)
    histograms = bench.calibrated(model, x=x)
    for precision, extra in (("fp8", {"method": "max"}), ("int4", {})):
        config = QuantizeConfig(precision=precision, **extra)
        ready = prepare(onnx.load(bench.source), bench.source, histograms, config, bench.methods, (), None, {})
        one, _ = ready.graph({"matmul"})
        onnx.checker.check_model(one, full_check=True)
        assert sum(node.op_type == "DequantizeLinear" for node in one.graph.node) == (2 if precision == "fp8" else 1)
        assert all(one.data_type == TensorProto.FLOAT for one in ready.graph(())[0].graph.initializer)


def test_a_graph_of_an_old_opset_is_raised_and_proven(graphs, bench, monkeypatch):
    model = graphs.conv_net()  # ReduceMean's axes become an input at 18
    onnx.save(model, bench.source)
    x = graphs.weight(2, 3, 6, 5, scale=1)
    higher = raised(model, 21, bench.source, [{"x": x}], "quantize.precision")
    assert [one.version for one in higher.opset_import] == [21]
    np.testing.assert_array_equal(bench.run(higher, x=x), bench.run(model, x=x))
    assert raised(higher, 19, bench.source, (), "") is higher
    convert = onnx.version_converter.convert_version

    def wrong(model, opset):
        made = convert(model, opset)
        head = next(one for one in made.graph.initializer if one.name == "b2")
        head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head) + np.float32(1e-3), "b2"))
        return made

    monkeypatch.setattr(onnx.version_converter, "convert_version", wrong)
    with pytest.raises(QuantizeError) as caught:
        raised(model, 21, bench.source, [{"x": x}], "quantize.precision")
    assert str(caught.value) == (
        "quantize.precision: opset 21 changes what the model computes: output 'y' is another on probe 0."
        " Set export.opset to 20."
    )


def test_what_needs_calibration_data():
    def needed(**settings) -> bool:
        return build(QuantizeConfig, settings).calibrated

    assert needed(precision="int8")
    assert needed(precision="fp8")
    assert needed(precision="int4", correct_biases=True)
    assert not needed(precision="int4", correct_biases=False)
    assert not needed(precision="bf16")


def test_a_bias_of_one_value_stays_as_it_is(graphs, bench, rtx_build):
    for shape in ((), (1,), (1, 5), (7, 1)):
        nodes = [("Gemm", ["x", "w", "b"], ["y"], "gemm", {})]
        model = graphs.model(
            nodes, {"w": graphs.weight(6, 5), "b": graphs.weight(*shape) + 9}, {"x": [7, 6]}, {"y": [7, 5]}
        )
        x = graphs.weight(7, 6, scale=1)
        done = bench.quantized(model, bench.calibrated(model, x=x), precision="int8")
        assert done.quantized == ("gemm",)
        got, wanted = bench.run(bench.written, x=x), bench.run(model, x=x)
        np.testing.assert_allclose(got, wanted, atol=0.1)
        size = rtx_build(packed(bench.written, "q.onnx").data)
        assert isinstance(size, int), size


def test_what_the_converter_loses_is_refused(graphs, bench):
    model = graphs.mlp()
    x = graphs.weight(9, 6, scale=1)
    histograms = bench.calibrated(model, x=x)
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    assert bench.quantized(model, histograms, precision="fp8", method="max").quantized == ("gemm", "matmul")
    made = onnx.helper.make_function(
        "acme",
        "Twice",
        ["a"],
        ["b"],
        [onnx.helper.make_node("Add", ["a", "a"], ["b"])],
        [onnx.helper.make_opsetid("", 17)],
    )
    model.functions.append(made)
    with pytest.raises(QuantizeError) as caught:
        bench.quantized(model, histograms, precision="int8", elsewhere="fp16")
    assert str(caught.value) == (
        "quantize.elsewhere: ONNX cannot convert the graph from opset 17 to 19: it has functions of its own."
        " Set export.opset to 19."
    )


def test_layers_may_name_what_stays_floating(graphs, bench):
    model = graphs.mlp()
    histograms = bench.calibrated(model, x=np.zeros((4, 6), np.float32))
    layers = {"gemm": {"method": "max"}}
    done = bench.quantized(model, histograms, precision="int8", layers=layers)
    assert done.skipped["gemm"] == "its input 'x' was zero on all calibration data"
