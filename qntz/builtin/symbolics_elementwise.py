"""Translations to ONNX of element by element functions that torch's TorchScript exporter lacks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from qntz.builtin._onnx import cast, constant, dtype_of, is_none, number, shipped
from qntz.hookspecs import hookimpl
from qntz.records import Symbolic

_SAME = {"cosh": "Cosh", "sinh": "Sinh", "acosh": "Acosh", "asinh": "Asinh", "atanh": "Atanh", "sgn": "Sign"}
_SHIFT = 8  # by which lgamma and digamma move their argument up, to where their asymptotic series is exact in float32


@hookimpl
def qntz_symbolics(opset: int) -> Iterable[Symbolic]:
    for name, operator in _SAME.items():
        yield shipped(f"aten::{name}", _same(operator))
    own = (trunc, frac, logaddexp, xlogy, hypot, sinc, exp2, expm1, lgamma, digamma, signbit, copysign, fmax, fmin)
    for function in (
        *own,
        heaviside,
        isclose,
        addcdiv,
        deg2rad,
        rad2deg,
        ldexp,
        special_ndtr,
        rms_norm,
        nan_to_num,
        log1p,
    ):
        yield shipped(f"aten::{function.__name__}", function)
    if opset >= 18:
        yield shipped("aten::bitwise_xor", bitwise_xor)


def _same(operator: str) -> Any:
    return lambda g, x: g.op(operator, x)


def trunc(g: Any, x: Any) -> Any:
    """The whole number next to x towards zero."""
    return g.op("Mul", g.op("Sign", x), g.op("Floor", g.op("Abs", x)))


def frac(g: Any, x: Any) -> Any:
    return g.op("Sub", x, trunc(g, x))


def logaddexp(g: Any, a: Any, b: Any) -> Any:
    """log(exp(a) + exp(b)), by the larger of the two, so that nothing overflows."""
    apart = g.op("Neg", g.op("Abs", g.op("Sub", a, b)))
    beyond = g.op("Log", g.op("Add", g.op("Exp", apart), number(g, 1, a)))
    even = g.op("Add", a, number(g, math.log(2), a))  # also of infinities, whose difference is none
    return g.op("Where", g.op("Equal", a, b), even, g.op("Add", g.op("Max", a, b), beyond))


def xlogy(g: Any, x: Any, y: Any) -> Any:
    zero = g.op("And", g.op("Equal", x, number(g, 0, x)), g.op("Not", g.op("IsNaN", y)))
    return g.op("Where", zero, number(g, 0, x), g.op("Mul", x, g.op("Log", y)))


def hypot(g: Any, a: Any, b: Any) -> Any:
    """sqrt(a^2 + b^2), by the larger of the two, so that nothing overflows."""
    a, b = g.op("Abs", a), g.op("Abs", b)
    large = g.op("Max", a, b)
    safe = g.op("Where", g.op("Equal", large, number(g, 0, a)), number(g, 1, a), large)
    ratio = g.op("Div", g.op("Min", a, b), safe)
    return g.op("Mul", large, g.op("Sqrt", g.op("Add", number(g, 1, a), g.op("Mul", ratio, ratio))))


def sinc(g: Any, x: Any) -> Any:
    angle = g.op("Mul", x, number(g, math.pi, x))
    zero = g.op("Equal", x, number(g, 0, x))
    safe = g.op("Where", zero, number(g, 1, x), angle)
    return g.op("Where", zero, number(g, 1, x), g.op("Div", g.op("Sin", safe), safe))


def exp2(g: Any, x: Any) -> Any:
    return g.op("Pow", number(g, 2, x), x)


def expm1(g: Any, x: Any) -> Any:
    """exp(x) - 1 as tanh(x / 2) (exp(x) + 1), which keeps the figures of a small x."""
    half = g.op("Tanh", g.op("Mul", x, number(g, 0.5, x)))
    return g.op("Mul", half, g.op("Add", g.op("Exp", x), number(g, 1, x)))


def log1p(g: Any, x: Any) -> Any:
    """log(1 + x), in floats also of integers."""
    if x.type().scalarType() not in ("Float", "Double", "Half", "BFloat16"):
        x = cast(g, x, "FLOAT")
    return g.op("Log", g.op("Add", x, number(g, 1, x)))


def lgamma(g: Any, x: Any) -> Any:
    """log |gamma(x)|: Stirling's series at x + 8, less the logarithm of x (x + 1) ... (x + 7); below 0.5 by
    reflection."""
    low = g.op("Less", x, number(g, 0.5, x))
    up = g.op("Where", low, g.op("Sub", number(g, 1, x), x), x)
    factors = up
    for step in range(1, _SHIFT):
        factors = g.op("Mul", factors, g.op("Add", up, number(g, step, x)))
    high = g.op("Add", up, number(g, _SHIFT, x))
    inverse = g.op("Reciprocal", high)
    square = g.op("Mul", inverse, inverse)
    series = _polynomial(g, square, (1 / 12, -1 / 360, 1 / 1260))
    found = g.op("Mul", g.op("Sub", high, number(g, 0.5, x)), g.op("Log", high))
    found = g.op("Add", g.op("Sub", found, high), number(g, 0.5 * math.log(2 * math.pi), x))
    found = g.op("Sub", g.op("Add", found, g.op("Mul", series, inverse)), g.op("Log", factors))
    sine = g.op("Abs", g.op("Sin", g.op("Mul", frac(g, x), number(g, math.pi, x))))
    reflected = g.op("Sub", g.op("Log", g.op("Div", number(g, math.pi, x), sine)), found)
    return g.op("Where", low, reflected, found)


def digamma(g: Any, x: Any) -> Any:
    """The derivative of lgamma: its series at x + 8, less 1/x + ... + 1/(x + 7); below 0.5 by reflection."""
    low = g.op("Less", x, number(g, 0.5, x))
    up = g.op("Where", low, g.op("Sub", number(g, 1, x), x), x)
    inverses = g.op("Reciprocal", up)
    for step in range(1, _SHIFT):
        inverses = g.op("Add", inverses, g.op("Reciprocal", g.op("Add", up, number(g, step, x))))
    inverse = g.op("Reciprocal", g.op("Add", up, number(g, _SHIFT, x)))
    square = g.op("Mul", inverse, inverse)
    series = g.op("Mul", square, _polynomial(g, square, (1 / 12, -1 / 120, 1 / 252)))
    found = g.op("Sub", g.op("Neg", g.op("Log", inverse)), g.op("Mul", inverse, number(g, 0.5, x)))
    found = g.op("Sub", g.op("Sub", found, series), inverses)
    angle = g.op("Mul", frac(g, x), number(g, math.pi, x))
    cotangent = g.op("Div", g.op("Cos", angle), g.op("Sin", angle))
    reflected = g.op("Sub", found, g.op("Mul", cotangent, number(g, math.pi, x)))
    return g.op("Where", low, reflected, found)


def _polynomial(g: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    """c0 + c1 x + c2 x^2 + ..."""
    found = number(g, coefficients[-1], x)
    for coefficient in coefficients[-2::-1]:
        found = g.op("Add", g.op("Mul", found, x), number(g, coefficient, x))
    return found


def signbit(g: Any, x: Any) -> Any:
    """Whether x is negative, or a zero with a sign."""
    zero = number(g, 0, x)
    below = g.op("Less", x, zero)
    if not dtype_of(x).is_floating_point:
        return below
    return g.op("Or", below, g.op("Less", g.op("Reciprocal", x), zero))


def copysign(g: Any, x: Any, sign: Any) -> Any:
    size = g.op("Abs", x)
    return g.op("Where", signbit(g, sign), g.op("Neg", size), size)


def fmax(g: Any, a: Any, b: Any) -> Any:
    """The larger, and the other one where one is NaN."""
    return _beside_nan(g, a, b, g.op("Max", a, b))


def fmin(g: Any, a: Any, b: Any) -> Any:
    return _beside_nan(g, a, b, g.op("Min", a, b))


def _beside_nan(g: Any, a: Any, b: Any, found: Any) -> Any:
    return g.op("Where", g.op("IsNaN", a), b, g.op("Where", g.op("IsNaN", b), a, found))


def heaviside(g: Any, x: Any, at_zero: Any) -> Any:
    zero, one = number(g, 0, x), number(g, 1, x)
    step = g.op("Where", g.op("Greater", x, zero), one, zero)
    return g.op("Where", g.op("Equal", x, zero), at_zero, step)


def isclose(g: Any, a: Any, b: Any, rtol: Any, atol: Any, equal_nan: Any) -> Any:
    """|a - b| <= atol + rtol |b|, and where they are the same infinity."""
    apart = g.op("Abs", g.op("Sub", a, b))
    share = g.op("Mul", g.op("Abs", b), number(g, constant(rtol, "f", "rtol"), a))
    allowed = g.op("Add", share, number(g, constant(atol, "f", "atol"), a))
    near = g.op("And", g.op("LessOrEqual", apart, allowed), g.op("Not", g.op("IsInf", apart)))
    found = g.op("Or", g.op("Equal", a, b), near)
    if constant(equal_nan, "b", "equal_nan"):
        found = g.op("Or", found, g.op("And", g.op("IsNaN", a), g.op("IsNaN", b)))
    return found


def addcdiv(g: Any, x: Any, a: Any, b: Any, value: Any) -> Any:
    return g.op("Add", x, g.op("Mul", number(g, constant(value, "f", "value"), x), g.op("Div", a, b)))


def deg2rad(g: Any, x: Any) -> Any:
    return g.op("Mul", x, number(g, math.pi / 180, x))


def rad2deg(g: Any, x: Any) -> Any:
    return g.op("Mul", x, number(g, 180 / math.pi, x))


def ldexp(g: Any, x: Any, exponent: Any) -> Any:
    return g.op("Mul", x, g.op("Pow", number(g, 2, x), cast(g, exponent, "FLOAT")))


def special_ndtr(g: Any, x: Any) -> Any:
    """The share of a normal distribution below x."""
    half = number(g, 0.5, x)
    return g.op("Mul", half, g.op("Add", number(g, 1, x), g.op("Erf", g.op("Mul", x, number(g, math.sqrt(0.5), x)))))


def rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """x over the root of the mean of its squares, over the last dimensions."""
    import torch

    axes = list(range(-len(constant(shape, "is", "normalized_shape")), 0))
    least = torch.finfo(dtype_of(x)).eps if is_none(eps) else constant(eps, "f", "eps")
    squares = g.op("Mul", x, x)
    mean = squares
    for axis in axes:  # the operator's axes are an attribute before opset 18, and an input from then on
        mean = _mean(g, mean, axis)
    found = g.op("Div", x, g.op("Sqrt", g.op("Add", mean, number(g, least, x))))
    return found if is_none(weight) else g.op("Mul", found, weight)


def _mean(g: Any, x: Any, axis: int) -> Any:
    from qntz.builtin._onnx import integers

    if g.opset >= 18:
        return g.op("ReduceMean", x, integers(g, axis), keepdims_i=1)
    return g.op("ReduceMean", x, axes_i=[axis], keepdims_i=1)


def bitwise_xor(g: Any, a: Any, b: Any) -> Any:
    import torch

    return g.op("Xor" if dtype_of(a) == torch.bool else "BitwiseXor", a, b)


def nan_to_num(g: Any, x: Any, nan: Any, posinf: Any, neginf: Any) -> Any:
    """NaN and the infinities replaced, by default by 0 and the dtype's bounds; bfloat16 in float32, since ONNX has no
    Where of it below opset 16, and ONNX Runtime none at all."""
    import torch

    dtype = dtype_of(x)
    if not dtype.is_floating_point:
        return x
    half = dtype in (torch.float16, torch.bfloat16)
    wide = cast(g, x, "FLOAT") if half else x
    limits = torch.finfo(dtype)
    given = ((nan, 0.0), (posinf, limits.max), (neginf, limits.min))
    values = [number(g, default if is_none(one) else constant(one, "f", "nan"), wide) for one, default in given]
    places = [g.op("IsNaN", wide), *(g.op("Equal", wide, number(g, sign * math.inf, wide)) for sign in (1, -1))]
    for place, value in zip(places, values, strict=True):
        wide = g.op("Where", place, value, wide)
    return cast(g, wide, "BFLOAT16" if dtype == torch.bfloat16 else "FLOAT16") if half else wide
