"""Weights of four bits, by blocks of inputs; activations stay floating."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qntz.graph import nodes_of
from qntz.quantizable import Candidate, node_names
from qntz.quantize.pairs import dequantized, require_free_names
from qntz.quantize.weights import Scaling


def to_int4(model: onnx.ModelProto, chosen: Sequence[Candidate], scaling: Scaling) -> onnx.ModelProto:
    """A copy of the model in which the chosen nodes read their weights, matrices, from four bits each.

    The weight is stored as the numbers -8..7, two in a byte, with a scale for each block of inputs, and a
    DequantizeLinear before its first reader makes it floating; other readers keep the floating weight.

    Raises:
        QuantizeError: a name that is needed is taken, or a scale is 0 in half precision.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    for node, name in zip(graph.node, node_names(graph), strict=True):
        node.name = name
    weights = {one.weight: one.axis or 0 for one in chosen if one.weight is not None}
    require_free_names(graph, list(weights))
    held = {tensor.name: tensor for tensor in graph.initializer}
    readers = {one.node: one.weight for one in chosen}
    added: dict[str, onnx.NodeProto] = {}
    for weight, axis in weights.items():
        array = numpy_helper.to_array(held[weight])
        scales = scaling.scales(array, axis, weight)
        numbers = scaling.format.rounded(array / scaling.spread(scales, array, axis)).astype(np.int8)
        graph.initializer.append(_packed(numbers, f"{weight}_quantized"))
        graph.initializer.append(numpy_helper.from_array(scales, f"{weight}_scale"))
        added[weight] = helper.make_node(
            "DequantizeLinear",
            [f"{weight}_quantized", f"{weight}_scale"],
            [dequantized(weight)],
            name=f"{weight}_DequantizeLinear",
            axis=1 - axis,
            block_size=array.shape[1 - axis] // scales.shape[1 - axis],
        )
    nodes = []
    for node in graph.node:
        weight = readers.get(node.name)
        if weight is not None:
            if weight in added:
                nodes.append(added.pop(weight))
            node.input[1] = dequantized(weight)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph, set(weights))
    return made


def _packed(numbers: np.ndarray, name: str) -> onnx.TensorProto:
    """As ONNX packs four bits: two in a byte, the first in the lower half."""
    flat = numbers.reshape(-1).astype(np.uint8) & 0xF
    flat = np.pad(flat, (0, flat.size % 2))
    data = (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
    return helper.make_tensor(name, onnx.TensorProto.INT4, numbers.shape, data, raw=True)


def _drop_unread(graph: onnx.GraphProto, names: set[str]) -> None:
    """Removes those of the named initializers that nothing reads any more."""
    read = {name for node in nodes_of(graph) for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
