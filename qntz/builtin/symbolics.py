"""Translations to ONNX that torch's TorchScript exporter lacks, or has without the rank that its next step asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qntz.hookspecs import hookimpl
from qntz.records import Symbolic


@hookimpl
def qntz_symbolics(opset: int) -> Iterable[Symbolic]:
    yield Symbolic(name="aten::unflatten", function=unflatten)
    yield Symbolic(name="aten::mT", function=matrix_transpose)


def unflatten(g: Any, tensor: Any, dim: Any, sizes: Any) -> Any:
    """A Reshape of known rank. torch's own has none once the graph was saved, and what comes after it (a transpose, as
    in every attention) is refused."""
    from torch.onnx import symbolic_helper as helper

    rank = _rank(tensor, "unflatten")
    axis = helper._get_const(dim, "i", "dim") % rank
    if helper._is_packed_list(sizes):
        given = list(helper._unpack_list(sizes))
    else:
        given = [_integer(g, size) for size in helper._get_const(sizes, "is", "sizes")]
    kept = [g.op("Gather", g.op("Shape", tensor), _integer(g, i, scalar=True)) for i in range(rank) if i != axis]
    parts = [*kept[:axis], *given, *kept[axis:]]
    one_dimensional = [g.op("Reshape", part, _integer(g, 1)) for part in parts]
    result = g.op("Reshape", tensor, g.op("Concat", *one_dimensional, axis_i=0))
    return result.setType(tensor.type().with_sizes([None] * len(parts)))


def matrix_transpose(g: Any, tensor: Any) -> Any:
    """Tensor.mT: the last two dimensions, exchanged."""
    rank = _rank(tensor, "mT")
    return g.op("Transpose", tensor, perm_i=[*range(rank - 2), rank - 1, rank - 2])


def _rank(tensor: Any, what: str) -> int:
    from torch.onnx import errors, symbolic_helper

    rank = symbolic_helper._get_tensor_rank(tensor)
    if rank is None:
        raise errors.SymbolicValueError(f"{what} of a tensor of unknown rank", tensor)
    return int(rank)


def _integer(g: Any, value: int, scalar: bool = False) -> Any:
    import torch

    return g.op("Constant", value_t=torch.tensor(value if scalar else [value], dtype=torch.int64))
