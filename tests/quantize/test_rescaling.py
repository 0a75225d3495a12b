"""Rescaling: what computes the same is quantized better, without another pass over the data."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qntz.calibrate import collect
from qntz.errors import QuantizeError
from qntz.histograms import Histogram
from qntz.quantize import rescaling
from qntz.scalable import divide, divided, scalable

RNG = np.random.default_rng(11)
IMAGES = RNG.normal(0, 1, (32, 3, 6, 6)).astype(np.float32)
LARGE = [2, 5]  # channels of the inner tensor, 64 times the others


def hard(graphs) -> onnx.ModelProto:
    """Conv, Relu, Conv; two inner channels are 64 times as large, and read with a 64th of the weight."""
    first, second = RNG.normal(0, 0.3, (8, 3, 3, 3)), RNG.normal(0, 0.2, (4, 8, 3, 3))
    bias = RNG.normal(0, 0.1, 8)
    first[LARGE] *= 64
    bias[LARGE] *= 64
    second[:, LARGE] /= 64
    nodes = [
        ("Conv", ["x", "first", "bias"], ["c"], "one", {}),
        ("Relu", ["c"], ["r"], "relu", {}),
        ("Conv", ["r", "second"], ["y"], "two", {}),
    ]
    weights = {"first": first, "bias": bias, "second": second}
    held = {name: array.astype(np.float32) for name, array in weights.items()}
    return graphs.model(nodes, held, {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 2, 2]})


def sqnr(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum()))


def calibrated(bench, model: onnx.ModelProto) -> dict[str, Histogram]:
    onnx.save(model, bench.source)
    return collect(bench.source, [{"x": IMAGES}])


def test_large_channels_are_evened_out_and_the_model_stays(graphs, bench):
    model = hard(graphs)
    histograms = calibrated(bench, model)
    wanted = bench.run(model, x=IMAGES)
    plain = bench.quantized(model, histograms, precision="int8")
    before = sqnr(bench.run(plain.file, x=IMAGES), wanted)
    rescaled = bench.quantized(model, histograms, precision="int8", rescale=True)
    after = sqnr(bench.run(rescaled.file, x=IMAGES), wanted)
    assert plain.rescaled == {}
    assert list(rescaled.rescaled) == ["one"]
    exponents = np.array(rescaled.rescaled["one"])
    others = np.delete(exponents, LARGE)
    assert (exponents[LARGE] >= others.max() + 4).all()  # 64 is six powers of two
    assert after > before + 12
    assert after > 35
    quantized = bench.written
    assert divided(quantized) == rescaled.rescaled
    held = {one.name: numpy_helper.to_array(one) for one in quantized.graph.initializer}
    original = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    scales = np.exp2(exponents).astype(np.float32)
    np.testing.assert_array_equal(held["first"] * scales[:, None, None, None], original["first"])
    np.testing.assert_array_equal(held["bias"] * scales, original["bias"])
    np.testing.assert_array_equal(held["second"] / scales[:, None, None], original["second"])


@pytest.mark.parametrize("method", ["max", "mse", "percentile", "entropy"])
def test_ranges_are_those_of_a_second_pass_over_the_rescaled_graph(graphs, bench, method):
    """Which is not run: the channels' histograms are moved by powers of two."""
    model = hard(graphs)
    histograms = calibrated(bench, model)
    rescaled = bench.quantized(model, histograms, precision="int8", rescale=True, method=method)
    exponents = rescaled.rescaled["one"]
    found = scalable(model)
    divide(model, found, found.exponents({"one": exponents}))
    again = calibrated(bench, model)
    wanted = bench.quantized(model, again, precision="int8", method=method)
    tolerance = {"max": 0, "entropy": 0.1}.get(method, 0.06)  # bins of an eighth of an octave
    assert rescaled.ranges["r"] == pytest.approx(wanted.ranges["r"], rel=tolerance)
    assert rescaled.ranges["x"] == wanted.ranges["x"]


def test_an_even_model_and_histograms_without_channels_are_left_alone(graphs, bench):
    model = hard(graphs)
    onnx.save(model, bench.source)
    without = collect(bench.source, [{"x": IMAGES}], channels=False)
    assert bench.quantized(model, without, precision="int8", rescale=True).rescaled == {}
    histograms = calibrated(bench, model)
    excluded = bench.quantized(model, histograms, precision="int8", rescale=True, exclude=["two"])
    assert excluded.rescaled == {}  # what reads them is not quantized
    even = hard(graphs)
    for tensor in even.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        array[...] = np.sign(array + 1e-9)  # all weights alike
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    told = bench.quantized(even, calibrated(bench, even), precision="int8", rescale=True)
    assert all(abs(number) <= 1 for numbers in told.rescaled.values() for number in numbers)


def test_a_rescaling_that_changes_the_outputs_is_refused(graphs, bench, monkeypatch):
    def lacking(model: onnx.ModelProto):
        found = scalable(model)
        return dataclasses.replace(found, constants=[one for one in found.constants if one.slot != 2])  # the bias

    monkeypatch.setattr(rescaling, "scalable", lacking)
    model = hard(graphs)
    histograms = calibrated(bench, model)
    with pytest.raises(QuantizeError) as caught:
        bench.quantized(model, histograms, precision="int8", rescale=True)
    assert str(caught.value) == (
        "quantize.rescale: rescaling changes what the model computes: output 'y' is another on probe 0."
        " Set quantize.rescale: false, and report the model: it should not be."
    )
    assert not bench.target.exists()
