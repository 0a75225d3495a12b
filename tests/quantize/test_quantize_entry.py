"""quantize(): what is written beside the graph, its refusals, passes, and the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys

import numpy as np
import onnx
import pytest

from qntz.artifacts import write_json, write_npz
from qntz.config import QuantizeConfig
from qntz.errors import ArtifactError, PluginError, QuantizeError, RewriteError
from qntz.histograms import arrays_of, histogram_of
from qntz.quantize import calibration_cache, quantize, ranges_json
from qntz.records import GraphPass, Provided, ThresholdMethod


@pytest.fixture
def mlp(graphs, bench):
    model = graphs.mlp()
    x = graphs.rng.normal(0, 2, (64, 6)).astype(np.float32)
    return model, bench.calibrated(model, x=x)


def test_fp32_is_the_simplified_graph(mlp, bench):
    model, _ = mlp
    quantized = bench.quantized(model, precision="fp32")
    assert bench.written == model
    assert quantized.operators_before == quantized.operators_after == {"Add": 1, "Gemm": 1, "MatMul": 1, "Relu": 1}
    assert ranges_json(quantized) == {"precision": "fp32", "method": "", "tensors": {}}
    assert calibration_cache(quantized) == b"TRT-101600-EntropyCalibration2\n"
    assert bench.quantized(model, precision="fp32", exclude=["*"]).notes == ("exclude has no effect on fp32",)
    assert bench.quantized(model, precision="fp16", method="max").notes[-1] == "method has no effect on fp16"
    with pytest.raises(QuantizeError, match="no threshold method 'maxx'. Did you mean 'max'"):
        bench.quantized(model, precision="fp32", method="maxx")


def test_int8_tells_ranges_operators_and_the_cache_of_tensorrt(mlp, bench, tmp_path):
    model, histograms = mlp
    quantized = bench.quantized(model, histograms, precision="int8", method="max")
    amax = {name: histograms[name].amax for name in ("r", "x")}
    assert ranges_json(quantized) == {
        "precision": "int8",
        "method": "max",
        "tensors": {name: {"amax": a, "scale": float(np.float32(a / 127))} for name, a in amax.items()},
    }
    write_json(tmp_path / "quantize.json", quantized.as_dict())
    assert quantized.operators_after["QuantizeLinear"] == quantized.operators_after["DequantizeLinear"] == 4
    header, *lines = calibration_cache(quantized).decode().splitlines()
    assert header == "TRT-101600-EntropyCalibration2"
    read = {name: struct.unpack(">f", bytes.fromhex(text))[0] for name, text in (line.split(": ") for line in lines)}
    assert read == {name: np.float32(a / 127) for name, a in amax.items()}


def test_a_scale_of_one_is_3f800000_in_the_cache(mlp, bench):
    model, histograms = mlp
    bench.methods["fixed"] = ThresholdMethod("fixed", lambda histogram: 127.0)
    quantized = bench.quantized(model, histograms, precision="int8", method="fixed", exclude=["gemm"])
    assert calibration_cache(quantized) == b"TRT-101600-EntropyCalibration2\nr: 3f800000\n"


def test_scales_are_rounded_once(mlp, bench):
    """The quantizer's own arithmetic, from a float32 range, is off by a bit for about one amax in four."""
    model, histograms = mlp
    for amax in np.exp(np.random.default_rng(0).normal(0, 3, 16)):
        bench.methods["fixed"] = ThresholdMethod("fixed", lambda histogram, amax=amax: float(amax))
        bench.quantized(model, histograms, precision="int8", method="fixed")
        scales = [t for t in bench.written.graph.initializer if t.name in ("x_scale", "r_scale")]
        assert [onnx.numpy_helper.to_array(t) for t in scales] == [np.float32(float(amax) / 127)] * 2


