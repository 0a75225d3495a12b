"""Adaptive pooling to ONNX where the input's sizes are dynamic, or no multiples of the output's: torch's TorchScript
exporter refuses both.

Cell i of n covers the elements from floor(i L / n) up to ceil((i + 1) L / n) of an axis of length L. Averages are a
product with a matrix of those ranges, axis by axis; maxima are taken of what lies in each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from qntz.builtin._onnx import (
    axis_back,
    axis_last,
    cast,
    constant,
    dtype_of,
    integer,
    integers,
    number,
    rank,
    shipped,
    size,
    unsqueezed,
)
from qntz.hookspecs import hookimpl
from qntz.records import Symbolic


@hookimpl
def qntz_symbolics(opset: int) -> Iterable[Symbolic]:
    for axes in (1, 2, 3):
        yield shipped(f"aten::adaptive_avg_pool{axes}d", _averages)
        yield shipped(f"aten::adaptive_max_pool{axes}d", _maxima)


def _sizes(x: Any, output_size: Any) -> dict[int, int]:
    """The output's sizes by axis."""
    cells = constant(output_size, "is", "output_size")
    first = rank(x, "adaptive pooling") - len(cells)
    return {first + number_of: count for number_of, count in enumerate(cells)}


def _averages(g: Any, x: Any, output_size: Any) -> Any:
    import torch

    cells, sizes = _sizes(x, output_size), x.type().varyingSizes() or []
    if set(cells.values()) == {1}:
        return _reduced(g, "ReduceMean", x, list(cells))
    if _divides(cells, sizes):
        kernel = [sizes[axis] // count for axis, count in cells.items()]
        return g.op("AveragePool", x, kernel_shape_i=kernel, strides_i=kernel)
    for axis, count in cells.items():
        dimensions = rank(x, "adaptive pooling")
        inside, lengths = _ranges(g, x, axis, count)
        dtype = {torch.float32: "FLOAT", torch.float16: "FLOAT16", torch.float64: "DOUBLE"}[dtype_of(x)]
        shares = g.op("Div", cast(g, inside, dtype), cast(g, lengths, dtype))
        last = axis_last(g, x, axis, dimensions)
        pooled = g.op("MatMul", last, g.op("Transpose", shares, perm_i=[1, 0]))
        pooled = axis_back(g, pooled, axis, dimensions)
        x = pooled.setType(x.type().with_sizes([None] * dimensions))
    return x


def _maxima(g: Any, x: Any, output_size: Any) -> tuple[Any, Any]:
    from torch.onnx import errors

    if list(g.original_node.outputs())[1].uses():
        raise errors.SymbolicValueError("adaptive max pooling whose indices are used", x)
    cells, sizes = _sizes(x, output_size), x.type().varyingSizes() or []
    if set(cells.values()) == {1}:
        found = _reduced(g, "ReduceMax", x, list(cells))
        return found, found
    if _divides(cells, sizes):
        kernel = [sizes[axis] // count for axis, count in cells.items()]
        found = g.op("MaxPool", x, kernel_shape_i=kernel, strides_i=kernel)
        return found, found
    for axis, count in cells.items():
        dimensions = rank(x, "adaptive pooling")
        inside, _ = _ranges(g, x, axis, count)
        last = unsqueezed(g, axis_last(g, x, axis, dimensions), -2)
        pooled = _reduced(g, "ReduceMax", g.op("Where", inside, last, number(g, -math.inf, x)), [-1], keep=False)
        pooled = axis_back(g, pooled, axis, dimensions)
        x = pooled.setType(x.type().with_sizes([None] * dimensions))
    return x, x


def _divides(cells: dict[int, int], sizes: list[int | None]) -> bool:
    return all(len(sizes) > axis and (length := sizes[axis]) and length % count == 0 for axis, count in cells.items())


def _ranges(g: Any, x: Any, axis: int, count: int) -> tuple[Any, Any]:
    """Which elements of an axis lie in each cell, a truth for each (cell, element); and how many do, (cell, 1)."""
    length = size(g, x, axis)
    cells = integers(g, *range(count))
    starts = g.op("Div", g.op("Mul", cells, length), integers(g, count))
    after = g.op("Mul", g.op("Add", cells, integers(g, 1)), length)
    ends = g.op("Div", g.op("Add", after, integers(g, count - 1)), integers(g, count))
    starts, ends = unsqueezed(g, starts, 1), unsqueezed(g, ends, 1)
    places = g.op("Range", integer(g, 0), g.op("Squeeze", length), integer(g, 1))
    inside = g.op("And", g.op("GreaterOrEqual", places, starts), g.op("Less", places, ends))
    return inside, g.op("Sub", ends, starts)


def _reduced(g: Any, operator: str, x: Any, axes: list[int], keep: bool = True) -> Any:
    if g.opset >= 18:
        return g.op(operator, x, integers(g, *axes), keepdims_i=int(keep))
    return g.op(operator, x, axes_i=axes, keepdims_i=int(keep))
