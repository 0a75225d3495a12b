"""Weights of four bits, by blocks of inputs; activations stay floating."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qntz.graph import nodes_of
from qntz.quantizable import Candidate, node_names
from qntz.quantize.formats import INT4
from qntz.quantize.pairs import dequantized, require_free_names
from qntz.quantize.weights import Weights


def to_int4(model: onnx.ModelProto, chosen: Sequence[Candidate], weights: Weights) -> onnx.ModelProto:
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
    by_weight = {one.weight: one for one in chosen if one.weight is not None}
    require_free_names(graph, list(by_weight))
    readers = {one.node: one.weight for one in chosen}
    added: dict[str, onnx.NodeProto] = {}
    for weight, one in by_weight.items():
        graph.initializer.append(_packed(weights.numbers(one).astype(np.int8), f"{weight}_quantized"))
        graph.initializer.append(numpy_helper.from_array(weights.scales(one), f"{weight}_scale"))
        added[weight] = helper.make_node(
            "DequantizeLinear",
            [f"{weight}_quantized", f"{weight}_scale"],
            [dequantized(weight)],
            name=f"{weight}_DequantizeLinear",
            axis=1 - (one.axis or 0),
            block_size=weights.block(one),
        )
    nodes = []
    for node in graph.node:
        read = readers.get(node.name)
        if read is not None:
            if read in added:
                nodes.append(added.pop(read))
            node.input[1] = dequantized(read)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph, set(by_weight))
    return made


def _packed(numbers: np.ndarray, name: str) -> onnx.TensorProto:
    """As ONNX packs four bits: two in a byte, the first in the lower half."""
    flat = numbers.reshape(-1).astype(np.uint8) & 0xF
    flat = np.pad(flat, (0, flat.size % 2))
    data = (flat[0::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
    return helper.make_tensor(name, INT4.kind, numbers.shape, data, raw=True)


def _drop_unread(graph: onnx.GraphProto, names: set[str]) -> None:
    """Removes those of the named initializers that nothing reads any more."""
    read = {name for node in nodes_of(graph) for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read or tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)
