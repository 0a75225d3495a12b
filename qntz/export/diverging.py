"""Finds the first node of an exported graph that computes something else than the captured model does.

Both are run with what they compute on the way as outputs. Of a ScriptModule a node is known by the place in its code,
of an exported program by the name of its node; where a place is run several times, by the order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from qntz import ort
from qntz.compare import relative_error
from qntz.errors import ExportError
from qntz.export.names import place, place_in
from qntz.packed import packed
from qntz.records import Arrays, Capture

_NODE = "pkg.torch.onnx.fx_node"


def keys_of(model: Any) -> dict[str, Any]:
    """By the name of a node of the main graph what it is known by in the captured model.

    Args:
        model: as an exporter wrote it, with doc strings and metadata.
    """
    found = {node.name: place(node) or _fx_node(node) for node in model.graph.node if node.op_type != "Constant"}
    return {name: key for name, key in found.items() if key is not None}


def first_diverging(
    captured: Capture, model: Any, keys: Mapping[str, Any], inputs: Arrays, tolerance: float
) -> str | None:
    """The name of the first node of the main graph whose output on these inputs is off by more than `tolerance` of its
    largest magnitude; None where none is found. keys: as `keys_of` gives them."""
    import torch

    scripted = isinstance(captured.module, torch.jit.ScriptModule)
    try:
        known = dict(_counted((_of_script if scripted else _of_program)(captured, inputs)))
        told = ((keys[node.name], node) for node in model.graph.node if node.name in keys)
        common = {key: node for key, node in _counted(told) if key in known}
        computed = _computed(model, [node.output[0] for node in common.values()], inputs)
    except (RuntimeError, ExportError):  # torch or ONNX Runtime does not run it with these outputs
        return None
    for key, node in common.items():
        if relative_error(computed[node.output[0]], known[key].numpy()) > tolerance:
            return str(node.name)
    return None


def _counted(told: Iterable[tuple[Any, Any]]) -> Iterator[tuple[tuple[Any, int], Any]]:
    """Of each run of one key the last value, by the key and how many runs it had before."""
    counts: dict[Any, int] = {}
    for key, group in groupby(told, lambda one: one[0]):
        yield (key, counts.setdefault(key, 0)), list(group)[-1][1]
        counts[key] += 1


def _fx_node(node: Any) -> str | None:
    text = next((entry.value for entry in node.metadata_props if entry.key == _NODE), "")
    return text.partition(" ")[0].lstrip("%") or None


def _of_script(captured: Capture, inputs: Arrays) -> Iterable[tuple[Any, Any]]:
    """What a ScriptModule computes on the way, outside of its branches and loops."""
    import torch

    frozen = torch._C._freeze_module(captured.module._c, [], True, False)
    graph = torch.jit._recursive.wrap_cpp_module(frozen).graph.copy()
    nodes = [
        node
        for node in graph.nodes()
        if node.kind().startswith("aten::") and node.outputsSize() == 1 and node.output().type().kind() == "TensorType"
    ]
    results = graph.create("prim::TupleConstruct", [node.output() for node in nodes], 1)
    results.output().setType(torch._C.TupleType([node.output().type() for node in nodes]))
    graph.appendNode(results)
    while len(list(graph.outputs())):
        graph.eraseOutput(0)
    graph.registerOutput(results.output())
    graph.eraseInput(0)
    function = torch._C._create_function_from_graph("forward", graph)
    with torch.no_grad():
        values = function(*(torch.from_numpy(inputs[name].copy()) for name in captured.shapes))
    return [(place_in(node.sourceRange()), value) for node, value in zip(nodes, values, strict=True)]


def _of_program(captured: Capture, inputs: Arrays) -> Iterable[tuple[Any, Any]]:
    """What the nodes of an exported program compute."""
    import torch

    program = captured.module.run_decompositions()
    values: dict[str, Any] = {}

    class Recorder(torch.fx.Interpreter):
        def run_node(self, node: Any) -> Any:
            result = super().run_node(node)
            if isinstance(result, torch.Tensor):
                values[node.name] = result
            return result

    with torch.no_grad():
        Recorder(program.module(check_guards=False)).run(*(torch.from_numpy(inputs[n].copy()) for n in captured.shapes))
    return values.items()


def _computed(model: Any, names: list[str], inputs: Arrays) -> Arrays:
    """These values of the graph, by name."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    known = {one.name for one in copied.graph.output}
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names) if name not in known)
    return ort.run_all(packed(copied, "model.onnx"), [inputs])[0]
