"""Each function that qntz ships a translation of: a trace exported at opset 17 and at 20, and run under ONNX Runtime at other
sizes, signs and magnitudes than the example's, against eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qntz import ort
from qntz.errors import CaptureError, ExportError
from qntz.export import export
from qntz.torchscript import capture

INF, NAN = float("inf"), float("nan")
EDGES = torch.tensor([-1.0, 0.0, 1.0])


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def square(x: Tensor) -> Tensor:
    return x.transpose(-1, -2) @ x


def with_nan(x: Tensor) -> Tensor:
    return torch.where(x > 1, torch.full_like(x, NAN), x)


ELEMENTWISE: dict[str, Callable[[Tensor], Any]] = {
    "trunc": lambda x: torch.trunc(x * 3),
    "fix": lambda x: torch.fix(x * 3),
    "frac": lambda x: torch.frac(x * 3),
    "sgn": torch.sgn,
    "logaddexp": lambda x: torch.logaddexp(x * 30, x * 29 + 1),
    "logaddexp of infinities": lambda x: torch.logaddexp(x.where(x > 0, -INF), x.where(x > 1, -INF)),
    "xlogy": lambda x: torch.xlogy(x.relu(), x.abs()),
    "xlogy by its other name": lambda x: torch.special.xlogy(x.relu(), x.abs()),
    "hypot": lambda x: torch.hypot(x * 1e25, x.relu()),
    "sinc": lambda x: torch.sinc(x.relu()),
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "expm1 of small": lambda x: torch.expm1(x * 1e-5),
    "lgamma": lambda x: torch.lgamma(x.abs() * 10 + 0.01),
    "lgamma of negative": lambda x: torch.lgamma(-x.abs().floor() - 0.3),
    "digamma": lambda x: torch.digamma(x.abs() * 10 + 0.1),
    "digamma of negative": lambda x: torch.digamma(-x.abs().floor() - 0.3),
    "cosh": torch.cosh,
    "sinh": torch.sinh,
    "acosh": lambda x: torch.acosh(x.abs() + 1),
    "asinh": torch.asinh,
    "atanh": lambda x: torch.atanh(x.tanh() * 0.9),
    "signbit": lambda x: torch.signbit(x.trunc() * 0.0),
    "copysign": lambda x: torch.copysign(x.abs() + 1, x),
    "fmax": lambda x: torch.fmax(with_nan(x), -x),
    "fmin": lambda x: torch.fmin(x, with_nan(-x)),
    "heaviside": lambda x: torch.heaviside(x.relu() - (-x).relu().trunc(), torch.tensor(0.5)),
    "isclose": lambda x: torch.isclose(x, x.round(decimals=1), rtol=0.01, atol=0.02),
    "isclose of infinities and NaN": lambda x: torch.isclose(with_nan(x / 0), with_nan(x.abs() / 0), equal_nan=True),
    "addcdiv": lambda x: torch.addcdiv(x, x + 1, x.abs() + 1, value=0.5),
    "deg2rad": torch.deg2rad,
    "rad2deg": torch.rad2deg,
    "ldexp": lambda x: torch.ldexp(x, torch.tensor([3])),
    "ndtr": torch.special.ndtr,
    "entr": lambda x: torch.special.entr(x.trunc() + 1),
    "rms_norm": lambda x: F.rms_norm(x, (5,), torch.arange(5.0), 1e-3),
    "rms_norm of two dimensions": lambda x: F.rms_norm(x[:, :2, :], (2, 5)),
    "xor": lambda x: torch.bitwise_xor(x > 0, x > 1),
}
SHAPES: dict[str, Callable[[Tensor], Any]] = {
    "trace": lambda x: square(x)[0].trace() + x[0].trace(),
    "diag_embed": torch.diag_embed,
    "inner": lambda x: torch.inner(x, x[0]),
    "inner with a vector": lambda x: torch.inner(x, x[0, 0]) + torch.inner(x[0, 0], x[0, 1]),
    "vdot": lambda x: torch.vdot(x[0, 0], x[0, 1]),
    "addmv": lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0], beta=2, alpha=0.5),
    "kron": lambda x: torch.kron(x[0], x[-1, :2]),
    "pdist": lambda x: F.pdist(x[0]),
    "argwhere": lambda x: torch.argwhere(x > 0),
    "diff": lambda x: x.diff(),
    "diff twice along another": lambda x: x.diff(n=2, dim=1),
}
RANKING: dict[str, Callable[[Tensor], Any]] = {
    "median": torch.median,
    "median along": lambda x: tuple(x.median(1)),
    "median that keeps": lambda x: tuple(x.median(-1, keepdim=True)),
    "kthvalue": lambda x: tuple(x.kthvalue(2, 1)),
    "msort": torch.msort,
    "cumprod": lambda x: x.cumprod(1),
    "cummax": lambda x: tuple(x.cummax(1)),
    "cummin": lambda x: tuple(x.round().cummin(0)),
    "searchsorted": lambda x: torch.searchsorted(EDGES, x.round()),
    "searchsorted from the right": lambda x: torch.searchsorted(EDGES, x.round(), right=True, out_int32=True),
    "searchsorted by side": lambda x: torch.searchsorted(EDGES, x.round(), side="right"),
    "searchsorted in rows": lambda x: torch.searchsorted(x.sort(-1)[0], x.flip(1)),
    "isin": lambda x: torch.isin(x.round().long(), torch.tensor([0, 2])),
    "isin inverted": lambda x: torch.isin(x.round().long(), torch.tensor([0, 2]), invert=True),
    "count_nonzero": lambda x: torch.count_nonzero(x > 0),
    "count_nonzero along": lambda x: torch.count_nonzero(x.relu(), 1),
    "nansum": lambda x: torch.nansum(with_nan(x), 1),
    "nanmean": lambda x: torch.nanmean(with_nan(x).clamp(max=0.9), -1, keepdim=True),
    "norm": lambda x: x.norm(),
    "norm of order 3": lambda x: torch.norm(x, 3, dim=1),
    "norm of order inf": lambda x: torch.norm(x, INF, dim=(1, 2), keepdim=True),
}
POOLING: dict[str, Callable[[Tensor], Any]] = {
    "average": lambda x: F.adaptive_avg_pool1d(x, 2),
    "average to one": lambda x: F.adaptive_avg_pool1d(x, 1),
    "average in two": lambda x: F.adaptive_avg_pool2d(x[None], (3, 4)),
    "largest": lambda x: F.adaptive_max_pool1d(x, 3),
    "largest in two": lambda x: F.adaptive_max_pool2d(x[None], (2, 3)),
    "largest to one": lambda x: F.adaptive_max_pool2d(x[None], 1),
}
ALL = {**ELEMENTWISE, **SHAPES, **RANKING, **POOLING}
RNG = np.random.default_rng(11)
GIVEN = [{"x": RNG.standard_normal(shape).astype(np.float32)} for shape in ((2, 4, 5), (3, 6, 5), (4, 3, 5))]
OTHERS = [RNG.standard_normal(shape).astype(np.float32) * 3 for shape in ((2, 5, 5), (5, 3, 5), (1, 7, 5))]


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("name", ALL)
def test_it_is_eagers(name: str, opset: int) -> None:
    module = Calls(ALL[name])
    if name == "xor" and opset < 18:
        pytest.skip("ONNX has it from opset 18 on")
    captured = capture(module, GIVEN[0], GIVEN[1:], method="trace")
    exported = export(captured, opset=opset)
    for x in OTHERS:
        wanted = module(torch.from_numpy(x))
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        got = ort.run_all(exported.data, [{"x": x}])[0].values()
        for one, other in zip(got, wanted, strict=True):
            assert str(one.dtype) == str(other.dtype).removeprefix("torch.")
            np.testing.assert_allclose(one, other.numpy(), rtol=2e-5, atol=1e-5 * scale_of(other.numpy()))


def scale_of(array: np.ndarray) -> float:
    finite = np.abs(array[np.isfinite(array)])
    return min(1.0, float(finite.max())) if finite.size else 1.0


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: torch.diag_embed(x, offset=1), "diag_embed with an offset"),
        (lambda x: F.pdist(x[0], 1.0), "pdist with another norm than 2"),
        (lambda x: F.adaptive_max_pool1d(x, 3, return_indices=True)[1], "whose indices are used"),
        (lambda x: torch.searchsorted(EDGES, x, sorter=torch.tensor([0, 1, 2])), "searchsorted with a sorter"),
        (lambda x: torch.kron(x, x[0]), "kron of tensors with another number of dimensions"),
    ],
)
def test_what_it_does_not_translate_is_refused(function: Callable[[Tensor], Any], why: str) -> None:
    captured = capture(Calls(function), GIVEN[0], GIVEN[1:], method="trace")
    with pytest.raises((ExportError, CaptureError), match=why):
        export(captured, opset=17)
