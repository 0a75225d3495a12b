"""What several stages ask of an ONNX graph: its operators, all its nodes, what it was made from, its bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from qntz.errors import ArtifactError, ExportError, one_line

_LARGE_WEIGHT = 2**16  # bytes; smaller ones may be shapes, which the inference asks for
LARGEST_MODEL = 2**31 - 1  # protobuf's limit for one message, in bytes
MADE_FROM = "qntz.made_from"  # a key of the model's metadata


def subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """The graphs that an attribute holds; most hold none."""
    return [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all its subgraphs, each after the one that holds it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in subgraphs(attribute):
                yield from graphs_of(subgraph)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs included, graph by graph."""
    for inner in graphs_of(graph):
        yield from inner.node


def read_model(path: Path) -> onnx.ModelProto:
    """The ONNX model of a file; raises ArtifactError where it is missing or none."""
    try:
        return onnx.load(str(path))
    except FileNotFoundError:
        raise ArtifactError("is missing", where=str(path), do="Run `dvc repro`.") from None
    except Exception as error:
        raise ArtifactError("is no ONNX model", where=str(path), why=one_line(error)) from error


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs, subgraphs included, sorted by name."""
    return dict(sorted(Counter(node.op_type for node in nodes_of(model.graph)).items()))


Size = tuple[Mapping[str, int], int]
"""A graph's operators by name, and its bytes."""


def folded(before: Size, after: Size) -> dict[str, Any]:
    """What became of a graph, for a record: nodes and bytes as [before, after], and the operators that changed."""
    numbers = {name: [one[0].get(name, 0) for one in (before, after)] for name in sorted({*before[0], *after[0]})}
    return {
        "nodes": [sum(one[0].values()) for one in (before, after)],
        "bytes": [before[1], after[1]],
        "operators": {name: both for name, both in numbers.items() if both[0] != both[1]},
    }


def default_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model takes; 1 where it names none."""
    return next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1)


def check(model: onnx.ModelProto) -> None:
    """ONNX's own check with shape inference, of the graph without its large weights, which would be copied three times;
    raises what that raises."""
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    for field in ("input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= _LARGE_WEIGHT:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    bare = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    onnx.checker.check_model(bare, full_check=True)


def model_bytes(model: onnx.ModelProto, where: str) -> bytes:
    """The model's bytes, the same for the same model; raises ExportError beyond 2 GB."""
    try:
        data = model.SerializeToString(deterministic=True)
    except ValueError as error:  # protobuf's own limit
        raise ExportError("the model is too large", where=where, why=f"ONNX files end at 2 GB: {error}") from error
    if len(data) > LARGEST_MODEL:
        raise ExportError(f"the model has {len(data)} bytes", where=where, why="ONNX files end at 2 GB")
    return bytes(data)


def made_from(model: onnx.ModelProto) -> dict[str, str]:
    """The files that went into the graph (weights, calibration data), as its metadata has them: SHA-256 by path."""
    found = next((entry.value for entry in model.metadata_props if entry.key == MADE_FROM), "{}")
    return dict(json.loads(found))


def add_made_from(model: onnx.ModelProto, files: Mapping[str, str]) -> None:
    """Adds files to those that the metadata name; the graph takes them along through all later stages."""
    told = {**made_from(model), **files}
    kept = [entry for entry in model.metadata_props if entry.key != MADE_FROM]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if told:
        model.metadata_props.add(key=MADE_FROM, value=json.dumps(told, sort_keys=True))
