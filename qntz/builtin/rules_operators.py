"""The rules on operators: what torch's ONNX exporter does not translate, and what TensorRT's parser does not take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from qntz.hookspecs import hookimpl
from qntz.records import Finding, Rule

if TYPE_CHECKING:
    from qntz.check import Subject

ROUTES = ("trace", "script")


@hookimpl
def qntz_rules() -> Iterable[Rule]:
    yield Rule(
        code="QZ019",
        slug="unsupported-onnx-op",
        severity="warning",
        what="torch's ONNX exporter does not translate an operator.",
        why="The export stops at it, unless a plugin rewrites it.",
        fix="Write it with other operators, raise export.opset, or translate it by a plugin (qntz_symbolics).",
        routes=ROUTES,
        link="",
        find=unsupported_onnx_op,
    )
    yield Rule(
        code="QZ020",
        slug="unsupported-engine-op",
        severity="warning",
        what="TensorRT's parser does not take an operator.",
        why="The engine is refused after all other work is done, unless a plugin rewrites it.",
        fix="Write it with other operators, rewrite it by a plugin (qntz_graph_passes), or take another backend.",
        routes=ROUTES,
        link="",
        find=unsupported_engine_op,
    )


def unsupported_onnx_op(subject: Subject) -> Iterator[Finding]:
    """The operators of a trace that the exporter has no translation for, or refuses with these arguments."""
    for operator in subject.exported().refused:
        message = f"{operator.name}: {operator.why}"
        yield subject.finding("unsupported-onnx-op", "warning", operator.place, message, "exporter", operator.chain)
    for operator in subject.exported().rewritten:
        message = f"{operator.name}: {operator.why}"
        yield subject.finding("unsupported-onnx-op", "note", operator.place, message, "exporter", operator.chain)


def unsupported_engine_op(subject: Subject) -> Iterator[Finding]:
    """The nodes of the exported graph that the parser of TensorRT-RTX refuses, where it is installed."""
    from qntz.check.operators import place_of_stack

    data, unusual = subject.exported().data, subject.exported().unusual
    if data is None:
        return
    try:
        import tensorrt_rtx
    except ImportError:
        return  # not to be had for this platform
    import onnx

    from qntz.builtin._tensorrt_parse import refused_nodes

    nodes = onnx.load_from_string(data).graph.node
    for number, operator, why in refused_nodes(tensorrt_rtx, data):
        stack = nodes[number].doc_string if 0 <= number < len(nodes) else ""
        suspect = (unusual[0].place, unusual[0].chain) if unusual else (subject.index.place_of_forward(), ())
        place, chain = place_of_stack(stack, subject.index) or suspect
        message = f"{operator or 'a node'}: {why}"
        yield subject.finding("unsupported-engine-op", "warning", place, message, "parser", chain)
