"""What TensorRT would build without a word although it is wrong: refused before the build, from the ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qntz.errors import BackendError

if TYPE_CHECKING:
    import onnx

# Where an infinite value can only be a broken weight. Elsewhere it can be meant: a mask adds minus infinity.
WEIGHTED = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "GRU", "LSTM", "RNN"),
    *("BatchNormalization", "LayerNormalization", "QuantizeLinear", "DequantizeLinear"),
)


def guard(path: Path) -> None:
    """Lets an ONNX file pass that means what TensorRT will make of it.

    Raises:
        ArtifactError: there is no such file, or it is no ONNX.
        BackendError: the graph has no nodes; an input or output is float64, or a node computes in it; a
            weight is NaN or infinite.
    """
    import onnx

    from qntz.packed import read_model

    model = read_model(path)
    graph = model.graph
    if not graph.node:
        do = "Export a model that computes something."
        raise BackendError("the graph is empty", where=str(path), why="it has no nodes", do=do)
    for kind, tensors in (("input", graph.input), ("output", graph.output)):
        for tensor in tensors:
            if tensor.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
                raise BackendError(
                    f"{kind} {tensor.name!r} is float64",
                    where=str(path),
                    why="TensorRT has no float64 and would take it for float32",
                    do="Cast it to float32 in the model.",
                )
    _require_no_double(model, path)
    _require_finite(graph, path)


def _require_no_double(model: onnx.ModelProto, path: Path) -> None:
    """Refuses float64 that is computed with; a constant of it that is only cast away does no harm."""
    import onnx

    from qntz.graph import graphs_of, without_weights

    double = onnx.TensorProto.DOUBLE
    try:
        inferred = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    except onnx.shape_inference.InferenceError:  # an operator that ONNX does not know: the parser names it
        inferred = model.graph
    names = {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == double}
    for graph in graphs_of(model.graph):
        for node in graph.node:
            cast = node.op_type == "Cast" and any(a.name == "to" and a.i == double for a in node.attribute)
            if cast or (node.op_type not in ("Constant", "Cast") and names & set(node.output)):
                raise BackendError(
                    f"{node.op_type} {node.name!r} computes in float64",
                    where=str(path),
                    why="TensorRT has no float64 and would take it for float32",
                    do="Compute in float32 in the model, or build with the backend onnxruntime.",
                )


def _require_finite(graph: onnx.GraphProto, path: Path) -> None:
    from onnx import numpy_helper

    from qntz.graph import graphs_of

    graphs = list(graphs_of(graph))
    weighted = {name for inner in graphs for node in inner.node if node.op_type in WEIGHTED for name in node.input}
    for inner in graphs:
        constants = [(tensor.name, tensor) for tensor in inner.initializer]
        constants += [
            (node.output[0], attribute.t)
            for node in inner.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        ]
        for name, tensor in constants:
            values = numpy_helper.to_array(tensor)
            if values.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
                continue
            broken = np.isnan(values)
            kind = "NaN"
            if not broken.any() and name in weighted:
                broken, kind = ~np.isfinite(values), "infinity"
            if broken.any():
                raise BackendError(
                    f"weight {name!r} holds {kind}",
                    where=str(path),
                    why=f"{int(broken.sum())} of {broken.size} elements",
                    do="Repair the model's weights; TensorRT would build this without a word.",
                )
