"""The names in an exported graph: of its dynamic dimensions, and of its nodes by the module that they come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qntz.graph import graphs_of, nodes_of
from qntz.records import Arrays
from qntz.statements import statement_of

_STACK = "pkg.torch.onnx.stack_trace"
_CODE = re.compile(r'\s*File "code/(?P<file>[^"]+)", line (?P<line>\d+)\n')
_MARK = re.compile(r"^(?P<before> *)~+", re.MULTILINE)
_OURS = re.compile(r"(?<![^/.])qntz_(?:model|if|yes|no)[/.]")


def dynamic_axes(
    shapes: Mapping[str, Sequence[int | str]], probes: Sequence[Arrays], golden: Sequence[Arrays]
) -> dict[str, dict[int, str]]:
    """The dynamic dimensions by tensor and axis: those of the inputs by their names, those of the outputs where the
    probes' sizes differ, named after the input dimension that always has the same size, if one has."""
    axes = {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)} for name, shape in shapes.items()
    }
    sizes: dict[str, list[int]] = {
        label: [probe[name].shape[axis] for probe in probes]
        for name, named in axes.items()
        for axis, label in named.items()
    }
    for name, first in golden[0].items():
        axes[name] = {}
        for axis in range(first.ndim):
            seen = [outputs[name].shape[axis] for outputs in golden]
            if len(set(seen)) > 1:
                axes[name][axis] = next((label for label, given in sizes.items() if given == seen), f"{name}_{axis}")
    return {name: named for name, named in axes.items() if named}


def unwrap(model: Any) -> None:
    """Takes the scopes that the capture put around the model out of all names: "/qntz_model/layer/Gemm" is the user's
    "/layer/Gemm". What has the same name then, as in both branches of an `If`, is numbered."""
    values, nodes = _Plain(), _Plain()
    for graph in graphs_of(model.graph):
        for node in graph.node:
            node.name = nodes[node.name]
            for names in (node.input, node.output):
                names[:] = [values[name] for name in names]
        for named in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
            named.name = values[named.name]


class _Plain(dict[str, str]):
    """New names by the old, all different."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {"": 0}

    def __missing__(self, name: str) -> str:
        plain = found = _OURS.sub("", name)
        while found in self.taken and name:
            self.taken[plain] += 1
            found = f"{plain}_{self.taken[plain]}"
        self.taken.setdefault(found, 0)
        self[name] = found
        return found


def sources(model: Any, statements: Mapping[str, Sequence[Sequence[Any]]]) -> dict[str, dict[str, str]]:
    """By a node's name its operator, the path of the module that it comes from (the exporter names a node
    "/encoder/layer.0/query/MatMul"), and the statement of the source, "" where that is not told.

    Args:
        model: as an exporter wrote it, with doc strings and metadata. statements: as `records.Capture` has them.
    """
    index = {}
    for node in nodes_of(model.graph):
        scope = [part for part in node.name.split("/")[:-1] if part]
        told = {"operator": node.op_type, "module": ".".join(scope), "statement": statement(node, statements)}
        index[node.name] = told
    return index


def statement(node: Any, statements: Mapping[str, Sequence[Sequence[Any]]]) -> str:
    """The statement that a node comes from: of an exported program its stack trace, of a ScriptModule by its code."""
    stack = next((entry.value for entry in node.metadata_props if entry.key == _STACK), None)
    if stack is not None:
        return stack
    found = place(node)
    return statement_of(statements, *found) if found else ""


def place(node: Any) -> tuple[str, int, int] | None:
    """The file, line and column in a ScriptModule's code that a node was made of; None where none is told."""
    return place_in(node.doc_string)


def place_in(text: str) -> tuple[str, int, int] | None:
    """The same, of torch's description of a range of code."""
    head, mark = _CODE.match(text), _MARK.search(text)
    return (head["file"], int(head["line"]), len(mark["before"])) if head and mark else None
