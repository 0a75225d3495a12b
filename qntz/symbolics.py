"""Plugins' translations of torch operators to ONNX, known to torch's exporter for as long as one export takes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from qntz.errors import PluginError, one_line
from qntz.records import Provided


@contextlib.contextmanager
def registered(symbolics: Sequence[Provided], opset: int, forbid: Sequence[str] = ()) -> Iterator[dict[str, int]]:
    """Registers the symbolics with torch for one export; yields how often each was used."""
    import torch

    fired: dict[str, int] = {}

    def counting(provided: Provided) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            fired[provided.record.name] += 1
            try:
                return provided.record.function(*args, **kwargs)
            except Exception as error:
                raise PluginError(
                    f"symbolic {provided.record.name!r} fails", where=provided.provider, why=one_line(error)
                ) from error

        return call

    for provided in symbolics:
        if provided.record.name not in forbid:
            fired[provided.record.name] = 0
            torch.onnx.register_custom_op_symbolic(provided.record.name, counting(provided), opset)
    try:
        yield fired
    finally:
        for name in fired:
            torch.onnx.unregister_custom_op_symbolic(name, opset)
            _forget(name)


def _forget(name: str) -> None:
    """Takes an operator out of torch's registry that torch has no translation of: unregistering leaves it there without
    any, and the next export fails over the empty table, where it should say that the operator is not supported."""
    import torch

    # the registry's module has moved between torch's versions; the one that registers knows it
    registry = sys.modules[torch.onnx.register_custom_op_symbolic.__module__].registration.registry  # type: ignore[attr-defined]
    group = registry.get_function_group(name)
    if group is not None and not group._functions:
        del registry._registry[name]
