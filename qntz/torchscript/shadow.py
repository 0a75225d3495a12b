"""What takes values out of torch, for as long as a model is traced, in a form that leaves them in: `float(x)`,
`x.item()`, `len(x)`, `math.exp(x.item())` and `x.numpy()` give tensors, which the trace follows.

Built-in functions and modules are shadowed in the namespaces of the model's own source alone. Whatever they cannot
stand for (a range, an index of a list) still gets the value itself, which the trace then freezes.
"""

from __future__ import annotations

import builtins
import contextlib
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_MISSING = object()


class _Converter(type):
    """A built-in type that gives tensors for tensors, and is the built-in one for everything else."""

    real: type
    convert: Callable[[Tensor], Any]

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            return cls.convert(args[0].reshape(()))
        return cls.real(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.real)


class _Float(metaclass=_Converter):
    real = float
    convert = staticmethod(lambda x: x if x.is_floating_point() else x.to(torch.get_default_dtype()))


class _Int(metaclass=_Converter):
    real = int
    convert = staticmethod(lambda x: x.to(torch.int64))  # towards zero, as int() rounds


def _len(value: Any) -> Any:
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else builtins.len(value)


def _round(value: Any, digits: Any = None) -> Any:
    if not isinstance(value, Tensor):
        return builtins.round(value) if digits is None else builtins.round(value, digits)
    return value.round().to(torch.int64) if digits is None else torch.round(value, decimals=digits)


def _extreme(real: Callable[..., Any], of_tensors: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        scalars = len(args) == 2 and not kwargs and all(isinstance(one, (int, float, Tensor)) for one in args)
        if not scalars or not any(isinstance(one, Tensor) for one in args) or any(_dimensions(one) for one in args):
            return real(*args, **kwargs)
        first, second = (one if isinstance(one, Tensor) else torch.as_tensor(one) for one in args)
        return of_tensors(*torch.broadcast_tensors(*_promoted(first, second)))

    return call


def _dimensions(value: Any) -> int:
    return value.dim() if isinstance(value, Tensor) else 0


def _promoted(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.result_type(one, other)
    return one.to(dtype), other.to(dtype)


_BUILTINS: Mapping[str, Any] = {
    "float": _Float,
    "int": _Int,
    "len": _len,
    "round": _round,
    "max": _extreme(builtins.max, torch.maximum),
    "min": _extreme(builtins.min, torch.minimum),
}
_WHOLE = ("floor", "ceil", "trunc")
_MATH = {"fabs": "abs"}  # the others have the same name in torch


def _of_math(name: str) -> Any:
    """A function of `math` that takes tensors too, where torch has it; a constant as it is."""
    real = getattr(math, name)
    of_tensors = getattr(torch, _MATH.get(name, name), None)
    if not callable(real) or of_tensors is None:
        return real

    def call(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(one, Tensor) for one in args):
            return real(*args, **kwargs)
        found = of_tensors(*(_Float(one) if isinstance(one, Tensor) else torch.tensor(float(one)) for one in args))
        return found.to(torch.int64) if name in _WHOLE else found

    return call


class _Math(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _of_math(name)


def array_of(tensor: Tensor) -> Any:
    """A tensor as an array of torch's own NumPy, whose functions are torch's."""
    import torch._numpy

    return torch._numpy.asarray(tensor)


def tensor_of(value: Any) -> Any:
    """An array of torch's own NumPy as the tensor that it is, nested lists with tensors among them stacked; anything
    else as it is."""
    import torch._numpy

    if isinstance(value, torch._numpy.ndarray):
        return value.tensor
    if isinstance(value, (list, tuple)) and any(
        isinstance(leaf, (Tensor, torch._numpy.ndarray)) for leaf in pytree.tree_leaves(list(value))
    ):
        return torch.stack([torch.as_tensor(tensor_of(one)) for one in value])
    return value


def _making(real: Callable[..., Any]) -> Callable[..., Any]:
    """torch.tensor or torch.as_tensor, of what has become a tensor."""

    def call(data: Any, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Any:
        found = tensor_of(data)
        if not isinstance(found, Tensor):
            return real(data, *args, dtype=dtype, **kwargs)
        of_numbers = found is not data and found.is_floating_point() and not hasattr(data, "tensor")
        return found.to(dtype or (torch.get_default_dtype() if of_numbers else found.dtype))

    return call


@contextlib.contextmanager
def shadowed(namespaces: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Shadows built-in functions, `math` and NumPy in these namespaces, and torch's functions that make tensors of
    numbers everywhere."""
    import torch._numpy

    modules = {math: _Math("math"), np: torch._numpy}
    kept: list[tuple[dict[str, Any], str, Any]] = []

    def put(namespace: dict[str, Any], name: str, value: Any) -> None:
        kept.append((namespace, name, namespace.get(name, _MISSING)))
        namespace[name] = value

    try:
        for namespace in namespaces:
            for name, value in list(namespace.items()):
                if isinstance(value, types.ModuleType) and value in modules:
                    put(namespace, name, modules[value])
                elif isinstance(value, types.BuiltinFunctionType) and value.__module__ == "math":
                    put(namespace, name, _of_math(value.__name__))
            for name, value in _BUILTINS.items():
                if name not in namespace:
                    put(namespace, name, value)
        from_numpy = torch.from_numpy
        put(vars(torch), "from_numpy", lambda a: f if isinstance(f := tensor_of(a), Tensor) else from_numpy(a))
        put(vars(torch), "tensor", _making(torch.tensor))
        put(vars(torch), "as_tensor", _making(torch.as_tensor))
        yield
    finally:
        for namespace, name, value in reversed(kept):
            if value is _MISSING:
                del namespace[name]
            else:
                namespace[name] = value
