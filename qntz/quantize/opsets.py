"""A graph of a higher opset: formats newer than the export's have no Q/DQ in its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from qntz.errors import QuantizeError, one_line
from qntz.graph import default_opset
from qntz.quantizable import node_names
from qntz.quantize.proof import prove_equal
from qntz.records import Arrays

WHERE = "quantize.precision"


def raised(model: onnx.ModelProto, opset: int, before: Path, probes: Sequence[Arrays]) -> onnx.ModelProto:
    """The model in this opset, or itself where its own is as high, proven to compute the same.

    Args:
        before: the file that the model was read from. probes: inputs by name.

    Raises:
        QuantizeError: ONNX cannot convert it, or it computes something else then.
    """
    old = default_opset(model)
    if old >= opset:
        return model
    do = f"Set export.opset to {opset} or as near as your exporter goes."
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for node, name in zip(named.graph.node, node_names(named.graph), strict=True):
        node.name = name
    try:
        higher = onnx.version_converter.convert_version(named, opset)
    except Exception as error:
        what = f"ONNX cannot convert the graph from opset {old} to {opset}"
        raise QuantizeError(what, where=WHERE, why=one_line(error), do=do) from error
    higher.ir_version = max(higher.ir_version, onnx.helper.find_min_ir_version_for(higher.opset_import))
    lost = {node.name for node in named.graph.node} - {node.name for node in higher.graph.node}
    if lost:
        what = f"ONNX's conversion from opset {old} to {opset} drops nodes"
        raise QuantizeError(what, where=WHERE, why=", ".join(sorted(lost)[:3]), do=do)
    prove_equal(before, higher, probes, f"opset {opset} changes what the model computes", WHERE, do)
    return higher
