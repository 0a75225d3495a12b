"""Translations to ONNX of shapes and matrices that torch's TorchScript exporter lacks, or has without the rank that its
next step asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qntz.builtin._onnx import (
    cast,
    constant,
    integer,
    integers,
    joined,
    listed,
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
    for function in (
        unflatten,
        mT,
        trace,
        diag_embed,
        diag,
        inner,
        vdot,
        addmv,
        kron,
        pdist,
        argwhere,
        diff,
        roll,
        linspace,
        unbind,
    ):
        yield shipped(f"aten::{function.__name__}", function)
    if opset >= 18:
        yield shipped("aten::col2im", col2im)


def unflatten(g: Any, tensor: Any, dim: Any, sizes: Any) -> Any:
    """A Reshape of known rank. torch's own has none once the graph was saved, and what comes after it (a transpose, as
    in every attention) is refused."""
    from torch.onnx import symbolic_helper as helper

    dimensions = rank(tensor, "unflatten")
    axis = constant(dim, "i", "dim") % dimensions
    if helper._is_packed_list(sizes):
        given = list(helper._unpack_list(sizes))
    else:
        given = [integers(g, one) for one in constant(sizes, "is", "sizes")]
    kept = [g.op("Gather", g.op("Shape", tensor), integer(g, i)) for i in range(dimensions) if i != axis]
    parts = [*kept[:axis], *given, *kept[axis:]]
    result = g.op("Reshape", tensor, joined(g, parts))
    return result.setType(tensor.type().with_sizes([None] * len(parts)))


def mT(g: Any, tensor: Any) -> Any:
    """Tensor.mT: the last two dimensions, exchanged."""
    dimensions = rank(tensor, "mT")
    return g.op("Transpose", tensor, perm_i=[*range(dimensions - 2), dimensions - 1, dimensions - 2])


def _is_diagonal(g: Any, rows: Any, columns: Any) -> Any:
    """Where row and column are the same; rows, columns: sizes of one element."""
    zero, one = integer(g, 0), integer(g, 1)
    down = g.op("Range", zero, g.op("Squeeze", rows), one)
    along = g.op("Range", zero, g.op("Squeeze", columns), one)
    return g.op("Equal", unsqueezed(g, down, 1), along)


def trace(g: Any, matrix: Any) -> Any:
    """The sum of the diagonal of a matrix."""
    diagonal = _is_diagonal(g, size(g, matrix, 0), size(g, matrix, 1))
    return g.op("ReduceSum", g.op("Where", diagonal, matrix, number(g, 0, matrix)), keepdims_i=0)


def diag_embed(g: Any, tensor: Any, offset: Any, dim1: Any, dim2: Any) -> Any:
    """The last dimension as the diagonal of matrices, in the last two dimensions."""
    from torch.onnx import errors

    if (constant(offset, "i", "offset"), constant(dim1, "i", "dim1"), constant(dim2, "i", "dim2")) != (0, -2, -1):
        raise errors.SymbolicValueError("diag_embed with an offset or other dimensions than the last", tensor)
    length = size(g, tensor, rank(tensor, "diag_embed") - 1)
    return g.op("Where", _is_diagonal(g, length, length), unsqueezed(g, tensor, -1), number(g, 0, tensor))


def diag(g: Any, tensor: Any, diagonal: Any) -> Any:
    """A vector as the diagonal of a matrix, or the diagonal of a matrix."""
    from torch.onnx import errors

    if constant(diagonal, "i", "diagonal") != 0:
        raise errors.SymbolicValueError("diag of another diagonal than the main one", tensor)
    if rank(tensor, "diag") == 1:
        length = size(g, tensor, 0)
        return g.op("Where", _is_diagonal(g, length, length), unsqueezed(g, tensor, -1), number(g, 0, tensor))
    rows, columns = size(g, tensor, 0), size(g, tensor, 1)
    kept = g.op("Where", _is_diagonal(g, rows, columns), tensor, number(g, 0, tensor))
    along = g.op("ReduceSum", kept, integers(g, 1), keepdims_i=0)
    return g.op("Slice", along, integers(g, 0), g.op("Min", rows, columns), integers(g, 0))


def inner(g: Any, one: Any, other: Any) -> Any:
    """The sum of products over the last dimensions of vectors or matrices."""
    if rank(one, "inner") == 1 or rank(other, "inner") == 1:
        return g.op("MatMul", one, other) if rank(one, "inner") > 1 else g.op("MatMul", other, one)
    if rank(other, "inner") > 2:
        from torch.onnx import errors

        raise errors.SymbolicValueError("inner with a tensor of more than two dimensions", other)
    return g.op("MatMul", one, g.op("Transpose", other, perm_i=[1, 0]))


def vdot(g: Any, one: Any, other: Any) -> Any:
    """The sum of products of two real vectors."""
    return g.op("MatMul", one, other)


def addmv(g: Any, tensor: Any, matrix: Any, vector: Any, beta: Any, alpha: Any) -> Any:
    """beta * tensor + alpha * (matrix @ vector)."""
    product = g.op("MatMul", matrix, vector)
    added = g.op("Mul", tensor, number(g, constant(beta, "f", "beta"), tensor))
    return g.op("Add", added, g.op("Mul", product, number(g, constant(alpha, "f", "alpha"), tensor)))


def kron(g: Any, one: Any, other: Any) -> Any:
    """The Kronecker product of two tensors with as many dimensions."""
    from torch.onnx import errors

    dimensions = rank(one, "kron")
    if dimensions != rank(other, "kron"):
        raise errors.SymbolicValueError("kron of tensors with another number of dimensions", other)
    first = unsqueezed(g, one, *range(1, 2 * dimensions, 2))
    second = unsqueezed(g, other, *range(0, 2 * dimensions, 2))
    sizes = g.op("Mul", g.op("Shape", one), g.op("Shape", other))
    result = g.op("Reshape", g.op("Mul", first, second), sizes)
    return result.setType(one.type().with_sizes([None] * dimensions))


def pdist(g: Any, rows: Any, p: Any) -> Any:
    """The distances between all pairs of rows: those above the diagonal of the full matrix, row by row."""
    from torch.onnx import errors

    if constant(p, "f", "p") != 2:
        raise errors.SymbolicValueError("pdist with another norm than 2", rows)
    apart = g.op("Sub", unsqueezed(g, rows, 1), unsqueezed(g, rows, 0))
    distances = g.op("Sqrt", g.op("ReduceSum", g.op("Mul", apart, apart), integers(g, 2), keepdims_i=0))
    number_of = g.op("Range", integer(g, 0), g.op("Squeeze", size(g, rows, 0)), integer(g, 1))
    above = g.op("Greater", unsqueezed(g, number_of, 0), unsqueezed(g, number_of, 1))
    return g.op("GatherND", distances, g.op("Transpose", g.op("NonZero", above), perm_i=[1, 0]))


def argwhere(g: Any, tensor: Any) -> Any:
    """The indices of what is not zero, one row each."""
    return g.op("Transpose", g.op("NonZero", cast(g, tensor, "BOOL")), perm_i=[1, 0])


def diff(g: Any, tensor: Any, n: Any, dim: Any, prepend: Any, append: Any) -> Any:
    """What each element is more than the one before it along a dimension, n times over."""
    dimensions = rank(tensor, "diff")
    axis = constant(dim, "i", "dim") % dimensions
    parts = [part for part in (prepend, tensor, append) if part.type().kind() != "NoneType"]
    found = g.op("Concat", *parts, axis_i=axis) if len(parts) > 1 else tensor
    last = integers(g, 2**62)
    for _ in range(constant(n, "i", "n")):
        later = g.op("Slice", found, integers(g, 1), last, integers(g, axis))
        earlier = g.op("Slice", found, integers(g, 0), integers(g, -1), integers(g, axis))
        found = g.op("Sub", later, earlier)
    return found


def col2im(g: Any, columns: Any, output_size: Any, kernel_size: Any, dilation: Any, padding: Any, stride: Any) -> Any:
    """Tensor fold. torch's own takes sizes that the graph computes only where the graph was not saved."""
    sizes = [listed(g, value) for value in (output_size, kernel_size)]
    pads = constant(padding, "is", "padding")
    return g.op(
        "Col2Im",
        columns,
        *sizes,
        dilations_i=constant(dilation, "is", "dilation"),
        pads_i=[*pads, *pads],
        strides_i=constant(stride, "is", "stride"),
    )


