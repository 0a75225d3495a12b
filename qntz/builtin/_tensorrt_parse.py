"""What TensorRT's parser makes of an ONNX file, and what it says of nodes that it refuses."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from qntz.builtin._tensorrt_watch import last_errors, make_logger, uncollected, without_driver_noise
from qntz.errors import BackendError

SHOWN = 3  # of the nodes that a parser refuses


def network_flags(trt: ModuleType) -> int:
    """STRONGLY_TYPED, where this version still has it: where it has not, no network is anything else."""
    flag = trt.NetworkDefinitionCreationFlag.__members__.get("STRONGLY_TYPED")
    return 0 if flag is None else 1 << int(flag)


def parsed(
    trt: ModuleType, builder: Any, logger: Any, graph: Path, where: str, *, strongly_typed: bool
) -> tuple[Any, Any]:
    """The network of an ONNX file, and the parser, which has to live until the engine is built.

    Args:
        where: the file in messages. strongly_typed: whether the graph's types are the network's.

    Raises:
        BackendError: the parser refuses nodes, or makes no layers.
    """
    network = builder.create_network(network_flags(trt) if strongly_typed else 0)
    parser = trt.OnnxParser(network, logger)
    # From the file, not from bytes: a model of 500 MB is then in memory only once.
    if not parser.parse_from_file(str(graph)):
        raise parser_refusal(parser, logger, where)
    if network.num_layers == 0:
        raise BackendError("the graph is empty", where=where, why="the parser made no layers of it")
    return network, parser


@uncollected()
def refused_nodes(trt: ModuleType, data: bytes) -> list[tuple[int, str, str]]:
    """What the parser refuses of an ONNX file: each node's position, its operator and why. It needs no GPU for that."""
    logger = make_logger(trt, drop_driver_noise=True)
    network = trt.Builder(logger).create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if parser.parse(data):
        return []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [(error.node(), error.node_operator(), _described(error)) for error in errors]


def _described(error: Any) -> str:
    text = " ".join(without_driver_noise(str(error.desc())).split())
    if "Plugin not found" in text:  # what the parser says of every operator that it does not know
        text = "no such operator, and no plugin of that name"
    if text.strip() in ("", "false"):  # an assertion's text, and nothing else
        text = "the parser does not take it"
    return text.rstrip(".")


def parser_refusal(parser: Any, logger: Any, where: str) -> BackendError:
    """All that the parser refuses, as one error: how many nodes, and the first of them."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return BackendError("the parser refuses the graph", where=where, why=last_errors(logger))
    named = [error for error in errors if error.node_operator() or error.node_name()]
    shown = [] if named else [_described(errors[0])]
    for error in named[:SHOWN]:
        shown.append(f"node {error.node()} {error.node_name()} ({error.node_operator()}): {_described(error)}")
    more = f"; and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    many = f"{len(named)} node{'s' if len(named) > 1 else ''}" if named else "the graph"
    return BackendError(
        f"the parser refuses {many}",
        where=where,
        why="; ".join(shown) + more,
        do="Rewrite them by a plugin (qntz_symbolics, qntz_graph_passes), or change the model.",
        nodes=[(error.node(), error.node_name(), error.node_operator(), _described(error)) for error in named],
    )
