"""Small graphs with unequal dimensions, their calibration, and TensorRT-RTX builds, for the tests of quantize."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qntz import ort
from qntz.builtin._tensorrt_watch import uncollected
from qntz.builtin.thresholds import qntz_threshold_methods
from qntz.calibrate import collect
from qntz.config import QuantizeConfig
from qntz.packed import Packed
from qntz.quantize import quantize


class Graphs:
    """Builds graphs; random weights of float32 are drawn anew, from one seed, for each test."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(3)

    def weight(self, *shape: int, scale: float = 0.3) -> np.ndarray:
        return self.rng.normal(0, scale, shape).astype(np.float32)

    def model(self, nodes, weights, inputs, outputs, opset: int = 17) -> onnx.ModelProto:
        graph = helper.make_graph(
            [helper.make_node(op, ins, outs, name, **attributes) for op, ins, outs, name, attributes in nodes],
            "g",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def mlp(self) -> onnx.ModelProto:
        """Gemm (weight transposed, beta 0.5), Relu, MatMul, Add: x [n, 6] to y [n, 4]."""
        nodes = [
            ("Gemm", ["x", "w1", "b1"], ["h"], "gemm", {"transB": 1, "beta": 0.5}),
            ("Relu", ["h"], ["r"], "relu", {}),
            ("MatMul", ["r", "w2"], ["m"], "matmul", {}),
            ("Add", ["m", "b2"], ["y"], "bias", {}),
        ]
        weights = {"w1": self.weight(5, 6), "b1": self.weight(5), "w2": self.weight(5, 4), "b2": self.weight(4)}
        return self.model(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 4]})

    def conv_net(self) -> onnx.ModelProto:
        """Conv and Relu, a residual block, a transposed convolution in two groups, a mean and a Gemm."""
        nodes = [
            ("Conv", ["x", "k1", "b1"], ["c1"], "stem", {"pads": [1, 1, 1, 1]}),
            ("Relu", ["c1"], ["r1"], "relu1", {}),
            ("Conv", ["r1", "k2"], ["c2"], "block", {"pads": [1, 1, 1, 1]}),
            ("Add", ["c2", "r1"], ["a"], "residual", {}),
            ("Relu", ["a"], ["r2"], "relu2", {}),
            ("ConvTranspose", ["r2", "k3"], ["t"], "up", {"strides": [2, 2], "group": 2}),
            ("ReduceMean", ["t"], ["m"], "mean", {"axes": [2, 3], "keepdims": 0}),
            ("Gemm", ["m", "w", "b2"], ["y"], "head", {}),
        ]
        weights = {
            "k1": self.weight(4, 3, 3, 3),
            "b1": self.weight(4),
            "k2": self.weight(4, 4, 3, 3),
            "k3": self.weight(4, 3, 2, 2),
            "w": self.weight(6, 7),
            "b2": self.weight(7),
        }
        return self.model(nodes, weights, {"x": ["n", 3, 6, 5]}, {"y": ["n", 7]})

    def attention(self) -> onnx.ModelProto:
        """LayerNormalization, three projections, two products of activations, Softmax, and a shortcut around all."""
        nodes = [
            ("LayerNormalization", ["x", "scale", "shift"], ["n"], "norm", {}),
            ("MatMul", ["n", "wq"], ["q"], "query", {}),
            ("MatMul", ["n", "wk"], ["k"], "key", {}),
            ("MatMul", ["n", "wv"], ["v"], "value", {}),
            ("Transpose", ["k"], ["kt"], "turn", {"perm": [0, 2, 1]}),
            ("MatMul", ["q", "kt"], ["s"], "scores", {}),
            ("Softmax", ["s"], ["p"], "softmax", {"axis": -1}),
            ("MatMul", ["p", "v"], ["o"], "mix", {}),
            ("MatMul", ["o", "wo"], ["w"], "output", {}),
            ("Add", ["w", "n"], ["y"], "shortcut", {}),
        ]
        weights = {
            "scale": 1 + self.weight(6),
            "shift": self.weight(6),
            **{name: self.weight(6, 5, scale=1) for name in ("wq", "wk")},
            "wv": self.weight(6, 8),
            "wo": self.weight(8, 6),
        }
        return self.model(nodes, weights, {"x": ["n", 4, 6]}, {"y": ["n", 4, 6]})

    def early_exit(self) -> onnx.ModelProto:
        """A Conv, and an If on its mean with a Gemm in one branch that reads the outer scope; a Range in the other."""
        vector = helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n", 5])
        then = helper.make_graph([helper.make_node("Gemm", ["m", "w"], ["t"], "in_then")], "then", [], [vector])
        vector = helper.make_tensor_value_info("e", TensorProto.FLOAT, ["n", 5])
        otherwise = helper.make_graph(
            [
                helper.make_node("Range", ["zero", "five", "one"], ["range"], "range"),
                helper.make_node("Add", ["m", "range"], ["e0"], "in_else"),
                helper.make_node("Mul", ["e0", "half"], ["e"], "halve"),
            ],
            "else",
            [],
            [vector],
            [numpy_helper.from_array(np.array(0.5, np.float32), "half")],
        )
        nodes = [
            ("Conv", ["x", "k"], ["c"], "conv", {}),
            ("ReduceMean", ["c"], ["m"], "mean", {"axes": [2, 3], "keepdims": 0}),
            ("ReduceMean", ["m"], ["level"], "level", {"keepdims": 0}),
            ("Greater", ["level", "zero"], ["flag"], "greater", {}),
            ("If", ["flag"], ["y"], "if", {"then_branch": then, "else_branch": otherwise}),
        ]
        constants = {"zero": 0.0, "one": 1.0, "five": 5.0}
        weights = {
            "k": self.weight(5, 3, 2, 2),
            "w": self.weight(5, 5),
            **{name: np.array(value, np.float32) for name, value in constants.items()},
        }
        return self.model(nodes, weights, {"x": ["n", 3, 4, 5]}, {"y": ["n", 5]})


