"""Norm clipping."""

from torch import Tensor


def clip_norm(x: Tensor, limit: float) -> Tensor:
    norm = x.norm()
    if norm > limit:  # hazard: data-dependent-control-flow [ClippedEncoder]
        return x * (limit / norm)
    return x
