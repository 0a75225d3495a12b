"""Operators of torch that its TorchScript exporter lacks or has wrong, in others that it has, as torch.jit.script takes
them, and what each is tested on: x [n, m, 5]."""

from collections.abc import Callable
from typing import Any, Optional, Tuple

import torch
from torch import Tensor


def sort(x: Tensor, stable: Optional[bool], dim: int, descending: bool) -> Tuple[Tensor, Tensor]:
    """Of what is equal ONNX takes the first, so that it is stable."""
    return torch.sort(x, dim, descending)


def argsort(x: Tensor, stable: bool, dim: int, descending: bool) -> Tensor:
    return torch.sort(x, dim, descending)[1]


def bincount(x: Tensor, weights: Optional[Tensor], minlength: int) -> Tensor:
    size = torch.cat([x + 1, torch.full_like(x[:1], minlength), torch.zeros([1], dtype=x.dtype) + minlength]).max()
    added = torch.ones_like(x, dtype=torch.int64) if weights is None else weights
    return torch.zeros([int(size)], dtype=added.dtype).scatter_add(0, x, added)


def histc(x: Tensor, bins: int, least: float, most: float) -> Tensor:
    """Between limits that are given. By comparison with each bin: TensorRT cannot add to places."""
    assert least != most, "histc without limits"
    x = x.reshape([-1])
    place = ((x - least) * (bins / (most - least))).floor().clamp(min=0, max=bins - 1)
    place = torch.where((x >= least) & (x <= most), place, torch.full_like(place, -1.0))
    return (place.unsqueeze(-1) == torch.arange(bins).to(x.dtype)).to(x.dtype).sum(0)