def test_exclude_leaves_nodes_and_needs_no_histogram_of_theirs(mlp, bench):
    model, histograms = mlp
    del histograms["x"]
    quantized = bench.quantized(model, histograms, precision="int8", exclude=["ge*"])
    assert quantized.quantized == ("matmul",)
    assert quantized.skipped == {"gemm": "excluded by 'ge*'"}
    everything = bench.quantized(model, {}, precision="int8", exclude=["*"])
    assert everything.notes == ("every node that could be is excluded: nothing is quantized",)
    assert [node.op_type for node in bench.written.graph.node] == ["Gemm", "Relu", "MatMul", "Add"]
    assert calibration_cache(everything) == b"TRT-101600-EntropyCalibration2\n"


def test_options_reach_the_method(mlp, bench):
    model, histograms = mlp
    half = bench.quantized(model, histograms, precision="int8", method="percentile", options={"percentile": 50})
    assert half.ranges["x"] < bench.quantized(model, histograms, precision="int8", method="percentile").ranges["x"] / 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"exclude": ["gem"]},
            "quantize.exclude: pattern 'gem' matches no node that would be quantized, and no module of one. Did you mean 'gemm'?",
        ),
        (
            {"exclude": ["relu"]},
            "quantize.exclude: pattern 'relu' matches no node that would be quantized, and no module of one. Known: gemm, matmul.",
        ),
        ({"method": "msee"}, "quantize.method: no threshold method 'msee'. Did you mean 'mse'?"),
        (
            {"method": "percentile", "options": {"percentle": 99}},
            "quantize.options: method 'percentile' has no option 'percentle'. Did you mean 'percentile'?",
        ),
        (
            {"method": "max", "options": {"percentile": 99}},
            "quantize.options: method 'max' has no option 'percentile'. None is known.",
        ),
        (
            {"method": "tiny"},
            "r: method 'tiny' gives 0 as threshold: a scale of float32 must come of it. Choose another method, or"
            " exclude the node.",
        ),
        (
            {"method": "nan"},
            "r: method 'nan' gives nan as threshold: a scale of float32 must come of it. Choose another method, or"
            " exclude the node.",
        ),
    ],
)
def test_a_configuration_that_cannot_be_met_is_refused(mlp, bench, config, message):
    model, histograms = mlp
    bench.methods["tiny"] = ThresholdMethod("tiny", lambda histogram: 0.0)
    bench.methods["nan"] = ThresholdMethod("nan", lambda histogram: float("nan"))
    if config.get("method") in ("tiny", "nan"):
        config = {**config, "exclude": ["gemm"]}
    with pytest.raises(QuantizeError) as caught:
        bench.quantized(model, histograms, precision="int8", **config)
    assert str(caught.value) == message
    assert not bench.target.exists()


def test_a_method_that_raises_is_blamed(mlp, bench):
    model, histograms = mlp
    bench.methods["bad"] = ThresholdMethod("bad", lambda histogram: 1 / 0)
    with pytest.raises(PluginError) as caught:
        bench.quantized(model, histograms, precision="int8", method="bad")
    assert str(caught.value) == "x: threshold method 'bad' fails: ZeroDivisionError: division by zero."


def test_a_missing_histogram_is_refused(mlp, bench):
    model, histograms = mlp
    del histograms["r"]
    with pytest.raises(QuantizeError) as caught:
        bench.quantized(model, histograms, precision="int8")
    assert str(caught.value) == (
        "matmul: no histogram of 'r': the calibration data never gave it an element, or the histograms are of another"
        " graph. Run calibrate again with `calibrate.needed: true`, or add the node to quantize.exclude."
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_weights_that_are_not_finite_are_refused(graphs, bench, precision, value, kind):
    model = graphs.mlp()
    broken = graphs.weight(5, 4)
    broken[2, 1] = value
    model.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(broken, "w2"))
    with pytest.raises(QuantizeError) as caught:
        bench.quantized(model, precision=precision)
    assert str(caught.value) == f"simplified.onnx: initializer 'w2' holds {kind}. Repair the weights."


