"""Translations to ONNX of functions that rank, count, search and accumulate along a dimension, and of norms, which
torch's TorchScript exporter lacks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from qntz.builtin._onnx import (
    axis_back,
    axis_last,
    cast,
    cast_as,
    constant,
    dtype_of,
    integer,
    integers,
    is_none,
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
    functions = (
        median,
        kthvalue,
        quantile,
        msort,
        cumsum,
        cumprod,
        cummax,
        cummin,
        searchsorted,
        isin,
        equal,
        count_nonzero,
        nansum,
    )
    for function in (*functions, nanmean, norm):
        yield shipped(f"aten::{function.__name__}", function)


def _smallest(g: Any, x: Any, count: Any, axis: int) -> tuple[Any, Any]:
    """The smallest elements along an axis in ascending order, and their indices. count: one element."""
    return g.op("TopK", x, count, axis_i=axis, largest_i=0, sorted_i=1, outputs=2)


def _last(g: Any, x: Any, axis: int, keep: bool) -> Any:
    return g.op("Gather", x, integers(g, -1) if keep else integer(g, -1), axis_i=axis)


def median(g: Any, x: Any, dim: Any = None, keepdim: Any = None) -> Any:
    """The lower of the two middle elements; along a dimension with its index."""
    if dim is None:
        x, axis, keep = g.op("Reshape", x, integers(g, -1)), 0, False
    else:
        axis, keep = constant(dim, "i", "dim") % rank(x, "median"), bool(constant(keepdim, "b", "keepdim"))
    half = g.op("Div", g.op("Add", size(g, x, axis), integers(g, 1)), integers(g, 2))
    values, indices = (_last(g, one, axis, keep) for one in _smallest(g, x, half, axis))
    return values if dim is None else (values, indices)


def kthvalue(g: Any, x: Any, k: Any, dim: Any, keepdim: Any) -> tuple[Any, Any]:
    """The k-th smallest element along a dimension, and its index."""
    axis, keep = constant(dim, "i", "dim") % rank(x, "kthvalue"), bool(constant(keepdim, "b", "keepdim"))
    smallest = _smallest(g, x, g.op("Reshape", k, integers(g, 1)), axis)
    values, indices = (_last(g, one, axis, keep) for one in smallest)
    return values, indices


def quantile(g: Any, x: Any, q: Any, dim: Any = None, keepdim: Any = None, interpolation: Any = None) -> Any:
    """By linear interpolation between the two nearest elements; of a list of quantiles with these first."""
    from torch.onnx import errors

    if not is_none(interpolation) and constant(interpolation, "s", "interpolation") != "linear":
        raise errors.SymbolicValueError("a quantile that is not by linear interpolation", x)
    keep = not is_none(keepdim) and bool(constant(keepdim, "b", "keepdim"))
    if is_none(dim):
        if keep:
            raise errors.SymbolicValueError("a quantile of all elements that keeps the dimensions", x)
        x, axis = g.op("Reshape", x, integers(g, -1)), 0
    else:
        axis = constant(dim, "i", "dim") % rank(x, "quantile")
    count = size(g, x, axis)
    values, _ = _smallest(g, x, count, axis)
    last = g.op("Sub", cast_as(g, count, x), number(g, 1.0, x))
    place = g.op("Mul", g.op("Reshape", cast_as(g, q, x), integers(g, -1)), last)
    below = g.op("Floor", place)
    ends = [cast(g, one, "INT64") for one in (below, g.op("Ceil", place))]
    lower, upper = (g.op("Gather", values, one, axis_i=axis) for one in ends)
    part = g.op("Sub", place, below)
    behind = (rank(x, "quantile") if not is_none(dim) else 1) - 1 - axis
    weight = unsqueezed(g, part, *range(1, behind + 1)) if behind else part
    found = g.op("Add", lower, g.op("Mul", g.op("Sub", upper, lower), weight))
    if rank(q, "quantile") == 0:
        return found if keep else g.op("Squeeze", found, integers(g, axis))
    found = g.op("Transpose", found, perm_i=[axis, *(i for i in range(axis + behind + 1) if i != axis)])
    return unsqueezed(g, found, axis + 1) if keep else found


def msort(g: Any, x: Any) -> Any:
    return _smallest(g, x, size(g, x, 0), 0)[0]


def _windows(g: Any, x: Any, dim: Any, beyond: float) -> tuple[Any, int, int]:
    """For each element those up to it, along a new last axis, and `beyond` in place of those after it."""
    dimensions = rank(x, "a cumulative function")
    axis = constant(dim, "i", "dim") % dimensions
    last = axis_last(g, x, axis, dimensions)
    places = g.op("Range", integer(g, 0), g.op("Squeeze", size(g, x, axis)), integer(g, 1))
    reached = g.op("LessOrEqual", places, unsqueezed(g, places, 1))
    return g.op("Where", reached, unsqueezed(g, last, -2), number(g, beyond, x)), axis, dimensions


def _reduced(g: Any, operator: str, x: Any) -> Any:
    if g.opset >= 18:
        return g.op(operator, x, integers(g, -1), keepdims_i=0)
    return g.op(operator, x, axes_i=[-1], keepdims_i=0)


def cumsum(g: Any, x: Any, dim: Any, dtype: Any = None) -> Any:
    """Of booleans and small integers in int64, as torch counts; torch's own asks for CumSum of booleans."""
    from torch.onnx import symbolic_opset11

    return symbolic_opset11.cumsum(g, x if dtype_of(x).is_floating_point else cast(g, x, "INT64"), dim, dtype)


def cumprod(g: Any, x: Any, dim: Any, dtype: Any = None) -> Any:
    windows, axis, dimensions = _windows(g, x, dim, 1)
    return axis_back(g, _reduced(g, "ReduceProd", windows), axis, dimensions)


