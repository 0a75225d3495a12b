"""A graph of a higher opset: formats newer than the export's have no Q/DQ in its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from qntz.config import OPSETS
from qntz.errors import ExportError, QuantizeError, one_line
from qntz.graph import default_opset, with_weights, without_weights
from qntz.quantizable import node_names
from qntz.quantize.proof import prove_equal
from qntz.records import Arrays


def raised(model: onnx.ModelProto, opset: int, before: Path, probes: Sequence[Arrays], where: str) -> onnx.ModelProto:
    """The model in this opset, or itself where its own is as high, proven to compute the same.

    Args:
        before: the file that the model was read from. probes: inputs by name. where: the key that asks for it.

    Raises:
        QuantizeError: ONNX cannot convert it, or it computes something else then.
    """
    old = default_opset(model)
    if old >= opset:
        return model
    highest = min(opset, OPSETS[1])  # of an export
    do = f"Set export.opset to {highest}." if old < highest else "Choose another precision."
    what = f"ONNX cannot convert the graph from opset {old} to {opset}"
    if model.functions:
        raise QuantizeError(what, where=where, why="it has functions of its own", do=do)
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node, name in zip(named.graph.node, node_names(named.graph), strict=True):
        node.name = name
    try:  # without the weights: the converter copies them, and cannot beyond 2 GB
        higher = onnx.version_converter.convert_version(without_weights(named), opset)
    except Exception as error:
        raise QuantizeError(what, where=where, why=one_line(error), do=do) from error
    with_weights(higher, named)
    higher.producer_name, higher.producer_version = named.producer_name, named.producer_version
    del higher.metadata_props[:]
    higher.metadata_props.extend(named.metadata_props)
    least = onnx.helper.find_min_ir_version_for(higher.opset_import, ignore_unknown=True)
    higher.ir_version = max(named.ir_version, least)
    lost = {node.name for node in named.graph.node} - {node.name for node in higher.graph.node}
    if lost:
        raise QuantizeError(what, where=where, why=f"it drops {', '.join(sorted(lost)[:3])}", do=do)
    try:
        prove_equal(before, higher, probes, f"opset {opset} changes what the model computes", where, do)
    except ExportError as error:
        raise QuantizeError(what, where=where, why=f"{error.what}: {error.why}", do=do) from error
    return higher
