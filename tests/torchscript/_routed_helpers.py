"""Helpers of tests/torchscript/routed.py, one of them by way of another."""

from __future__ import annotations

from torch import Tensor


def halved(x: Tensor) -> Tensor:
    return until_small(x)


def until_small(x: Tensor) -> Tensor:
    while bool(x.abs().max() > 1):
        x = x * 0.5
    return x


def scale_for(length: int) -> float:
    return 0.5 if length > 4 else 2.0
