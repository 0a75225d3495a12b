"""A float32 twin of a half-precision model, for ONNX Runtime's CPU provider, which cannot be trusted with the original.

It has hardly any bfloat16 kernel; and it runs most of float16 in float32, dropping the Casts between two such
operators, so that an overflow or a lost digit would not show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

from qntz.graph import graphs_of, inferred, subgraphs
from qntz.packed import Packed, packed
from qntz.quantize.half import DTYPE_ATTRIBUTES, cast_node, rename, retag, spelled, types_of

HALVES = {"tensor(float16)": TensorProto.FLOAT16, "tensor(bfloat16)": TensorProto.BFLOAT16}


def runnable(quantized: Packed) -> Packed:
    """The twin of a model: everything in float32, each tensor rounded to the half type that it has in the
    original, after the operator that makes it. Inputs and outputs keep their types. A model without half tensors comes
    back as it is."""
    model = inferred(quantized.model())
    graph = model.graph
    if not any(kind in HALVES for one in graphs_of(graph) for _, kind in types_of(one)):
        return quantized
    inputs, outputs = _half_ends(graph.input), _half_ends(graph.output)
    wide = {name: f"{name}/wide" for name in (*inputs, *outputs)}
    rename(graph, wide)
    _widen(graph, {wide[name]: kind for name, kind in outputs.items()}, is_main=True)
    nodes = [
        *(cast_node(name, wide[name], TensorProto.FLOAT) for name in inputs),
        *graph.node,
        *(cast_node(wide[name], name, HALVES[kind]) for name, kind in outputs.items() if name not in inputs),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return packed(model, "twin.onnx")


def _half_ends(values: Sequence[onnx.ValueInfoProto]) -> dict[str, str]:
    return {value.name: kind for value in values if (kind := spelled(value.type)) in HALVES}


def _widen(graph: GraphProto, outer: Mapping[str, str], *, is_main: bool) -> None:
    types = {**outer, **dict(types_of(graph))}
    nodes: list[NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in subgraphs(attribute):
                _widen(subgraph, types, is_main=False)
            if attribute.type == AttributeProto.TENSOR:
                _upcast(attribute.t)
            elif attribute.name in DTYPE_ATTRIBUTES and attribute.i in HALVES.values():
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for i, name in enumerate(node.output):
            half = HALVES.get(types.get(name, ""))
            if half is not None:
                exact, narrow = f"{name}/exact", f"{name}/rounded"
                node.output[i] = exact
                nodes += [cast_node(exact, narrow, half), cast_node(narrow, name, TensorProto.FLOAT)]
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in graph.initializer:
        _upcast(tensor)
    for value in [*graph.value_info] if is_main else [*graph.value_info, *graph.input, *graph.output]:
        for half in HALVES.values():
            retag(value.type, half, TensorProto.FLOAT)


def _upcast(tensor: TensorProto) -> None:
    """Half to float32, which is exact; other tensors stay."""
    if tensor.data_type in HALVES.values():
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
