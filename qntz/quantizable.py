"""Which nodes of a graph can be quantized to int8, and which activations they read. Calibrate and quantize share it."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from qntz.graph import nodes_of, subgraphs, without_weights

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Candidate:
    """A Conv, ConvTranspose, Gemm or MatMul.

    Attributes:
        node: its name, as `node_names` gives it. operator: its type.
        activations: the float32 tensors that it computes on, without repetition; empty where it is refused.
        weight: the initializer that it holds, None for a product of two activations.
        axis: of the weight's output channels. refusal: why it stays in floating point, or "".
    """

    node: str
    operator: str
    activations: tuple[str, ...] = ()
    weight: str | None = None
    axis: int | None = None
    refusal: str = ""


def node_names(graph: onnx.GraphProto) -> list[str]:
    """A name for each node of the graph itself, in order: its own, or one made of its operator and first output where
    it has none or shares it."""
    names: list[str] = []
    seen: set[str] = set()
    for node in graph.node:
        name = node.name or f"{node.op_type}_{node.output[0]}"
        while name in seen:
            name = f"{name}_{node.output[0]}"
        seen.add(name)
        names.append(name)
    return names


def candidates(model: onnx.ModelProto) -> list[Candidate]:
    """All Conv, ConvTranspose, Gemm and MatMul nodes in the order of the graph; those of subgraphs are refused."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    told = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*told.value_info, *told.input, *told.output)}
    axes: dict[str, tuple[str, int]] = {}
    found = []
    for name, node in zip(node_names(graph), graph.node, strict=True):
        for attribute in node.attribute:
            for subgraph in subgraphs(attribute):
                for inner in nodes_of(subgraph):
                    if inner.op_type in WEIGHTED_OPS:
                        label = inner.name or f"{inner.op_type}_{inner.output[0]}"
                        found.append(Candidate(label, inner.op_type, refusal=f"it lies in a subgraph of {name}"))
        if node.op_type in WEIGHTED_OPS and node.domain in ("", "ai.onnx"):
            found.append(_candidate(name, node, weights, types, axes))
    return found


def read_axes(model: onnx.ModelProto) -> dict[str, int]:
    """The axis along which weights read an activation, by tensor, counted from the last one, -1, where that is it;
    those that are read along several are left out."""
    axes: dict[str, set[int]] = {}
    nodes = dict(zip(node_names(model.graph), model.graph.node, strict=True))
    for candidate in candidates(model):
        if candidate.weight is not None:
            transposed = any(one.name == "transA" and one.i for one in nodes[candidate.node].attribute)
            axis = 1 if candidate.operator in ("Conv", "ConvTranspose") else 0 if transposed else -1
            axes.setdefault(candidate.activations[0], set()).add(axis)
    return {tensor: found.pop() for tensor, found in axes.items() if len(found) == 1}


def _candidate(
    name: str,
    node: onnx.NodeProto,
    weights: dict[str, onnx.TensorProto],
    types: dict[str, int],
    axes: dict[str, tuple[str, int]],
) -> Candidate:
    left, right = node.input[0], node.input[1]

    def refused(why: str) -> Candidate:
        return Candidate(name, node.op_type, refusal=why)

    if left in weights:
        return refused("its first operand is constant")
    for tensor in (left, right):
        kind = weights[tensor].data_type if tensor in weights else types.get(tensor, onnx.TensorProto.UNDEFINED)
        if kind != onnx.TensorProto.FLOAT:
            return refused(f"{tensor!r} is {onnx.TensorProto.DataType.Name(kind).lower()}, not float32")
    if right not in weights:
        if node.op_type != "MatMul":
            return refused("its weight is computed")
        return Candidate(name, node.op_type, tuple(dict.fromkeys((left, right))))
    rank = len(weights[right].dims)
    if node.op_type == "MatMul" and rank != 2:
        return refused(f"its weight has {rank} dimensions, not 2")
    axis = _channel_axis(node)
    owner, taken = axes.setdefault(right, (name, axis))
    if taken != axis:
        return refused(f"it shares its weight with {owner}, which needs scales along another axis")
    return Candidate(name, node.op_type, (left,), right, axis)


def _channel_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return 1  # ConvTranspose [C_in, C_out / group, ...] and MatMul [K, N]
