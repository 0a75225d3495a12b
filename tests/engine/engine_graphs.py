"""Tiny ONNX graphs for the tests of the backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qntz.records import TensorSpec

FLOAT = TensorProto.FLOAT
BATCH = TensorSpec("x", "float32", (1, 5), (4, 5), (9, 5))
FIXED = TensorSpec("x", "float32", (2, 5), (2, 5), (2, 5))
WEIGHT = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def info(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(shape))


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **weights: np.ndarray,
) -> Path:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


def linear(folder: Path, weight: np.ndarray = WEIGHT, batch: int | str = "batch") -> Path:
    """y [batch, n] = x [batch, k] @ w, [k, n]."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    return saved(
        folder / "linear.onnx",
        [node],
        [info("x", (batch, weight.shape[0]))],
        [info("y", (batch, weight.shape[1]))],
        w=weight,
    )


def control_flow(folder: Path) -> Path:
    """y [2, 5] = x doubled three times by a Loop, and negated by an If where the sum of x is negative."""

    def branch(name: str, operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["doubled"], [f"{name}_y"])
        return helper.make_graph([node], name, [], [info(f"{name}_y", (2, 5))])

    body = helper.make_graph(
        [helper.make_node("Add", ["v", "v"], ["v2"]), helper.make_node("Identity", ["go"], ["go2"])],
        "body",
        [info("i", (), TensorProto.INT64), info("go", (), TensorProto.BOOL), info("v", (2, 5))],
        [info("go2", (), TensorProto.BOOL), info("v2", (2, 5))],
    )
    nodes = [
        helper.make_node("Loop", ["three", "yes", "x"], ["doubled"], body=body),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "zero"], ["negative"]),
        helper.make_node(
            "If", ["negative"], ["y"], then_branch=branch("negated", "Neg"), else_branch=branch("kept", "Identity")
        ),
    ]
    return saved(
        folder / "control_flow.onnx",
        nodes,
        [info("x", (2, 5))],
        [info("y", (2, 5))],
        three=np.array(3, dtype=np.int64),
        yes=np.array(True),
        zero=np.array(0, dtype=np.float32),
    )
