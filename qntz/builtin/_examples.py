"""What the shipped symbolics are tested on: functions of a tensor, [n, m, 5], by the operator that they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INF, NAN = float("inf"), float("nan")
EDGES = torch.tensor([-1.0, 0.0, 1.0])


def broken(x: Tensor) -> Tensor:
    """With NaN, infinities and finite numbers in it."""
    return torch.where(x > 1, NAN, torch.where(x > 0.5, INF, torch.where(x < -0.5, -INF, x)))


def square(x: Tensor) -> Tensor:
    return x.transpose(-1, -2) @ x


def scattered(x: Tensor, how: str, with_self: bool) -> Tensor:
    """By two to one place, and one place without any."""
    places = (torch.arange(x.shape[0]) // 2)[:, None, None].expand_as(x)
    return torch.full((x.shape[0], x.shape[1], 5), 2.0).scatter_reduce(0, places, x, how, include_self=with_self)


def with_nan(x: Tensor) -> Tensor:
    return torch.where(x > 1, torch.full_like(x, NAN), x)


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Any], ...]] = {
    "aten::diag": (lambda x: torch.diag(x[0, 0]), lambda x: torch.diag(x[0]), lambda x: torch.diag(x[0].T)),
    "aten::log1p": (lambda x: torch.log1p((x.abs() * 9).long()), lambda x: torch.log1p(x.abs())),
    "aten::_unique2": (
        lambda x: torch.unique(x.round(), return_inverse=True)[1],
        lambda x: torch.unique(x.round(), return_counts=True)[1],
    ),
    "aten::scatter_reduce": (
        lambda x: scattered(x, "mean", True),
        lambda x: scattered(x, "mean", False),
        lambda x: scattered(x, "prod", False),
        lambda x: scattered(x, "amax", False),
        lambda x: scattered(x, "amin", True),
    ),
    "aten::index_add": (
        lambda x: torch.zeros(x.shape[0], x.shape[1], 5).index_add(0, torch.arange(x.shape[0]) // 2, x, alpha=2),
        lambda x: torch.zeros(x.shape[0], 2, 5).index_add_(1, torch.arange(x.shape[1]) % 2, x),
        lambda x: torch.zeros(3).index_add(0, torch.arange(x.shape[1]) % 3, x[0, :, 0]),
    ),
    "aten::index_put": (
        lambda x: torch.ones(x.shape[0], 5).index_put((torch.arange(x.shape[0]) // 2,), x[:, 0], accumulate=True),
        lambda x: torch.ones(x.shape[0], 5).index_put((torch.arange(x.shape[0]),), x[:, 0]),
    ),
    "aten::trunc": (lambda x: torch.trunc(x * 3),),
    "aten::frac": (lambda x: torch.frac(x * 3),),
    "aten::sgn": (torch.sgn,),
    "aten::logaddexp": (
        lambda x: torch.logaddexp(x * 30, x * 29 + 1),
        lambda x: torch.logaddexp(x.where(x > 0, -INF), x.where(x > 1, -INF)),
    ),
    "aten::xlogy": (lambda x: torch.xlogy(x.relu(), x.abs()),),
    "aten::hypot": (lambda x: torch.hypot(x * 1e25, x.relu()),),
    "aten::sinc": (lambda x: torch.sinc(x.relu()),),
    "aten::exp2": (torch.exp2,),
    "aten::expm1": (
        torch.expm1,
        lambda x: torch.expm1(x * 1e-5),
    ),
    "aten::lgamma": (
        lambda x: torch.lgamma(x.abs() * 10 + 0.01),
        lambda x: torch.lgamma(-x.abs().floor() - 0.3),
    ),
    "aten::digamma": (
        lambda x: torch.digamma(x.abs() * 10 + 0.1),
        lambda x: torch.digamma(-x.abs().floor() - 0.3),
    ),
    "aten::cosh": (torch.cosh,),
    "aten::sinh": (torch.sinh,),
    "aten::acosh": (lambda x: torch.acosh(x.abs() + 1),),
    "aten::asinh": (torch.asinh,),
    "aten::atanh": (lambda x: torch.atanh(x.tanh() * 0.9),),
    "aten::signbit": (lambda x: torch.signbit(x.trunc() * 0.0),),
    "aten::copysign": (lambda x: torch.copysign(x.abs() + 1, x),),
    "aten::fmax": (lambda x: torch.fmax(with_nan(x), -x),),
    "aten::fmin": (lambda x: torch.fmin(x, with_nan(-x)),),
    "aten::heaviside": (lambda x: torch.heaviside(x.relu() - (-x).relu().trunc(), torch.tensor(0.5)),),
    "aten::isclose": (
        lambda x: torch.isclose(x, x.round(decimals=1), rtol=0.01, atol=0.02),
        lambda x: torch.isclose(with_nan(x / 0), with_nan(x.abs() / 0), equal_nan=True),
    ),
    "aten::addcdiv": (lambda x: torch.addcdiv(x, x + 1, x.abs() + 1, value=0.5),),
    "aten::deg2rad": (torch.deg2rad,),
    "aten::rad2deg": (torch.rad2deg,),
    "aten::ldexp": (lambda x: torch.ldexp(x, torch.tensor([3])),),
    "aten::special_ndtr": (torch.special.ndtr,),
    "aten::rms_norm": (
        lambda x: F.rms_norm(x, (5,), torch.arange(5.0), 1e-3),
        lambda x: F.rms_norm(x[:, :2, :], (2, 5)),
    ),
    "aten::nan_to_num": (
        lambda x: torch.nan_to_num(broken(x).bfloat16()).float(),
        lambda x: torch.nan_to_num(broken(x)),
        lambda x: torch.nan_to_num(broken(x).double(), 0.5, 1.0, -1.0),
        lambda x: torch.nan_to_num(broken(x).half(), posinf=2.0).float(),
    ),
    "aten::bitwise_xor": (lambda x: torch.bitwise_xor(x > 0, x > 1),),
    "aten::trace": (lambda x: square(x)[0].trace() + x[0].trace(),),
    "aten::diag_embed": (torch.diag_embed,),
    "aten::inner": (
        lambda x: torch.inner(x, x[0]),
        lambda x: torch.inner(x, x[0, 0]) + torch.inner(x[0, 0], x[0, 1]),
    ),
    "aten::vdot": (lambda x: torch.vdot(x[0, 0], x[0, 1]),),
    "aten::addmv": (lambda x: torch.addmv(x[0, :, 0], x[0], x[0, 0], beta=2, alpha=0.5),),
    "aten::kron": (lambda x: torch.kron(x[0], x[-1, :2]),),
    "aten::pdist": (lambda x: F.pdist(x[0]),),
    "aten::argwhere": (lambda x: torch.argwhere(x > 0),),
    "aten::diff": (
        lambda x: x.diff(),
        lambda x: x.diff(n=2, dim=1),
    ),
    "aten::median": (
        torch.median,
        lambda x: tuple(x.median(1)),
        lambda x: tuple(x.median(-1, keepdim=True)),
    ),
    "aten::kthvalue": (lambda x: tuple(x.kthvalue(2, 1)),),
    "aten::quantile": (
        lambda x: x.quantile(0.3, 1),
        lambda x: torch.quantile(x, torch.tensor([0.0, 0.25, 0.9]), dim=0, keepdim=True),
        lambda x: x.quantile(torch.tensor([0.5, 1.0]), -1),
        lambda x: x.quantile(0.7),
    ),
    "aten::msort": (torch.msort,),
    "aten::cumsum": (
        lambda x: torch.cumsum(x > 0, 1),
        lambda x: torch.cumsum(x, -1),
        lambda x: torch.cumsum(x.int(), 0),
        lambda x: torch.cumsum(x > 0, -1, dtype=torch.float32),
    ),
    "aten::cumprod": (lambda x: x.cumprod(1),),
    "aten::cummax": (lambda x: tuple(x.cummax(1)),),
    "aten::cummin": (lambda x: tuple(x.round().cummin(0)),),
    "aten::searchsorted": (
        lambda x: torch.searchsorted(EDGES, x.round()),
        lambda x: torch.searchsorted(EDGES, x.round(), right=True, out_int32=True),
        lambda x: torch.searchsorted(EDGES, x.round(), side="right"),
        lambda x: torch.searchsorted(x.sort(-1)[0], x.flip(1)),
    ),
    "aten::isin": (
        lambda x: torch.isin(x.round().long(), torch.tensor([0, 2])),
        lambda x: torch.isin(x.round().long(), torch.tensor([0, 2]), invert=True),
    ),
    "aten::count_nonzero": (
        lambda x: torch.count_nonzero(x > 0),
        lambda x: torch.count_nonzero(x.relu(), 1),
    ),
    "aten::nansum": (lambda x: torch.nansum(with_nan(x), 1),),
    "aten::nanmean": (lambda x: torch.nanmean(with_nan(x), 1, keepdim=True).nan_to_num(7.0),),
    "aten::adaptive_avg_pool1d": (
        lambda x: F.adaptive_avg_pool1d(x, 2),
        lambda x: F.adaptive_avg_pool1d(x, 1),
    ),
    "aten::adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x[None], (3, 4)),),
    "aten::adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 3),),
    "aten::adaptive_max_pool2d": (
        lambda x: F.adaptive_max_pool2d(x[None], (2, 3)),
        lambda x: F.adaptive_max_pool2d(x[None], 1),
    ),
    "aten::col2im": (
        lambda x: F.fold(
            F.unfold(x[None], (3, 2), padding=(1, 0), dilation=(1, 2)).cos(),
            x.shape[-2:],
            (3, 2),
            padding=(1, 0),
            dilation=(1, 2),
        ),
    ),
    "aten::unflatten": (lambda x: x.unflatten(1, (1, -1)).transpose(1, 2),),
    "aten::mT": (lambda x: x.mT @ x,),
    "aten::adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x[None], (2, 2, 3)),),
    "aten::adaptive_max_pool3d": (lambda x: F.adaptive_max_pool3d(x[None], (1, 2, 3)),),
}


class Norms(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.norm(2) + x.norm(3, dim=[1], keepdim=True) + x.norm(float("inf"), dim=[1, 2], keepdim=True)


class Equal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.equal(x, x) and not torch.equal(x, x[:, :1]) else x


class Rolled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(x.shape[1] // 2, 1) + x.roll([x.shape[0], -x.shape[2] - 1], [0, 2]) + x.roll(-x.shape[1])


class Spaced(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        one = torch.linspace(3.0, 4.0, x.shape[0] // x.shape[0])
        return torch.linspace(-1.0, 2.5, x.shape[1])[:, None] * x + one


class Unbound(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total, second = torch.stack([torch.zeros(x.shape[0]), x[:, 0, 0]]).unbind()
        total = total - second
        for step in x.unbind(1):
            total = total * 0.5 + (step.sum(1) if step.dim() == 2 else step.sum())
        return total


class Cells(nn.Module):
    """Reads a sequence, [N, L, 5], step by step, with each kind of cell."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.lstm = nn.GRUCell(5, 4), nn.LSTMCell(5, 4)
        self.tanh, self.relu = nn.RNNCell(5, 4), nn.RNNCell(5, 4, nonlinearity="relu", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.zeros(x.shape[0], 4)
        cell = torch.zeros(x.shape[0], 4)
        for step in x.unbind(1):
            hidden, cell = self.lstm(step, (hidden, cell))
            hidden = self.relu(step, self.tanh(step, self.gru(step, hidden)))
        return hidden + cell


SCRIPTS: dict[str, type[nn.Module]] = {
    **dict.fromkeys((f"aten::{one}" for one in ("gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "__contains_")), Cells),
    "aten::norm": Norms,
    "aten::unbind": Unbound,
    "aten::equal": Equal,
    "aten::roll": Rolled,
    "aten::linspace": Spaced,
}
"""What a trace has under another name, or not at all."""