def test_an_infinite_mask_is_no_weight(graphs, bench):
    nodes = [("Add", ["x", "mask"], ["a"], "add", {}), ("Softmax", ["a"], ["y"], "softmax", {})]
    mask = np.array([0, -np.inf, 0], np.float32)
    model = graphs.model(nodes, {"mask": mask}, {"x": ["n", 3]}, {"y": ["n", 3]})
    bench.quantized(model, precision="fp32")
    assert bench.written == model


def test_an_old_opset_is_raised(graphs, bench):
    nodes = [("MatMul", ["x", "w"], ["y"], "matmul", {})]
    model = graphs.model(nodes, {"w": graphs.weight(6, 4)}, {"x": ["n", 6]}, {"y": ["n", 4]}, opset=12)
    done = bench.quantized(model, {"x": histogram_of(graphs.weight(6))}, precision="int8")
    assert [one.version for one in bench.written.opset_import] == [13]
    assert done.notes == ("the graph is of opset 13, not 12, which has no such Q/DQ",)


def test_a_missing_model_is_refused(bench, methods, tmp_path):
    from qntz.quantize import quantize

    with pytest.raises(ArtifactError, match=r"gone\.onnx: is missing\. Run `dvc repro`\.$"):
        quantize(tmp_path / "gone.onnx", {}, bench.target, QuantizeConfig(), methods=methods)