def nanmedian(x: Tensor, dim: int, keepdim: bool) -> Tuple[Tensor, Tensor]:
    """The lower of the two middle ones of those that are numbers."""
    numbers = ~x.isnan()
    values, order = torch.sort(torch.where(numbers, x, torch.full_like(x, float("inf"))), dim)
    count = numbers.to(torch.int64).sum(dim, keepdim=True)
    middle = ((count - 1).clamp(min=0) // 2).to(torch.int64)
    found = torch.where(
        count > 0, values.gather(dim, middle), torch.full_like(values.gather(dim, middle), float("nan"))
    )
    at = order.gather(dim, middle)
    found, at = found if keepdim else found.squeeze(dim), at if keepdim else at.squeeze(dim)
    return found, at


def nanmedian_of_all(x: Tensor) -> Tensor:
    return nanmedian(x.reshape([-1]), 0, False)[0]


def mode(x: Tensor, dim: int, keepdim: bool) -> Tuple[Tensor, Tensor]:
    """The smallest of the most frequent ones, and the place of its last."""
    last = x.transpose(dim, -1)
    values = torch.sort(last, -1)[0]
    counts = (values.unsqueeze(-1) == values.unsqueeze(-2)).to(torch.int64).sum(-1)
    found = values.gather(-1, counts.argmax(-1, keepdim=True))
    places = torch.arange(last.size(-1))
    at = torch.where(last == found, places, torch.full_like(places, -1)).max(-1, keepdim=True)[0]
    found, at = found.transpose(dim, -1), at.transpose(dim, -1)
    found, at = found if keepdim else found.squeeze(dim), at if keepdim else at.squeeze(dim)
    return found, at


def logcumsumexp(x: Tensor, dim: int) -> Tensor:
    last = x.transpose(dim, -1)
    places = torch.arange(last.size(-1))
    reached = places.unsqueeze(-1) >= places
    all_of_them = last.unsqueeze(-2) + torch.zeros_like(last).unsqueeze(-1)
    return all_of_them.masked_fill(~reached, float("-inf")).logsumexp(-1).transpose(dim, -1)


def unique_consecutive(
    x: Tensor,
    return_inverse: bool,
    return_counts: bool,
    dim: Optional[int],
) -> Tuple[Tensor, Tensor, Tensor]:
    assert dim is None, "unique_consecutive along a dimension"
    size = x.size()
    x = x.reshape([-1])
    changed = torch.cat([torch.ones_like(x[:1], dtype=torch.bool), x[1:] != x[:-1]])
    inverse = changed.to(torch.int64).cumsum(0) - 1
    values = x[changed]
    counts = torch.zeros_like(values, dtype=torch.int64).scatter_add(0, inverse, torch.ones_like(inverse))
    return values, inverse.reshape(size), counts


def unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    last = x.transpose(dim, -1)
    starts = torch.arange(0, last.size(-1) - size + 1, step)
    places = starts.unsqueeze(-1) + torch.arange(size)
    windows = last.index_select(-1, places.reshape([-1])).unflatten(-1, [-1, size])
    return windows.transpose(dim if dim >= 0 else dim - 1, -2)


def cdist(x: Tensor, y: Tensor, p: float, compute_mode: Optional[int]) -> Tensor:
    assert p > 0, "cdist that counts what differs"
    apart = (x.unsqueeze(-2) - y.unsqueeze(-3)).abs()
    if p == 2.0:
        return (apart * apart).sum(-1).sqrt()
    if p == 1.0:
        return apart.sum(-1)
    if p == float("inf"):
        return apart.amax(-1)
    return apart.pow(p).sum(-1).pow(1.0 / p)


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    result = ((x.unsqueeze(-2).unsqueeze(-2) @ weight).squeeze(-2) * y.unsqueeze(-2)).sum(-1)
    return result if bias is None else result + bias


def erfinv(x: Tensor) -> Tensor:
    """Giles, Approximating the erfinv function, 2010, table 5: to float32's precision, also of what is more precise."""
    w = -((1 - x) * (1 + x)).log()
    near, far = w - 2.5, w.clamp(min=0).sqrt() - 3
    p = torch.full_like(x, 2.81022636e-08)
    for c in [
        3.43273939e-07,
        -3.5233877e-06,
        -4.39150654e-06,
        0.00021858087,
        -0.00125372503,
        -0.00417768164,
        0.246640727,
    ]:
        p = c + p * near
    q = torch.full_like(x, -0.000200214257)
    for c in [0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047, 1.00167406]:
        q = c + q * far
    p, q = 1.50140941 + p * near, 2.83297682 + q * far
    found = torch.where(w < 5, p, q) * x
    return torch.where(x.abs() == 1, x * float("inf"), found)


def take_along_dim(x: Tensor, index: Tensor, dim: Optional[int]) -> Tensor:
    if dim is None:
        return x.reshape([-1]).gather(0, index.reshape([-1]))
    return x.gather(dim, index)


def cov(x: Tensor, correction: int, fweights: Optional[Tensor], aweights: Optional[Tensor]) -> Tensor:
    """Of two dimensions."""
    assert fweights is None, "cov with weights"
    assert aweights is None, "cov with weights"
    apart = x - x.mean(1, keepdim=True)
    return apart @ apart.transpose(0, 1) / (x.size(1) - correction)


def corrcoef(x: Tensor) -> Tensor:
    apart = x - x.mean(1, keepdim=True)
    apart = apart / (apart * apart).sum(1, keepdim=True).sqrt()
    return (apart @ apart.transpose(0, 1)).clamp(-1, 1)


def put(x: Tensor, index: Tensor, source: Tensor, accumulate: bool) -> Tensor:
    flat = x.reshape([-1])
    index, source = torch.where(index < 0, index + x.numel(), index).reshape([-1]), source.reshape([-1])
    flat = flat.scatter_add(0, index, source) if accumulate else flat.scatter(0, index, source)
    return flat.reshape(x.size())


OPERATORS: dict[str, tuple[Callable[..., Any], ...]] = {
    "sort.stable": (sort, lambda x: torch.sort((x * 2).round(), dim=1, stable=True)[1]),
    "argsort.stable": (argsort, lambda x: torch.argsort((x * 2).round(), dim=-1, descending=True, stable=True)),
    "bincount": (
        bincount,
        lambda x: torch.bincount((x.abs() * 3).long().flatten(), minlength=4),
        lambda x: torch.bincount((x.abs() * 3).long().flatten(), x.flatten(), minlength=30),
    ),
    "histc": (histc, lambda x: torch.histc(x, 7, -1, 2)),
    "nanmedian.dim": (nanmedian, lambda x: torch.nanmedian(torch.where(x > 1, float("nan"), x), 1)[0]),
    "nanmedian": (nanmedian_of_all, lambda x: torch.nanmedian(torch.where(x > 1, float("nan"), x))),
    "mode": (mode, lambda x: torch.mode(x.round(), 1)[0], lambda x: torch.mode(x.round(), -1, keepdim=True)[0]),
    "logcumsumexp": (logcumsumexp, lambda x: torch.logcumsumexp(x, 1), lambda x: torch.logcumsumexp(x, -1)),
    "unique_consecutive": (
        unique_consecutive,
        lambda x: torch.unique_consecutive(x.round().flatten()),
        lambda x: torch.unique_consecutive(x.round().flatten(), return_counts=True)[1],
        lambda x: torch.unique_consecutive(x.round(), return_inverse=True)[1],
    ),
    "unfold": (unfold, lambda x: x.unfold(1, 2, 1), lambda x: x.unfold(-1, 3, 2), lambda x: x.unfold(0, 1, 1)),
    "cdist": (
        cdist,
        lambda x: torch.cdist(x, x + 1, p=1.0),
        lambda x: torch.cdist(x, x * 2),
        lambda x: torch.cdist(x, x + 1, p=float("inf")),
    ),
    "bilinear": (
        bilinear,
        lambda x: torch.nn.functional.bilinear(x, x * 2, torch.arange(75.0).reshape(3, 5, 5), torch.ones(3)),
    ),
    "erfinv": (erfinv, lambda x: torch.erfinv(x.tanh()), lambda x: torch.erfinv(x.sign() * (1 - x.abs() * 1e-4))),
    "take_along_dim": (take_along_dim, lambda x: torch.take_along_dim(x, x.argsort(1), dim=1)),
    "cov": (cov, lambda x: torch.cov(x[0]), lambda x: torch.cov(x[0].T, correction=0)),
    "corrcoef": (corrcoef, lambda x: torch.corrcoef(x[0])),
    "put": (
        put,
        lambda x: x.put(torch.tensor([3, -1]), x[0, 0, :2] * 9),
        lambda x: x.put(torch.tensor([3, 3]), x[0, 0, :2] * 9, accumulate=True),
    ),
}
"""By the operator's name and overload the function that takes its place, and what it is tested on."""
