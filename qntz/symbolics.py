"""Plugins' translations of torch operators to ONNX, known to torch's exporter for as long as one export takes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from qntz.errors import PluginError, one_line
from qntz.records import Provided


@contextlib.contextmanager
def registered(symbolics: Sequence[Provided], opset: int) -> Iterator[dict[str, list[str]]]:
    """Registers the symbolics with torch for one export; yields of each the paths of the modules that used it."""
    import torch

    fired: dict[str, list[str]] = {}

    def counting(provided: Provided) -> Any:
        def call(g: Any, *args: Any, **kwargs: Any) -> Any:
            fired[provided.record.name].append(_module_of(g.original_node.scopeName()))
            try:
                return provided.record.function(g, *args, **kwargs)
            except Exception as error:
                raise PluginError(
                    f"symbolic {provided.record.name!r} fails", where=provided.provider, why=one_line(error)
                ) from error

        return call

    for provided in symbolics:
        fired[provided.record.name] = []
        torch.onnx.register_custom_op_symbolic(provided.record.name, counting(provided), opset)
    try:
        yield fired
    finally:
        for name in fired:
            torch.onnx.unregister_custom_op_symbolic(name, opset)
            _forget(name)


def _module_of(scope: str) -> str:
    """The path of the module of a scope, "Net::/Block::body.0/Linear::body.0.linear"."""
    return ".".join(filter(None, (part.partition("::")[2] for part in scope.split("/"))))


def _forget(name: str) -> None:
    """Takes an operator out of torch's registry that torch has no translation of: unregistering leaves it there without
    any, and the next export fails over the empty table, where it should say that the operator is not supported."""
    import torch

    # the registry's module has moved between torch's versions; the one that registers knows it
    registry = sys.modules[torch.onnx.register_custom_op_symbolic.__module__].registration.registry  # type: ignore[attr-defined]
    group = registry.get_function_group(name)
    if group is not None and not group._functions:
        del registry._registry[name]