def drop_relu(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    for node in model.graph.node:
        node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
    model.graph.node.remove(relu)
    return model, 1


def break_graph(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    model.graph.node[0].input[0] = "nowhere"
    return model, 1


def test_passes_run_after_the_precision_has_changed(mlp, bench):
    model, histograms = mlp
    seen = []

    def look(model):
        seen.extend(node.op_type for node in model.graph.node)
        return model, 0

    passes = [Provided(GraphPass("look", look), "a.py"), Provided(GraphPass("drop", drop_relu), "b.py")]
    quantized = bench.quantized(model, histograms, passes, precision="int8", require=["drop"])
    assert seen.count("QuantizeLinear") == 4
    assert [one["fired"] for one in quantized.passes] == [0, 1]
    assert "Relu" not in quantized.operators_after
    assert "Relu" in quantized.operators_before
    assert bench.quantized(model, histograms, passes, precision="int8", forbid=["drop"]).operators_after["Relu"] == 1


def test_a_required_pass_that_does_not_fire_and_an_unknown_forbidden_one_are_errors(mlp, bench):
    model, _ = mlp
    passes = [Provided(GraphPass("look", lambda model: (model, 0)), "a.py")]
    with pytest.raises(RewriteError, match=r"^a\.py: graph pass 'look' is required and did not fire"):
        bench.quantized(model, {}, passes, require=["look"])
    with pytest.raises(RewriteError, match=r"^no graph pass 'lok'\. Did you mean 'look'\?$"):
        bench.quantized(model, {}, passes, forbid=["lok"])
    assert not bench.target.exists()


def test_a_pass_that_breaks_the_graph_leaves_what_was_there(mlp, bench):
    model, _ = mlp
    bench.target.write_bytes(b"before")
    with pytest.raises(QuantizeError, match=r"^quantized\.onnx: the quantized graph is no valid ONNX: "):
        bench.quantized(model, {}, [Provided(GraphPass("break", break_graph), "a.py")])
    assert bench.target.read_bytes() == b"before"
    assert sorted(path.name for path in bench.folder.iterdir()) == ["quantized.onnx", "simplified.onnx"]


SCRIPT = """
import sys
from pathlib import Path
from qntz.artifacts import read_npz
from qntz.builtin.thresholds import qntz_threshold_methods
from qntz.config import QuantizeConfig
from qntz.histograms import histograms_from
from qntz.quantize import quantize
folder, precision = Path(sys.argv[1]), sys.argv[2]
methods = {method.name: method for method in qntz_threshold_methods()}
histograms = histograms_from(read_npz(folder / "h.npz"), "h.npz")
config = QuantizeConfig(precision=precision)
quantize(folder / "simplified.onnx", histograms, folder / "out.onnx", config, methods=methods)
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_two_processes_with_other_hash_seeds_write_the_same_bytes_without_torch(graphs, bench, precision):
    model = graphs.attention()
    histograms = bench.calibrated(model, x=graphs.weight(9, 4, 6, scale=1))
    write_npz(bench.folder / "h.npz", arrays_of(histograms))
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(bench.folder), precision], check=True, env=environment, timeout=60
        )
        digests.add(hashlib.sha256((bench.folder / "out.onnx").read_bytes()).hexdigest())
    assert len(digests) == 1


SOURCES = {
    "gemm": {"operator": "Gemm", "module": "body.first", "statement": ""},
    "matmul": {"operator": "MatMul", "module": "body.second", "statement": ""},
}


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("gemm", ("matmul",)),
        ("body.second", ("gemm",)),
        ("body.*", ()),
        ("body", ()),
        ("*.first", ("matmul",)),
    ],
)
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_nodes_are_excluded_by_name_and_by_module(graphs, bench, pattern, left, precision):
    model = graphs.mlp()
    histograms = bench.calibrated(model, x=graphs.weight(9, 6, scale=1))
    config = QuantizeConfig(precision=precision, exclude=[pattern])
    done = quantize(bench.source, histograms, None, config, methods=bench.methods, sources=SOURCES)
    assert tuple(name for name in done.quantized if name in SOURCES) == left
    assert done.skipped[next(iter({*SOURCES} - {*left}))] == f"excluded by {pattern!r}"


def test_layers_have_methods_of_their_own(graphs, bench):
    model = graphs.mlp()
    histograms = bench.calibrated(model, x=graphs.weight(90, 6, scale=1))
    layers = {"body.second": {"method": "percentile", "options": {"percentile": 50}}}
    config = QuantizeConfig(precision="int8", method="max", rescale=False, layers=layers)
    done = quantize(bench.source, histograms, None, config, methods=bench.methods, sources=SOURCES)
    half = bench.methods["percentile"].threshold(histograms["r"], percentile=50)
    assert done.ranges == {"r": half, "x": histograms["x"].amax}
    assert half < histograms["r"].amax


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"body.third": {"method": "max"}}, "quantize.layers.body.third: pattern 'body.third' matches no node"),
        ({"gemm": {"method": "mx"}}, "quantize.layers.gemm: no threshold method 'mx'. Did you mean 'max'?"),
        (
            {"gemm": {"options": {"percentile": 3}}},
            "quantize.layers.gemm.options: method 'mse' has no option 'percentile'",
        ),
        ({"gemm": {"method": "auto"}}, "quantize.layers.gemm: auto is no method of a layer. Name a method"),
    ],
)
def test_wrong_layers_are_refused(graphs, bench, layers, message):
    model = graphs.mlp()
    histograms = bench.calibrated(model, x=graphs.weight(9, 6, scale=1))
    config = QuantizeConfig(precision="int8", layers=layers)
    with pytest.raises(QuantizeError) as caught:
        quantize(bench.source, histograms, None, config, methods=bench.methods, sources=SOURCES)
    assert str(caught.value).startswith(message)


def test_two_methods_for_one_tensor_are_refused(graphs, bench):
    model = graphs.attention()
    histograms = bench.calibrated(model, x=graphs.weight(9, 4, 6, scale=1))
    layers = {"query": {"method": "max"}, "key": {"method": "percentile", "options": {"percentile": 50}}}
    config = QuantizeConfig(precision="int8", layers=layers)
    with pytest.raises(QuantizeError, match="tensor 'n' is given two ranges: .* Give all that read it one method"):
        quantize(bench.source, histograms, None, config, methods=bench.methods)
