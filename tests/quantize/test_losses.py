"""What layers keep, against int8 done by hand on the values themselves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qntz.config import QuantizeConfig
from qntz.histograms import Histogram, histogram_of
from qntz.quantize import quantize
from qntz.quantize.losses import changed, input_db, poor

RANDOM = np.random.default_rng(4)
SHAPES = {
    "normal": RANDOM.normal(0, 2, 40_000),
    "positive": RANDOM.exponential(1, 40_000),
    "tails": RANDOM.standard_t(3, 40_000),
    "tiny beside one": np.r_[RANDOM.normal(0, 1e-4, 40_000), 1.0],
}


def by_hand(values: np.ndarray, scale: float | np.ndarray) -> float:
    got = np.clip(np.rint(values / scale), -127, 127) * scale
    return float(10 * np.log10((values**2).sum() / ((got - values) ** 2).sum()))


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("fraction", [1.0, 0.3])
def test_what_an_input_keeps(name, fraction):
    values = SHAPES[name].astype(np.float32).astype(np.float64)
    amax = fraction * float(np.abs(values).max())
    assert input_db(histogram_of(values.astype(np.float32)), amax) == pytest.approx(
        by_hand(values, amax / 127), abs=0.5
    )


def test_zeros_keep_everything_and_nothing():
    assert input_db(histogram_of(np.float32([0, 0])), 1.0) == 200
    zero = Histogram(np.zeros(1 << 16, dtype=np.int64), 0.0, 0.0)
    assert input_db(zero, 1.0) == 200


def test_every_layer_is_told_with_its_place(graphs, bench):
    model = graphs.mlp()
    x = graphs.weight(900, 6, scale=1)
    x[0, 0] = 1e4  # one value takes the range from all others
    histograms = bench.calibrated(model, x=x)
    sources = {"gemm": {"operator": "Gemm", "module": "body.first", "statement": "net.py:Net.forward:0"}}
    config = QuantizeConfig(precision="int8", method="max", rescale=False)
    done = quantize(bench.source, histograms, None, config, methods=bench.methods, sources=sources)
    assert done.layers.keys() == {"gemm", "matmul"}
    gemm = done.layers["gemm"]
    assert (gemm["module"], gemm["statement"]) == ("body.first", "net.py:Net.forward:0")
    assert gemm["input_db"] == pytest.approx(by_hand(x.astype(np.float64), 1e4 / 127), abs=0.5)
    assert gemm["inputs_db"] == {"x": gemm["input_db"]}
    weight = numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)  # [5, 6], outputs first
    scales = np.abs(weight).max(1, keepdims=True) / 127
    assert gemm["weight_db"] == pytest.approx(by_hand(weight, scales), abs=0.01)


def test_a_product_tells_of_both_of_its_inputs(graphs, bench):
    x = graphs.weight(50, 4, 6, scale=1)
    model = graphs.attention()
    done = quantize(
        bench.source, bench.calibrated(model, x=x), None, QuantizeConfig(precision="int8"), methods=bench.methods
    )
    told = done.layers["mix"]
    assert told["inputs_db"].keys() == {"p", "v"}
    assert told["input_db"] == min(told["inputs_db"].values()) < max(told["inputs_db"].values())


def test_nan_in_a_weight_names_its_module(graphs, bench):
    model = graphs.mlp()
    weights = {one.name: one for one in model.graph.initializer}
    array = numpy_helper.to_array(weights["w2"]).copy()
    array[0, 0] = np.nan
    weights["w2"].CopyFrom(numpy_helper.from_array(array, "w2"))
    onnx.save(model, bench.source)
    sources = {"matmul": {"operator": "MatMul", "module": "body.second", "statement": ""}}
    with pytest.raises(
        Exception, match="^simplified.onnx, module body.second: initializer 'w2' holds NaN. Repair the weig"
    ):
        quantize(bench.source, {}, None, QuantizeConfig(), methods=bench.methods, sources=sources)


def test_layers_that_keep_little_are_told_with_their_line(tmp_path):
    (tmp_path / "net.py").write_text("class Net:\n    def forward(self, x):\n        return self.first(x)\n")
    layers = {
        "good": {"input_db": 40.0, "weight_db": 41.0, "module": "a", "statement": ""},
        "bad": {"input_db": 12.5, "weight_db": 19.0, "module": "body.first", "statement": "net.py:Net.forward:0"},
        "bare": {"input_db": 19.99, "weight_db": None, "module": "", "statement": ""},
    }
    assert poor(layers, 20, tmp_path) == [
        "bad (body.first, net.py:3 in Net.forward) keeps 12.5 dB of its input",
        "bad (body.first, net.py:3 in Net.forward) keeps 19 dB of its weight",
        "bare keeps 19.99 dB of its input",
    ]


@pytest.mark.parametrize("config", [{"precision": "fp16"}, {"precision": "int8", "elsewhere": "fp16", "method": "max"}])
def test_constants_beyond_half_are_told_with_their_line(graphs, bench, tmp_path, config):
    (tmp_path / "net.py").write_text("class Net:\n    def forward(self, x):\n        return self.second(x)\n")
    model = graphs.mlp()
    weights = {one.name: one for one in model.graph.initializer}
    weights["b2"].CopyFrom(numpy_helper.from_array(np.float32([1, -7e5, 2, 8e5]), "b2"))
    histograms = bench.calibrated(model, x=graphs.weight(90, 6, scale=1))
    sources = {"bias": {"operator": "Add", "module": "body.second", "statement": "net.py:Net.forward:0"}}
    settings = QuantizeConfig(**config, rescale=False, correct_biases=False)
    done = quantize(bench.source, histograms, None, settings, methods=bench.methods, sources=sources)
    assert changed(done.constants, tmp_path) == [
        "b2 (body.second, net.py:3 in Net.forward): 2 of 4 values clipped to 65504"
    ]
