"""What the symbolics are written with: constants, ranks and arguments of torch's TorchScript exporter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qntz.records import Example, Symbolic


def shipped(name: str, function: Callable[..., Any]) -> Symbolic:
    """A symbolic with its examples."""
    import torch

    from qntz.builtin._examples import FUNCTIONS, SCRIPTS

    examples = [Example(one) for one in FUNCTIONS.get(name, ())]
    if name in SCRIPTS:
        examples.append(Example(module=lambda: torch.jit.script(SCRIPTS[name]())))
    return Symbolic(name, function, tolerance=2e-5, examples=tuple(examples))


def rank(tensor: Any, what: str) -> int:
    """The number of dimensions; raises torch's SymbolicValueError where the graph does not tell."""
    from torch.onnx import errors, symbolic_helper

    found = symbolic_helper._get_tensor_rank(tensor)
    if found is None:
        raise errors.SymbolicValueError(f"{what} of a tensor of unknown rank", tensor)
    return int(found)


def integers(g: Any, *values: int) -> Any:
    """A constant of one dimension, int64."""
    import torch

    return g.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))


def integer(g: Any, value: int) -> Any:
    """A constant without dimensions, int64."""
    import torch

    return g.op("Constant", value_t=torch.tensor(value, dtype=torch.int64))


def number(g: Any, value: float, like: Any) -> Any:
    """A constant without dimensions of another value's dtype."""
    import torch

    return g.op("Constant", value_t=torch.tensor(value, dtype=dtype_of(like)))


def dtype_of(tensor: Any) -> Any:
    """The torch.dtype of a value of the graph; raises torch's SymbolicValueError where the graph does not tell."""
    from torch.onnx import errors

    name = tensor.type().scalarType()
    if name is None:
        raise errors.SymbolicValueError("an operand of unknown dtype", tensor)
    return _dtypes()[name]


def _dtypes() -> dict[str, Any]:
    import torch

    return {
        "Float": torch.float32,
        "Double": torch.float64,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }


def cast(g: Any, tensor: Any, onnx_type: str) -> Any:
    """The tensor as "FLOAT", "INT64", "BOOL" or another of ONNX's types."""
    from torch.onnx import TensorProtoDataType

    return g.op("Cast", tensor, to_i=getattr(TensorProtoDataType, onnx_type))


def cast_as(g: Any, tensor: Any, like: Any) -> Any:
    """The tensor in another value's dtype."""
    from torch.onnx import JitScalarType

    return g.op("Cast", tensor, to_i=JitScalarType.from_dtype(dtype_of(like)).onnx_type())


def constant(value: Any, kind: str, name: str) -> Any:
    """An argument that is a constant: kind "i", "f", "b", "s" or "is"."""
    from torch.onnx import symbolic_helper

    return symbolic_helper._get_const(value, kind, name)


def joined(g: Any, parts: Sequence[Any]) -> Any:
    """Numbers of the graph as one tensor of one dimension."""
    return g.op("Concat", *(g.op("Reshape", part, integers(g, 1)) for part in parts), axis_i=0)


def listed(g: Any, value: Any) -> Any:
    """An argument that is a list of integers, constant or computed, as a tensor of one dimension, int64."""
    from torch.onnx import symbolic_helper as helper

    if helper._is_packed_list(value):
        return joined(g, helper._unpack_list(value))
    if value.node().kind() == "onnx::Constant" or value.node().mustBeNone():
        return integers(g, *constant(value, "is", "sizes"))
    return value


def is_none(value: Any) -> bool:
    from torch.onnx import symbolic_helper

    return value is None or bool(symbolic_helper._is_none(value))


def size(g: Any, tensor: Any, axis: int) -> Any:
    """The size of an axis, int64, one element."""
    return g.op("Gather", g.op("Shape", tensor), integers(g, axis))


def unsqueezed(g: Any, tensor: Any, *axes: int) -> Any:
    return g.op("Unsqueeze", tensor, integers(g, *axes))


def axis_last(g: Any, tensor: Any, axis: int, dimensions: int) -> Any:
    """The tensor with an axis moved to the end."""
    if axis == dimensions - 1:
        return tensor
    order = [i for i in range(dimensions) if i != axis] + [axis]
    return g.op("Transpose", tensor, perm_i=order)


def axis_back(g: Any, tensor: Any, axis: int, dimensions: int) -> Any:
    """The tensor with its last axis moved to where it was."""
    if axis == dimensions - 1:
        return tensor
    order = list(range(dimensions - 1))
    order.insert(axis, dimensions - 1)
    return g.op("Transpose", tensor, perm_i=order)