@pytest.fixture
def graphs() -> Graphs:
    return Graphs()


@pytest.fixture
def methods() -> dict:
    return {method.name: method for method in qntz_threshold_methods()}


class Bench:
    """Saves, calibrates, quantizes and runs one model."""

    def __init__(self, folder: Path, methods: dict) -> None:
        self.folder, self.methods = folder, methods
        self.source, self.target = folder / "simplified.onnx", folder / "quantized.onnx"

    def calibrated(self, model: onnx.ModelProto, **data: np.ndarray) -> dict:
        onnx.save(model, self.source)
        return collect(self.source, [data], workers=1)

    def quantized(self, model: onnx.ModelProto, histograms=(), passes=(), **config):
        """int8 without rescaling and corrected biases, unless they are asked for."""
        onnx.save(model, self.source)
        plain = {"rescale": False, "correct_biases": False} if config.get("precision") == "int8" else {}
        settings = QuantizeConfig(**plain | config)
        return quantize(self.source, dict(histograms), self.target, settings, methods=self.methods, passes=passes)

    @property
    def written(self) -> onnx.ModelProto:
        return onnx.load(self.target)

    def run(self, model: onnx.ModelProto | Packed | bytes, **data: np.ndarray) -> np.ndarray:
        """The first output, as written: without fusion."""
        raw = model if isinstance(model, (Packed, bytes)) else model.SerializeToString()
        return next(iter(ort.run(ort.session(raw, optimize=ort.DISABLE), data).values()))


@pytest.fixture
def bench(tmp_path: Path, methods: dict) -> Bench:
    return Bench(tmp_path, methods)


@pytest.fixture
def rtx_build():
    """A function that builds an engine from ONNX bytes (dynamic sizes 1, 2, 8); gives its size, or what went wrong."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed here")

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity, message) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and "cudaError" not in message:
                self.errors.append(message)

    @uncollected()
    def build(data: bytes) -> int | str:
        logger = Logger()
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(data):
            return "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        profile, config = builder.create_optimization_profile(), builder.create_builder_config()
        for i in range(network.num_inputs):
            tensor = network.get_input(i)
            shapes = [tuple(size if d < 0 else d for d in tensor.shape) for size in (1, 2, 8)]
            profile.set_shape(tensor.name, *shapes)
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        return "; ".join(logger.errors) or "no plan" if plan is None else plan.nbytes

    return build
