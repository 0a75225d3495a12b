"""Complex tensors as pairs of real ones, so that what is traced holds no complex number, which ONNX has none of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_complex = torch.complex
_SAME = (  # noqa: SIM905
    "unsqueeze squeeze reshape view flatten unflatten transpose swapaxes permute movedim expand expand_as repeat "
    "contiguous clone detach chunk split unbind select narrow index_select roll flip __getitem__ t mT cat stack sum "
    "mean tile broadcast_to ravel diagonal repeat_interleave fftshift ifftshift"
).split()
"""Functions that do the same to the real and to the imaginary part."""


class Pair:
    """A complex tensor as its real and its imaginary part, of one shape and dtype. What it has no arithmetic for raises
    NotImplementedError."""

    def __init__(self, real: Tensor, imag: Tensor) -> None:
        self.real, self.imag = real, imag

    def as_tensor(self) -> Tensor:
        """The complex tensor that it stands for."""
        return _complex(self.real, self.imag)

    @property
    def shape(self) -> Any:
        return self.real.shape

    @property
    def ndim(self) -> int:
        return self.real.ndim

    @property
    def device(self) -> torch.device:
        return self.real.device

    @property
    def dtype(self) -> torch.dtype:
        return {torch.float32: torch.complex64, torch.float64: torch.complex128}[self.real.dtype]

    @property
    def mT(self) -> Pair:
        return Pair(self.real.mT, self.imag.mT)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _applied(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        method = getattr(Tensor, name, None)
        if name.startswith("__") or not callable(method):
            raise AttributeError(name)
        return lambda *args, **kwargs: _applied(method, (self, *args), kwargs)

    def __getitem__(self, index: Any) -> Pair:
        return Pair(self.real[index], self.imag[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        value = pair(value)
        self.real[index], self.imag[index] = value.real, value.imag

    def __len__(self) -> int:
        return len(self.real)

    def __add__(self, other: Any) -> Pair:
        return _add(self, other)

    def __sub__(self, other: Any) -> Pair:
        return _sub(self, other)

    def __rsub__(self, other: Any) -> Pair:
        return _sub(other, self)

    def __mul__(self, other: Any) -> Pair:
        return _mul(self, other)

    def __truediv__(self, other: Any) -> Pair:
        return _div(self, other)

    def __rtruediv__(self, other: Any) -> Pair:
        return _div(other, self)

    def __neg__(self) -> Pair:
        return Pair(-self.real, -self.imag)

    def __abs__(self) -> Tensor:
        return _abs(self)

    def __pow__(self, exponent: Any) -> Pair:
        return _pow(self, exponent)

    def __matmul__(self, other: Any) -> Pair:
        return _bilinear(torch.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Pair:
        return _bilinear(torch.matmul, other, self)

    __radd__, __rmul__ = __add__, __mul__


def pair(value: Any) -> Any:
    """A complex tensor or number as a pair; a real one as it is."""
    if isinstance(value, complex):
        return Pair(torch.tensor(value.real), torch.tensor(value.imag))
    if isinstance(value, Tensor) and value.is_complex():
        return Pair(value.real, value.imag)
    return value


def _parts(value: Any) -> tuple[Any, Any]:
    value = pair(value)
    return (value.real, value.imag) if isinstance(value, Pair) else (value, None)


def _add(a: Any, b: Any, alpha: float = 1) -> Pair:
    (ar, ai), (br, bi) = _parts(a), _parts(b)
    real = ar + br * alpha
    imag = ai if bi is None else bi * alpha if ai is None else ai + bi * alpha
    return Pair(real, imag + torch.zeros_like(real))  # broadcast as the real part


def _sub(a: Any, b: Any, alpha: float = 1) -> Pair:
    return _add(a, b, -alpha)


def _mul(a: Any, b: Any) -> Pair:
    (ar, ai), (br, bi) = _parts(a), _parts(b)
    if bi is None:
        return Pair(ar * br, ai * br)
    if ai is None:
        return Pair(ar * br, ar * bi)
    return Pair(ar * br - ai * bi, ar * bi + ai * br)


def _div(a: Any, b: Any) -> Pair:
    br, bi = _parts(b)
    if bi is None:
        return Pair(a.real / br, a.imag / br)
    over = br * br + bi * bi
    return _mul(a, Pair(br / over, -bi / over))


def _bilinear(function: Callable[..., Tensor], a: Any, b: Any) -> Pair:
    (ar, ai), (br, bi) = _parts(a), _parts(b)
    if bi is None:
        return Pair(function(ar, br), function(ai, br))
    if ai is None:
        return Pair(function(ar, br), function(ar, bi))
    return Pair(function(ar, br) - function(ai, bi), function(ar, bi) + function(ai, br))


def _einsum(equation: str, *operands: Any) -> Pair:
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    if len(given) == 1:
        return Pair(torch.einsum(equation, given[0].real), torch.einsum(equation, given[0].imag))
    if len(given) != 2:
        raise NotImplementedError("einsum of more than two complex tensors")
    return _bilinear(lambda a, b: torch.einsum(equation, a, b), *given)


def _abs(z: Pair) -> Tensor:
    return (z.real * z.real + z.imag * z.imag).sqrt()


def _pow(z: Pair, exponent: Any) -> Pair:
    if exponent != 2:
        raise NotImplementedError(f"a complex tensor to the power of {exponent}")
    return _mul(z, z)


def _exp(z: Pair) -> Pair:
    size = z.real.exp()
    return Pair(size * z.imag.cos(), size * z.imag.sin())


_OWN: dict[str, Callable[..., Any]] = {
    "abs": _abs,
    "absolute": _abs,
    "angle": lambda z: torch.atan2(z.imag, z.real),
    "real": lambda z: z.real,
    "imag": lambda z: z.imag,
    "view_as_real": lambda z: torch.stack((z.real, z.imag), -1),
    "conj": lambda z: Pair(z.real, -z.imag),
    "resolve_conj": lambda z: z,
    "conj_physical": lambda z: Pair(z.real, -z.imag),
    "is_complex": lambda z: True,
    "is_floating_point": lambda z: False,
    "size": lambda z, *dim: z.real.size(*dim),
    "dim": lambda z: z.real.dim(),
    "numel": lambda z: z.real.numel(),
    "neg": lambda z: Pair(-z.real, -z.imag),
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "multiply": _mul,
    "div": _div,
    "true_divide": _div,
    "pow": _pow,
    "square": lambda z: _mul(z, z),
    "exp": _exp,
    "matmul": lambda a, b: _bilinear(torch.matmul, a, b),
    "bmm": lambda a, b: _bilinear(torch.bmm, a, b),
    "einsum": _einsum,
    "where": lambda condition, a, b: _where(condition, a, b),
    "zeros_like": lambda z: Pair(torch.zeros_like(z.real), torch.zeros_like(z.imag)),
}
for _name in ("add", "sub", "mul", "matmul"):
    _OWN[f"__{_name}__"] = _OWN[_name]
_OWN |= {"__radd__": lambda a, b: _add(b, a), "__rsub__": lambda a, b: _sub(b, a), "__rmul__": lambda a, b: _mul(b, a)}
_OWN |= {"__truediv__": _div, "__rtruediv__": lambda a, b: _div(b, a), "__rdiv__": lambda a, b: _div(b, a)}
_OWN["__rmatmul__"] = lambda a, b: _bilinear(torch.matmul, b, a)
_OWN["__setitem__"] = lambda *_: _refused("assigning a complex tensor into one that is no pair")


def _where(condition: Tensor, a: Any, b: Any) -> Pair:
    (ar, ai), (br, bi) = _parts(a), _parts(b)
    zero = torch.zeros(())
    return Pair(
        torch.where(condition, ar, br),
        torch.where(condition, zero if ai is None else ai, zero if bi is None else bi),
    )


def _refused(what: str) -> Any:
    raise NotImplementedError(what)


def _applied(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    name = function.__name__
    if name in _OWN:
        return _OWN[name](*map(pair, args), **kwargs)
    if name not in _SAME:
        raise NotImplementedError(f"{name} of a complex tensor")
    halves = [function(*_half(args, part), **_half(kwargs, part)) for part in ("real", "imag")]
    if isinstance(halves[0], (tuple, list)):
        return tuple(Pair(real, imag) for real, imag in zip(*halves, strict=True))
    return Pair(*halves)


def _half(value: Any, part: str) -> Any:
    if isinstance(value, dict):
        return {name: _half(one, part) for name, one in value.items()}
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return type(value)(_half(one, part) for one in value)
    value = pair(value)
    return getattr(value, part) if isinstance(value, Pair) else value
