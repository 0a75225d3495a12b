"""Biases that make up for the rounding of weights: it moves each output by the same amount on average, which is known
from the means of what the weight reads (Nagel et al., 2019, arXiv:1906.04721, section 4.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from qntz.graph import nodes_of
from qntz.quantizable import Candidate


def correct_biases(
    model: onnx.ModelProto,
    chosen: Sequence[Candidate],
    means: Mapping[str, np.ndarray],
    lost: Callable[[Candidate], np.ndarray],
) -> list[str]:
    """Adds to the biases of a graph with Q/DQ, in place, what the rounding of the weights takes away on average.

    Args:
        chosen: the quantized nodes. means: of the activations, float64 by the position along the axis that the weight
            reads; nodes of others are left alone, and so is a MatMul without a bias behind it. lost: what the rounding
            takes from the weight of a node, float64 of its shape.

    Returns:
        The names of the nodes whose outputs were corrected, in the order of the graph.
    """
    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in nodes_of(graph) for name in node.input)
    uses.update(output.name for output in graph.output)
    readers = {name: node for node in graph.node for name in node.input}
    by_name = {candidate.node: candidate for candidate in chosen}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    corrected = []
    for node in list(graph.node):
        candidate = by_name.get(node.name)
        if candidate is None or candidate.weight is None or candidate.activations[0] not in means:
            continue
        place = _bias(node, held, uses, readers)
        if place is None:
            continue
        shift = _shift(node, lost(candidate), candidate.axis or 0, means[candidate.activations[0]], shapes)
        if shift is None or not shift.any():
            continue
        reader, slot = place
        present = slot < len(reader.input) and bool(reader.input[slot])
        bias = numpy_helper.to_array(held[reader.input[slot]]) if present else np.zeros(len(shift))
        name = f"{candidate.weight}/bias_corrected/{reader.output[0]}"
        array = (bias.astype(np.float64) + shift).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(array, name))
        if slot < len(reader.input):
            uses[reader.input[slot]] -= 1
            reader.input[slot] = name
        else:
            reader.input.append(name)
        corrected.append(node.name)
    unused = {tensor.name for tensor in graph.initializer if uses[tensor.name] == 0 and tensor.name in held}
    kept = [tensor for tensor in graph.initializer if tensor.name not in unused]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return corrected


def _bias(
    node: onnx.NodeProto,
    held: Mapping[str, onnx.TensorProto],
    uses: Mapping[str, int],
    readers: Mapping[str, onnx.NodeProto],
) -> tuple[onnx.NodeProto, int] | None:
    """The node that adds a constant to what this one gives, and the constant's place among its inputs."""
    if node.op_type == "MatMul":
        reader = readers.get(node.output[0])
        if reader is None or reader.op_type != "Add" or uses[node.output[0]] != 1:
            return None
        slot = 1 - list(reader.input).index(node.output[0])
        constant = held.get(reader.input[slot])
        return (reader, slot) if constant is not None and _is_vector(constant) else None
    if len(node.input) < 3 or not node.input[2]:
        return node, 2
    constant = held.get(node.input[2])
    return (node, 2) if constant is not None and _is_vector(constant) else None


def _is_vector(tensor: onnx.TensorProto) -> bool:
    """Of a value by channel along the last axis, or of one for all."""
    return tensor.data_type == onnx.TensorProto.FLOAT and all(size == 1 for size in tensor.dims[:-1])


def _shift(
    node: onnx.NodeProto,
    lost: np.ndarray,
    axis: int,
    means: np.ndarray,
    shapes: Mapping[str, Sequence[int]],
) -> np.ndarray | None:
    """What is to be added to each output channel, float64; None where that is not known."""
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type in ("Gemm", "MatMul"):
        if len(means) != lost.shape[1 - axis]:
            return None
        shift = (lost if axis == 1 else lost.T).T @ means * attributes.get("alpha", 1.0)
        return np.asarray(shift / attributes.get("beta", 1.0)) if attributes.get("beta", 1.0) else None
    groups = attributes.get("group", 1)
    taken = _taken(node, attributes, lost.shape[2:], shapes)
    if taken is None:
        return None
    by_pair = (lost * taken).sum(
        tuple(range(2, lost.ndim))
    )  # Conv [out, in / groups], ConvTranspose [in, out / groups]
    inputs = by_pair.shape[1] * groups if node.op_type == "Conv" else by_pair.shape[0]
    if len(means) != inputs:
        return None
    split = by_pair.reshape(groups, -1, by_pair.shape[1])
    pattern = "goi,gi->go" if node.op_type == "Conv" else "gio,gi->go"
    return np.einsum(pattern, split, means.reshape(groups, -1)).reshape(-1)


def _taken(
    node: onnx.NodeProto, attributes: Mapping[str, Any], kernel: Sequence[int], shapes: Mapping[str, Sequence[int]]
) -> np.ndarray | float | None:
    """How many elements of the input an output takes through each tap of the kernel, on average over the outputs: less
    than one where taps reach over the border. None where the sizes that it depends on are not known."""
    rank = len(kernel)
    strides, dilations = (list(attributes.get(name, [1] * rank)) for name in ("strides", "dilations"))
    pads = list(attributes.get("pads", [0] * (2 * rank)))
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        return None
    if node.op_type == "Conv" and not any(pads):
        return 1.0
    read = node.input[0].removesuffix("_DequantizeLinear_Output")
    sizes = [list(shapes.get(name, []))[2:] for name in (read, node.output[0])]
    if any(len(one) != rank or not all(one) for one in sizes):
        return None
    taken: np.ndarray = np.ones(())
    for axis, (before, after) in enumerate(zip(*sizes, strict=True)):
        taps = np.arange(kernel[axis])[:, None] * dilations[axis] - pads[axis]
        if node.op_type == "Conv":
            met = np.arange(after) * strides[axis] + taps
            inside = (met >= 0) & (met < before)
        else:
            met = np.arange(before) * strides[axis] + taps
            inside = (met >= 0) & (met < after)
        taken = taken[..., None] * (inside.sum(1) / after)
    return taken
