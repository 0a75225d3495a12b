"""What several stages ask of an ONNX graph: its operators, all its nodes, what it was made from, its bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from qntz.errors import ArtifactError
from qntz.packed import LARGE

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


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its large weights as inputs of the same names: to check, to infer shapes in, to fold, all of which
    would copy them, or could not beyond 2 GB."""
    graph = onnx.GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    for field in ("input", "output", "value_info"):
        getattr(graph, field).extend(getattr(model.graph, field))
    fed = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) <= LARGE:
            graph.initializer.append(tensor)
        elif tensor.name not in fed:  # as those of IR 3 are
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    bare = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    return bare


def with_weights(bare: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Puts back into what was made of `without_weights(model)` those weights that it still has as inputs."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    fed = {value.name for value in model.graph.input}
    inputs = list(bare.graph.input)
    used = {name for node in nodes_of(bare.graph) for name in node.input} | {one.name for one in bare.graph.output}
    del bare.graph.input[:]
    for value in inputs:
        if value.name in fed or value.name not in weights:
            bare.graph.input.append(value)
        elif value.name in used:
            bare.graph.initializer.append(weights[value.name])


def check(model: onnx.ModelProto, *, full: bool = True) -> None:
    """ONNX's own check, with shape inference where it is to be full; raises what that raises."""
    onnx.checker.check_model(without_weights(model), full_check=full)


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with the shapes of its tensors; raises onnx.shape_inference.InferenceError."""
    told = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for field in ("node", "output", "value_info"):
        del getattr(whole.graph, field)[:]
        getattr(whole.graph, field).extend(getattr(told, field))
    return whole


def made_from(model: onnx.ModelProto) -> dict[str, str]:
    """The files that went into the graph (weights, calibration data), as its metadata has them: SHA-256 by path; raises
    ArtifactError where these are damaged."""
    found = next((entry.value for entry in model.metadata_props if entry.key == MADE_FROM), "{}")
    try:
        return dict(json.loads(found))
    except (ValueError, TypeError) as error:
        do = "Remove the graph and run `dvc repro`."
        raise ArtifactError("is damaged", where=f"the graph's metadata {MADE_FROM}", why=str(error), do=do) from error


def add_made_from(model: onnx.ModelProto, files: Mapping[str, str]) -> None:
    """Adds files to those that the metadata name; the graph takes them along through all later stages."""
    told = {**made_from(model), **files}
    kept = [entry for entry in model.metadata_props if entry.key != MADE_FROM]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if told:
        model.metadata_props.add(key=MADE_FROM, value=json.dumps(told, sort_keys=True))
