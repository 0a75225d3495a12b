"""Corrected biases: where activations are constant by channel, and exact in int8, nothing of the rounding is left."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qntz.calibrate import collect

CHANNELS = np.float32([3, -7, 127, 40, -1, 12])  # of the input, everywhere alike


def image(graphs) -> np.ndarray:
    return np.broadcast_to(CHANNELS[None, :, None, None], (2, 6, 5, 5)).copy()


def rows(graphs) -> np.ndarray:
    return np.broadcast_to(CHANNELS, (4, 6)).copy()


def node(op, inputs, **attributes):
    return (op, ["x", *inputs], ["y"], "it", attributes)


CASES = {
    "conv": (image, [node("Conv", ["w", "b"])], {"w": (4, 6, 3, 3), "b": (4,)}),
    "conv without a bias": (image, [node("Conv", ["w"])], {"w": (4, 6, 3, 3)}),
    "conv in groups": (image, [node("Conv", ["w", "b"], group=3)], {"w": (9, 2, 1, 1), "b": (9,)}),
    "depthwise": (image, [node("Conv", ["w"], group=6)], {"w": (6, 1, 2, 2)}),
    "dilated and padded": (
        image,
        [node("Conv", ["w", "b"], dilations=[3, 4], pads=[3, 4, 3, 4])],
        {"w": (4, 6, 3, 3), "b": (4,)},
    ),
    "padded and strided": (
        image,
        [node("Conv", ["w"], strides=[2, 1], pads=[1, 0, 0, 2])],
        {"w": (4, 6, 3, 3)},
    ),
    "empty bias": (image, [node("Conv", ["w", ""])], {"w": (4, 6, 2, 2)}),
    "transposed with all attributes": (
        image,
        [node("ConvTranspose", ["w"], strides=[2, 3], pads=[1, 0, 0, 1], output_padding=[1, 0], dilations=[1, 2])],
        {"w": (6, 4, 3, 3)},
    ),
    "transposed": (image, [node("ConvTranspose", ["w", "b"], strides=[2, 2])], {"w": (6, 4, 2, 2), "b": (4,)}),
    "gemm": (rows, [node("Gemm", ["w", "b"])], {"w": (6, 5), "b": (5,)}),
    "gemm with factors": (
        rows,
        [node("Gemm", ["w", "b"], transB=1, alpha=0.5, beta=2.0)],
        {"w": (5, 6), "b": (5,)},
    ),
    "gemm without a bias": (rows, [node("Gemm", ["w"])], {"w": (6, 5)}),
    "matmul": (
        rows,
        [("MatMul", ["x", "w"], ["m"], "it", {}), ("Add", ["b", "m"], ["y"], "bias", {})],
        {"w": (6, 5), "b": (5,)},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_nothing_of_the_rounding_is_left(graphs, bench, case):
    make, nodes, shapes = case
    x = make(graphs)
    weights = {name: graphs.weight(*shape) for name, shape in shapes.items()}
    rank = x.ndim
    model = graphs.model(nodes, weights, {"x": ["n", *x.shape[1:]]}, {"y": ["n", *"abc"[: rank - 1]]})
    onnx.save(model, bench.source)
    histograms = collect(bench.source, [{"x": x}])
    wanted = bench.run(model, x=x)
    axes = tuple(axis for axis in range(rank) if axis != 1)  # a tap of a transposed convolution is met by a part
    errors = {}
    for correct in (False, True):
        done = bench.quantized(model, histograms, precision="int8", method="max", correct_biases=correct)
        assert done.corrected == (("it",) if correct else ())
        assert done.ranges == {"x": 127.0}
        errors[correct] = np.abs((bench.run(done.file, x=x) - wanted).mean(axes)).max()
        assert len({one.name for one in bench.written.graph.initializer}) == len(bench.written.graph.initializer)
    assert errors[False] > 1e-3
    assert errors[True] < 2e-6 * np.abs(wanted).max()  # float32 has no more


def test_what_others_read_stays_and_what_has_no_bias_is_left_alone(graphs, bench):
    """Two nodes share a bias; a product without one is not given one; nor is a sum behind which others read."""
    nodes = [
        ("Gemm", ["x", "one", "b"], ["first"], "first", {}),
        ("Gemm", ["first", "two", "b"], ["second"], "second", {}),
        ("MatMul", ["second", "three"], ["third"], "third", {}),
        ("Add", ["third", "b"], ["sum"], "sum", {}),
        ("Mul", ["third", "sum"], ["y"], "product", {}),
    ]
    weights = {"one": graphs.weight(6, 6), "two": graphs.weight(6, 6), "three": graphs.weight(6, 6)}
    model = graphs.model(nodes, {**weights, "b": graphs.weight(6)}, {"x": ["n", 6]}, {"y": ["n", 6]})
    onnx.save(model, bench.source)
    histograms = collect(bench.source, [{"x": rows(graphs) + graphs.weight(4, 6, scale=3)}])
    done = bench.quantized(model, histograms, precision="int8", correct_biases=True)
    assert done.corrected == ("first", "second")
    held = {one.name: numpy_helper.to_array(one) for one in bench.written.graph.initializer}
    original = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    np.testing.assert_array_equal(held["b"], original["b"])  # the sum still reads it
    corrected = [held[f"{weight}/bias_corrected/{output}"] for weight, output in (("one", "first"), ("two", "second"))]
    assert all(np.abs(one - original["b"]).max() > 0 for one in corrected)
    without = collect(bench.source, [{"x": rows(graphs)}], channels=False)
    assert bench.quantized(model, without, precision="int8", correct_biases=True).corrected == ()
