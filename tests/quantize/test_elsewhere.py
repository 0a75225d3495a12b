"""int8 with float16 elsewhere, and graphs that the peers' defaults make and TensorRT refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from qntz import ort
from qntz.errors import ConfigError, QuantizeError
from qntz.quantize import runnable


def with_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Of a graph whose operators did not change in between."""
    model.opset_import[0].version = opset
    onnx.checker.check_model(model, full_check=True)
    return model


def test_int8_and_half_share_the_graph(graphs, bench, rtx_build):
    model = with_opset(graphs.mlp(), 19)
    x = graphs.weight(90, 6, scale=1)
    histograms = bench.calibrated(model, x=x)
    wanted = bench.run(model, x=x)
    plain = bench.quantized(model, histograms, precision="int8", correct_biases=True, rescale=True)
    int8 = bench.run(plain.file, x=x)
    done = bench.quantized(model, histograms, precision="int8", elsewhere="fp16", correct_biases=True, rescale=True)
    graph = bench.written.graph
    held = {one.name: one for one in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(pairs) == 8
    assert {held[node.input[1]].data_type for node in pairs} == {TensorProto.FLOAT16}
    assert {held[node.input[2]].data_type for node in pairs} == {TensorProto.INT8}
    assert {one.data_type for name, one in held.items() if name.startswith("w")} <= {
        TensorProto.FLOAT16,
        TensorProto.INT8,
    }
    assert done.quantized == plain.quantized == ("gemm", "matmul")
    assert done.ranges.keys() == plain.ranges.keys()
    for name, amax in done.ranges.items():  # of the scales as they are written
        scale = float(numpy_helper.to_array(held[f"{name}_scale"]))
        assert amax == pytest.approx(scale * 127, rel=1e-12)
        assert scale == np.float16(plain.ranges[name] / 127)
    got = ort.run(ort.session(runnable(done.file)), {"x": x})["y"]
    noise = [np.square(one - wanted).mean() for one in (int8, got)]
    assert noise[1] < 1.2 * noise[0]  # 11 bits of mantissa beside 8
    assert not np.array_equal(got, int8)
    size = rtx_build(bench.target.read_bytes())
    assert isinstance(size, int), size


def test_below_opset_19_the_graph_is_raised(graphs, bench):
    model = graphs.mlp()
    histograms = bench.calibrated(model, x=graphs.weight(9, 6, scale=1))
    done = bench.quantized(model, histograms, precision="int8", elsewhere="fp16")
    assert [one.version for one in bench.written.opset_import] == [19]
    assert done.notes[0] == "the graph is of opset 19, not 17, which has no such Q/DQ"
    with pytest.raises(ConfigError, match="elsewhere: unknown value 'fp8'"):
        bench.quantized(model, histograms, precision="int8", elsewhere="fp8")


def test_a_scale_that_half_cannot_hold_is_refused(graphs, bench):
    model = with_opset(graphs.mlp(), 19)
    weight = next(one for one in model.graph.initializer if one.name == "w2")
    array = numpy_helper.to_array(weight).copy()
    array[:, 1] *= 1e-7
    weight.CopyFrom(numpy_helper.from_array(array, "w2"))
    histograms = bench.calibrated(model, x=graphs.weight(9, 6, scale=1))
    with pytest.raises(QuantizeError, match="^quantize.elsewhere: a scale of 'w2' is 0 in fp16. Exclude the layer"):
        bench.quantized(model, histograms, precision="int8", elsewhere="fp16")


def test_elsewhere_has_no_effect_on_other_precisions(graphs, bench):
    done = bench.quantized(with_opset(graphs.mlp(), 19), precision="fp32", elsewhere="fp16")
    assert "elsewhere has no effect on fp32" in done.notes


def test_what_onnx_runtime_makes_by_default_does_not_build_and_ours_does(graphs, bench, rtx_build, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    model = graphs.conv_net()
    x = graphs.weight(16, 3, 6, 5, scale=1)
    histograms = bench.calibrated(model, x=x)

    class Reader(CalibrationDataReader):
        left = iter([{"x": x}])

        def get_next(self):
            return next(self.left, None)

    quantize_static(str(bench.source), str(tmp_path / "theirs.onnx"), Reader())
    refused = rtx_build((tmp_path / "theirs.onnx").read_bytes())
    assert isinstance(refused, str)
    bench.quantized(model, histograms, precision="int8", rescale=True, correct_biases=True)
    size = rtx_build(bench.target.read_bytes())
    assert isinstance(size, int), size
    assert {numpy_helper.to_array(one).dtype for one in bench.written.graph.initializer} >= {np.dtype(np.int8)}