def roll(g: Any, x: Any, shifts: Any, dims: Any) -> Any:
    """By a number of places that may be computed, which torch's own takes as a constant."""
    axes = constant(dims, "is", "dims")
    rolled, dimensions = (x, rank(x, "roll")) if axes else (g.op("Reshape", x, integers(g, -1)), 1)
    places, end = listed(g, shifts), integers(g, 2**63 - 1)
    for i, axis in enumerate([axis % dimensions for axis in axes] or [0]):
        here = g.op("Gather", places, integers(g, i))
        count = size(g, rolled, axis)
        start = g.op("Sub", count, g.op("Mod", here, count))
        parts = ((start, end), (integers(g, 0), start))
        cut = [g.op("Slice", rolled, first, last, integers(g, axis)) for first, last in parts]
        rolled = g.op("Concat", *cut, axis_i=axis)
    return rolled if axes else g.op("Reshape", rolled, g.op("Shape", x))


def linspace(g: Any, start: Any, end: Any, steps: Any, dtype: Any, layout: Any, device: Any, pin_memory: Any) -> Any:
    """Also of one step, which torch's own divides by zero for; of float32."""
    import torch
    from torch.onnx import errors

    if constant(dtype, "i", "dtype") not in (None, 6) or torch.get_default_dtype() != torch.float32:
        raise errors.SymbolicValueError("linspace of another dtype than float32", start)
    first, last, count = (cast(g, one, "FLOAT") for one in (start, end, steps))
    one = g.op("Constant", value_t=torch.tensor(1.0))
    step = g.op("Div", g.op("Sub", last, first), g.op("Max", g.op("Sub", count, one), one))
    places = g.op("Range", g.op("Constant", value_t=torch.tensor(0.0)), count, one)
    return g.op("Add", first, g.op("Mul", places, step))


def unbind(g: Any, x: Any, dim: Any = None, _outputs: Any = None) -> Any:
    """Into a number of parts that is not known before a run. torch's own names the sizes, with which ONNX keeps the
    dimension: a decision by the rank is then wrong."""
    from torch.onnx import symbolic_opset13

    if _outputs is not None:
        return symbolic_opset13.unbind(g, x, dim, _outputs)
    axis = 0 if dim is None else constant(dim, "i", "dim")
    return g.op("SplitToSequence", x, axis_i=axis, keepdims_i=0)
