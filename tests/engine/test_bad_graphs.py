"""What TensorRT-RTX is not let build: the graphs of `tests/pipeline/bad_graphs.py`, without a stage around the backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qntz.builtin._tensorrt_watch import make_logger, uncollected
from qntz.builtin.tensorrt_rtx import qntz_backends
from qntz.config import EngineConfig
from qntz.errors import QntzError
from qntz.progress import Silent
from qntz.records import TensorSpec
from tests.pipeline.bad_graphs import BYTES, DOUBLES, GRAPHS, PRODUCT, W, model, product, quantized, scaled

trt = pytest.importorskip("tensorrt_rtx")
SPEC = TensorSpec("x", "float32", (1, 16), (8, 16), (32, 16))


def build(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    (rtx,) = qntz_backends()
    return rtx.build(path, [SPEC], EngineConfig(), Silent()).plan


@pytest.mark.parametrize("name", [*BYTES, *(name for name in GRAPHS if name != "metadata damaged")])
def test_it_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    data, words = BYTES[name] if name in BYTES else (GRAPHS[name][0]().SerializeToString(), GRAPHS[name][1])
    with pytest.raises(QntzError) as caught:
        build(tmp_path / "bad.onnx", data)
    line = str(caught.value)
    assert [word for word in words if word not in line] == [], line
    assert "\n" not in line


MASKED = np.array([0, -np.inf, 0], np.float32)


def fed(made: onnx.ModelProto) -> onnx.ModelProto:
    """With its weights among the inputs, as IR 3 has them."""
    for tensor in made.graph.initializer:
        made.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return made


def test_what_crashes_the_parser_is_refused_before(tmp_path: Path) -> None:
    with pytest.raises(QntzError, match="is not valid ONNX: .*output size 0"):
        build(
            tmp_path / "bad.onnx", model([PRODUCT, onnx.helper.make_node("Relu", ["x"], [])], w=W).SerializeToString()
        )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "good",
    [
        product(),
        product(opset=9, ir=4),
        product(opset=25, ir=11),
        quantized(TensorProto.INT8),
        scaled(k=np.float32(np.inf)),  # no weight of a product: a mask has it
        model([onnx.helper.make_node("Cast", ["wide"], ["w"], to=TensorProto.FLOAT), PRODUCT], wide=DOUBLES),
        model(
            [
                onnx.helper.make_node("Identity", ["wide"], ["moved"]),
                onnx.helper.make_node("Cast", ["moved"], ["w"], to=TensorProto.FLOAT),
                PRODUCT,
            ],
            wide=DOUBLES,
        ),
        scaled(k=np.float32(np.finfo(np.float32).min)),
        model(  # attention's: expanded, chosen by a condition and added, and all that is weighed with values
            [
                onnx.helper.make_node("Unsqueeze", ["mask", "first"], ["m"]),
                onnx.helper.make_node("Where", ["seen", "zero", "m"], ["masked"]),
                onnx.helper.make_node("MatMul", ["x", "w"], ["h"]),
                onnx.helper.make_node("Add", ["h", "masked"], ["scores"]),
                onnx.helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
                onnx.helper.make_node("Transpose", ["p"], ["turned"]),
                onnx.helper.make_node("Transpose", ["turned"], ["back"]),
                onnx.helper.make_node("MatMul", ["back", "v"], ["y"]),
            ],
            w=W,
            v=np.eye(3, dtype=np.float32),
            mask=np.float32([0, -np.inf, 0]),
            first=np.array([0]),
            seen=np.array([[True, False, True]]),
            zero=np.float32(0),
        ),
        model([onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"])], w=W, b=MASKED),
        model([onnx.helper.make_node("Gelu", ["x"], ["g"]), onnx.helper.make_node("MatMul", ["g", "w"], ["y"])], w=W),
        fed(product(opset=9, ir=3)),
        fed(product(np.ones((16, 3), np.float32).repeat(1500, 0)[:16], opset=9, ir=3)),
    ],
    ids=[
        *("product", "opset 9", "opset 25", "int8", "infinite mask", "float64 that is only cast"),
        *(
            "float64 that is moved and cast",
            "least float32",
            "attention's mask",
            "bias of minus infinity",
            "operator of a later opset",
        ),
        *("weights as inputs", "more weights as inputs"),
    ],
)
def test_what_means_what_it_says_is_built(tmp_path: Path, good: onnx.ModelProto) -> None:
    assert build(tmp_path / "good.onnx", good.SerializeToString())


def test_what_the_parser_makes_of_uint8_and_int64() -> None:
    """Why the guard refuses the one, and lets the other pass."""

    @uncollected()
    def layers(made: onnx.ModelProto) -> list[Any]:
        logger = make_logger(trt, drop_driver_noise=True)
        kept.append(network := trt.Builder(logger).create_network(0))
        assert trt.OnnxParser(network, logger).parse(made.SerializeToString())
        return [network.get_layer(index) for index in range(network.num_layers)]

    kept: list[Any] = []
    for bad in (quantized(TensorProto.UINT8), quantized(None)):
        (quantize,) = [layer for layer in layers(bad) if layer.type == trt.LayerType.QUANTIZE]
        assert quantize.get_output(0).dtype == trt.DataType.INT8  # 200 is 127 there
    wide = model(
        [onnx.helper.make_node("Cast", ["k"], ["f"], to=TensorProto.FLOAT)],
        inputs=[],
        outputs=[onnx.helper.make_tensor_value_info("f", TensorProto.FLOAT, [1])],
        k=np.array([2**40 + 1]),
    )
    (held,) = [layer for layer in layers(wide) if layer.type == trt.LayerType.CONSTANT]
    held.__class__ = trt.IConstantLayer
    assert np.asarray(held.weights).tolist() == [2**40 + 1]
