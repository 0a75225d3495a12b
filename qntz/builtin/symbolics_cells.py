"""Translations to ONNX of recurrent cells, of which torch's TorchScript exporter knows whole layers alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from qntz.builtin._onnx import integers, is_none, listed, shipped
from qntz.hookspecs import hookimpl
from qntz.records import Symbolic


@hookimpl
def qntz_symbolics(opset: int) -> Iterable[Symbolic]:
    for function in (gru_cell, rnn_tanh_cell, rnn_relu_cell):
        yield shipped(f"aten::{function.__name__}", function)
    yield shipped("aten::__contains_", contains)  # as the exporter has the name, which takes it for one in place


def _product(g: Any, x: Any, weight: Any, bias: Any) -> Any:
    """x [N, I] times weight [G, I], transposed, and bias [G]."""
    product = g.op("MatMul", x, g.op("Transpose", weight, perm_i=[1, 0]))
    return product if is_none(bias) else g.op("Add", product, bias)


def _parts(g: Any, x: Any, hidden: Any, count: int) -> list[Any]:
    """x [N, count * H] in `count` parts of the width of `hidden`, [N, H]."""
    width = g.op("Gather", g.op("Shape", hidden), integers(g, 1))
    places = [g.op("Mul", width, integers(g, i)) for i in range(count + 1)]
    return [g.op("Slice", x, places[i], places[i + 1], integers(g, 1)) for i in range(count)]


def _shaped(result: Any, x: Any) -> Any:
    """The result, as a matrix of x's dtype: in a loop the graph does not tell."""
    return result.setType(x.type().with_sizes([None, None]))


def gru_cell(g: Any, x: Any, hidden: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    """As torch.nn.GRUCell's documentation has it."""
    (a, b, c), (d, e, f) = (_parts(g, _product(g, *one), hidden, 3) for one in ((x, w_ih, b_ih), (hidden, w_hh, b_hh)))
    reset, update = (g.op("Sigmoid", g.op("Add", *pair)) for pair in ((a, d), (b, e)))
    new = g.op("Tanh", g.op("Add", c, g.op("Mul", reset, f)))
    return _shaped(g.op("Add", new, g.op("Mul", update, g.op("Sub", hidden, new))), x)


def rnn_tanh_cell(g: Any, x: Any, hidden: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    return _shaped(g.op("Tanh", g.op("Add", _product(g, x, w_ih, b_ih), _product(g, hidden, w_hh, b_hh))), x)


def rnn_relu_cell(g: Any, x: Any, hidden: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    return _shaped(g.op("Relu", g.op("Add", _product(g, x, w_ih, b_ih), _product(g, hidden, w_hh, b_hh))), x)


def contains(g: Any, values: Any, value: Any) -> Any:
    """Whether a list of integers holds one; also a list that is a constant, which torch's own refuses."""
    found = g.op("Equal", listed(g, values), value)
    return g.op("Greater", g.op("ReduceMax", g.op("Cast", found, to_i=7), keepdims_i=0), integers(g, 0))
