"""Conversions of numbers with the casts that they stand for, and arithmetic of floats as Python has it, in float64. A
number is a tensor without dimensions in an exported graph; `IntImplicit` and `FloatImplicit` are what the exporter may
erase."""

import math
from collections.abc import Callable
from typing import Any, Union

import torch
from torch import Tensor


def int_of_tensor(x: Tensor) -> int:
    return torch.ops.aten.IntImplicit(x.to(torch.int64))


def int_of_float(x: float) -> int:
    return torch.ops.aten.IntImplicit(torch.scalar_tensor(x, dtype=torch.float64).to(torch.int64))


def int_of_scalar(x: Union[int, float, complex]) -> int:
    return torch.ops.aten.IntImplicit(torch.scalar_tensor(x, dtype=torch.float64).to(torch.int64))


def float_of_tensor(x: Tensor) -> float:
    return torch.ops.aten.FloatImplicit(x.to(torch.float64))


def float_of_scalar(x: Union[int, float, complex]) -> float:
    return torch.ops.aten.FloatImplicit(torch.scalar_tensor(x, dtype=torch.float64))


def ceil_of_float(x: float) -> int:
    return torch.ops.aten.IntImplicit(torch.scalar_tensor(x, dtype=torch.float64).ceil().to(torch.int64))


def floor_of_float(x: float) -> int:
    return torch.ops.aten.IntImplicit(torch.scalar_tensor(x, dtype=torch.float64).floor().to(torch.int64))


def double(x: Union[int, float, complex]) -> Tensor:
    """Of one dimension: the exporter computes with what has none in float32."""
    return torch.scalar_tensor(x, dtype=torch.float64).reshape([1])


def product(x: Union[int, float, complex], y: Union[int, float, complex]) -> float:
    return torch.ops.aten.FloatImplicit((double(x) * double(y)).reshape([]))


def quotient(x: Union[int, float, complex], y: Union[int, float, complex]) -> float:
    return torch.ops.aten.FloatImplicit((double(x) / double(y)).reshape([]))


def total(x: Union[int, float, complex], y: Union[int, float, complex]) -> float:
    return torch.ops.aten.FloatImplicit((double(x) + double(y)).reshape([]))


def difference(x: Union[int, float, complex], y: Union[int, float, complex]) -> float:
    return torch.ops.aten.FloatImplicit((double(x) - double(y)).reshape([]))


CONVERSIONS: dict[str, Callable[..., Any]] = {
    "Int.Tensor": int_of_tensor,
    "Int.float": int_of_float,
    "Int.Scalar": int_of_scalar,
    "Float.Tensor": float_of_tensor,
    "Float.Scalar": float_of_scalar,
    "ceil.float": ceil_of_float,
    "floor.float": floor_of_float,
    "div.int": quotient,
    "div.float": quotient,
    "div": quotient,
    **{f"mul.{kind}": product for kind in ("int_float", "float_int", "float")},
    **{f"add.{kind}": total for kind in ("int_float", "float_int", "float")},
    **{f"sub.{kind}": difference for kind in ("int_float", "float_int", "float")},
}
"""By the operator's name and overload the function that takes its place."""


_WHOLE = frozenset(
    f"aten::{name}" for name in ("add", "sub", "rsub", "mul", "neg", "floor_divide", "remainder", "detach")
)

_MOST = 1000  # values that are looked at


def converts(node: Any) -> bool:
    """Whether an operator of CONVERSIONS is more than a change of type: a trace has an `aten::Int` at each use of a
    size, whose tensor holds whole numbers already."""
    return node.kind() != "aten::Int" or not _is_whole(node.inputsAt(0))


def _is_whole(value: Any) -> bool:
    """Whether a number, or a tensor of numbers, is certain to be of int64: sizes, and what is computed of them. Each
    value is looked at once; one that is computed of very many is not certain."""
    left, seen = [value], set()
    while left:
        one = left.pop()
        if (name := one.debugName()) in seen:
            continue
        seen.add(name)
        made_of = _made_of(one)
        if made_of is None or len(seen) > _MOST:
            return False
        left += made_of
    return True


def _made_of(value: Any) -> list[Any] | None:
    """The values that have to be of int64 for this one to be; None where it is not certain whatever they are."""
    kind, node = value.type().kind(), value.node()
    if kind != "TensorType":
        return [] if kind == "IntType" else None
    if node.kind() == "prim::TupleUnpack" and (packed := node.inputsAt(0).node()).kind() == "prim::TupleConstruct":
        return [packed.inputsAt(value.offset())]
    if node.kind() == "prim::Constant":
        constant = value.toIValue()
        whole = type(constant) is int or (isinstance(constant, Tensor) and constant.dtype == torch.int64)
        return [] if whole else None
    if node.kind() == "aten::div" and node.inputsSize() == 3:  # with a way to round
        return list(node.inputs())[:2] if node.inputsAt(2).type().kind() == "StringType" else None
    return list(node.inputs()) if node.kind() in (*_WHOLE, "prim::NumToTensor") else None


class Converting(torch.nn.Module):
    """All of them, of values and sizes, of an input [n, m, 5]."""

    def forward(self, x: Tensor) -> Tensor:
        length = x.size(1)
        half, up, down = int(length * 0.5), math.ceil(length / 3), math.floor(length / 3)
        half = half + int(length * 0.29 - half * 0.5) + int(0.1 + 0.7 * (length + 0.25)) - int(2.5 * 0.5 + length / 2)
        half = half + int((length - 0.5) * (0.1 + length) / 0.3 - 0.1) % 3 + int(0.29 * length - (0.5 - length)) % 3
        for _ in range(int(x.abs().sum() * 0.1) % 5 + 1):
            x = x * 0.9 + float(x.max())
        count = int(x[0, 0].sum().item()) + int(x.size(1) / x[0].abs().max().ceil().item())
        return x[:, :half].sum(1) * float(length) + x[:, : up + down].sum(1) * count
