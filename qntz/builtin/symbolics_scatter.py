"""Translations of operators that write to places, of which several may be the same, and of `unique`, where torch's own
are wrong."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

from qntz.builtin._onnx import cast_as, constant, dtype_of, number, rank, shipped, unsqueezed
from qntz.hookspecs import hookimpl
from qntz.records import Symbolic

ADDS = 16  # the first opset whose scatters add
FIRST = {"sum": 16, "prod": 16, "mean": 16, "amax": 18, "amin": 18}  # opset whose ScatterElements reduces so
REDUCTIONS = {"sum": "add", "mean": "add", "prod": "mul", "amax": "max", "amin": "min"}
NEUTRAL = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "amax": float("-inf"), "amin": float("inf")}


@hookimpl
def qntz_symbolics(opset: int) -> Iterable[Symbolic]:
    yield shipped("aten::_unique2", unique)
    yield shipped("aten::index_add", index_add)
    yield shipped("aten::index_put", index_put)
    if opset >= 16:
        yield shipped("aten::scatter_reduce", scatter_reduce)
    else:
        yield Symbolic("aten::scatter_add", scatter_add)


def unique(g: Any, x: Any, is_sorted: Any, return_inverse: Any, return_counts: Any) -> Any:
    """torch's own gives the inverse in one dimension."""
    values, _, inverse, counts = g.op("Unique", x, sorted_i=int(constant(is_sorted, "b", "sorted")), outputs=4)
    return values, g.op("Reshape", inverse, g.op("Shape", x)), counts


def scatter_reduce(g: Any, x: Any, dim: Any, index: Any, source: Any, reduce: Any, include_self: Any) -> Any:
    """With means, and without what stood there before, where that is asked for."""
    from torch.onnx import errors

    how, axis = constant(reduce, "s", "reduce"), constant(dim, "i", "dim")
    if not dtype_of(x).is_floating_point:
        raise errors.SymbolicValueError("scatter_reduce of integers", x)
    if g.opset < FIRST[how]:
        raise errors.SymbolicValueError(f"scatter_reduce by {how} below opset {FIRST[how]}", x)
    with_self = bool(constant(include_self, "b", "include_self"))

    def scattered(onto: Any, values: Any, reduction: str) -> Any:
        return g.op("ScatterElements", onto, index, values, axis_i=axis, reduction_s=reduction)

    def filled(like: Any, value: float) -> Any:
        return g.op("Expand", number(g, value, x), g.op("Shape", like))

    result = scattered(x if with_self else filled(x, NEUTRAL[how]), source, REDUCTIONS[how])
    count = scattered(filled(x, float(with_self)), filled(index, 1.0), "add")
    if how == "mean":
        result = g.op("Div", result, g.op("Max", count, number(g, 1.0, x)))
    if with_self:
        return result
    return g.op("Where", g.op("Greater", count, number(g, 0.0, x)), result, x)


def scatter_add(g: Any, x: Any, dim: Any, index: Any, source: Any) -> Any:
    """Refused: torch's own keeps one of what is added to one place."""
    raise _too_low(x, "scatter_add")


def index_add(g: Any, x: Any, dim: Any, index: Any, source: Any, alpha: Any) -> Any:
    if g.opset < ADDS:
        raise _too_low(x, "index_add")
    dimensions = rank(source, "index_add")
    axis = constant(dim, "i", "dim") % dimensions
    places = unsqueezed(g, index, *(i for i in range(dimensions) if i != axis)) if dimensions > 1 else index
    places = g.op("Expand", places, g.op("Shape", source))
    added = g.op("Mul", source, cast_as(g, alpha, x))
    return g.op("ScatterElements", x, places, added, axis_i=axis, reduction_s="add")


def index_put(g: Any, x: Any, indices: Any, values: Any, accumulate: Any = None) -> Any:
    """torch's own, which keeps one of what is added to one place: here ScatterND adds."""
    adds = accumulate is not None and constant(accumulate, "b", "accumulate")
    if adds and g.opset < ADDS:
        raise _too_low(x, "index_put that accumulates")
    result = _torchs("symbolic_opset11", "index_put")(g, x, indices, values, accumulate)
    for value in result.node().inputs() if adds else ():
        if value.node().kind() == "onnx::ScatterND":
            value.node().s_("reduction", "add")
    return result


def _too_low(x: Any, what: str) -> Exception:
    from torch.onnx import errors

    return errors.SymbolicValueError(f"{what} below opset {ADDS}, which has no scatter that adds", x)


def _torchs(module: str, name: str) -> Callable[..., Any]:
    """A symbolic of torch's exporter, whose modules have moved between torch's versions."""
    from torch.onnx import utils

    home = utils.unconvertible_ops.__module__.rpartition(".")[0]
    return getattr(importlib.import_module(f"{home}.{module}"), name)  # type: ignore[no-any-return]