def cummax(g: Any, x: Any, dim: Any) -> tuple[Any, Any]:
    """The largest element up to each, and the last index that has it."""
    return _extreme(g, x, dim, -math.inf, "Max")


def cummin(g: Any, x: Any, dim: Any) -> tuple[Any, Any]:
    return _extreme(g, x, dim, math.inf, "Min")


def _extreme(g: Any, x: Any, dim: Any, beyond: float, which: str) -> tuple[Any, Any]:
    windows, axis, dimensions = _windows(g, x, dim, beyond)
    values = _reduced(g, f"Reduce{which}", windows)
    indices = g.op(f"Arg{which}", windows, axis_i=-1, keepdims_i=0, select_last_index_i=1)
    return axis_back(g, values, axis, dimensions), axis_back(g, indices, axis, dimensions)


def searchsorted(g: Any, row: Any, x: Any, out_int32: Any, right: Any, side: Any = None, sorter: Any = None) -> Any:
    """How many elements of the sorted row are less than x, or with `right` not more."""
    from torch.onnx import errors

    if not is_none(sorter):
        raise errors.SymbolicValueError("searchsorted with a sorter", sorter)
    from_right = bool(constant(right, "b", "right")) or (not is_none(side) and constant(side, "s", "side") == "right")
    row = unsqueezed(g, row, -2) if rank(row, "searchsorted") > 1 else row
    below = g.op("LessOrEqual" if from_right else "Less", row, unsqueezed(g, x, -1))
    found = g.op("ReduceSum", cast(g, below, "INT64"), integers(g, -1), keepdims_i=0)
    return cast(g, found, "INT32") if constant(out_int32, "b", "out_int32") else found


def isin(g: Any, x: Any, known: Any, assume_unique: Any, invert: Any) -> Any:
    same = g.op("Equal", unsqueezed(g, x, -1), g.op("Reshape", known, integers(g, -1)))
    found = cast(g, g.op("ReduceSum", cast(g, same, "INT64"), integers(g, -1), keepdims_i=0), "BOOL")
    return g.op("Not", found) if constant(invert, "b", "invert") else found


def equal(g: Any, a: Any, b: Any) -> Any:
    """Whether shapes and all elements are the same."""
    sizes = _all(g, g.op("Equal", g.op("Shape", a), g.op("Shape", b)))
    return g.op("And", sizes, _all(g, g.op("Equal", a, b)))


def _all(g: Any, truths: Any) -> Any:
    others = g.op("ReduceSum", cast(g, g.op("Not", truths), "INT64"), keepdims_i=0)
    return g.op("Not", cast(g, others, "BOOL"))


def count_nonzero(g: Any, x: Any, dim: Any = None) -> Any:
    counted = cast(g, cast(g, x, "BOOL"), "INT64")
    if is_none(dim):
        return g.op("ReduceSum", counted, keepdims_i=0)
    axes = constant(dim, "is", "dim") if _is_list(dim) else [constant(dim, "i", "dim")]
    return g.op("ReduceSum", counted, integers(g, *axes), keepdims_i=0)


def _is_list(value: Any) -> bool:
    return str(value.type()).startswith(("List", "int[]"))


def nansum(g: Any, x: Any, dim: Any = None, keepdim: Any = None, dtype: Any = None) -> Any:
    return _sum(g, g.op("Where", g.op("IsNaN", x), number(g, 0, x), x), dim, keepdim)


def nanmean(g: Any, x: Any, dim: Any = None, keepdim: Any = None, dtype: Any = None) -> Any:
    numbers = g.op("Where", g.op("IsNaN", x), number(g, 0, x), number(g, 1, x))
    return g.op("Div", nansum(g, x, dim, keepdim), _sum(g, numbers, dim, keepdim))


def _sum(g: Any, x: Any, dim: Any, keepdim: Any) -> Any:
    if is_none(dim):
        return g.op("ReduceSum", x, keepdims_i=0)
    keep = int(bool(constant(keepdim, "b", "keepdim")))
    return g.op("ReduceSum", x, integers(g, *constant(dim, "is", "dim")), keepdims_i=keep)


def norm(g: Any, x: Any, p: Any = None, dim: Any = None, keepdim: Any = None, dtype: Any = None) -> Any:
    """The norm of order p over some dimensions or all; torch's own asks for the dimensions, which a script leaves
    out."""
    order = 2.0 if is_none(p) else float(constant(p, "f", "p"))
    keep = 0 if is_none(keepdim) else int(bool(constant(keepdim, "b", "keepdim")))
    axes = None if is_none(dim) else constant(dim, "is", "dim")
    if axes is None or not axes:
        x, axes = g.op("Reshape", x, integers(g, -1)), [0]
        if keep:
            from torch.onnx import errors

            raise errors.SymbolicValueError("norm over all dimensions that keeps them", x)
    sizes = g.op("Abs", x)
    if math.isinf(order):
        return _over(g, "ReduceMax" if order > 0 else "ReduceMin", sizes, axes, keep)
    if order in (1.0, 2.0):
        return _over(g, f"ReduceL{order:.0f}", x, axes, keep)
    if order == 0:
        return _over(g, "ReduceSum", g.op("Sign", sizes), axes, keep)
    powers = _over(g, "ReduceSum", g.op("Pow", sizes, number(g, order, x)), axes, keep)
    return g.op("Pow", powers, number(g, 1 / order, x))


def _over(g: Any, operator: str, x: Any, axes: list[int], keep: int) -> Any:
    if g.opset >= 18 or operator == "ReduceSum":
        return g.op(operator, x, integers(g, *axes), keepdims_i=keep)
    return g.op(operator, x, axes_i=list(axes), keepdims_i=keep)
