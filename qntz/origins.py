"""Where the nodes of a simplified graph come from: the module and the statement of the source, by the index that the
export wrote (sources.json). A simplifier makes nodes of several and gives them names of its own."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from qntz.quantizable import node_names

_OUTPUT = re.compile(r"_output_\d+$")  # torch's exporter calls a tensor by its node
_REACH = 8  # nodes that are looked behind


@dataclass(frozen=True)
class Origin:
    """module: its path, "" for the model itself or where it is not known. statement: as `qntz.statements` writes it, ""
    where it is not known."""

    module: str = ""
    statement: str = ""


def origin_of(tensor: str, model: onnx.ModelProto, come_from: Mapping[str, Origin]) -> Origin:
    """That of the nearest node of the top-level graph that reads a tensor and has one (`origins` of the same names)."""
    named = list(zip(node_names(model.graph), model.graph.node, strict=True))
    ahead, seen = deque([tensor]), 0
    while ahead and seen < _REACH:
        name = ahead.popleft()
        seen += 1
        for node_name, node in named:
            if name in node.input:
                origin = come_from.get(node_name, Origin())
                if origin.module or origin.statement:
                    return origin
                ahead.extend(node.output)
    return Origin()


def origins(model: onnx.ModelProto, sources: Mapping[str, Mapping[str, str]]) -> dict[str, Origin]:
    """The origin of each node of the top-level graph, by its name (`node_names`): its own, where the index has it; else
    that of what it gives, of a parameter that it reads, or of the next node behind it that is known."""
    graph = model.graph
    modules = {entry["module"]: entry for entry in sources.values()}
    weights = {tensor.name for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def known(node: onnx.NodeProto) -> Mapping[str, str] | None:
        for name in (node.name, *(_OUTPUT.sub("", output) for output in node.output)):
            if name in sources:
                return sources[name]
        for name in node.input:
            module = name.rpartition(".")[0]
            if module and name in weights and module in modules:
                return modules[module]
        return None

    found = {}
    for name, node in zip(node_names(graph), graph.node, strict=True):
        entry, seen = None, 0
        ahead = deque([node])
        while entry is None and ahead and seen < _REACH:
            one = ahead.popleft()
            seen += 1
            entry = known(one)
            ahead.extend(reader for output in one.output for reader in readers.get(output, ()))
        found[name] = Origin(entry["module"], entry["statement"]) if entry else Origin()
    return found
