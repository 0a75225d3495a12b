"""Helpers without annotations."""

import torch
from torch import Tensor


def split_heads(x, heads):
    batch, length, dim = x.shape
    return x.view(batch, length, heads, dim // heads).transpose(1, 2)


def pad_to(x: Tensor, multiple) -> Tensor:
    rest = x.shape[-1] % multiple
    if rest == 0:
        return x
    return torch.nn.functional.pad(x, (0, multiple - rest))  # hazard: missing-type-hint [PadToMultiple]


def reduce(x: Tensor, mode="mean") -> Tensor:
    return x.mean(dim=-1) if mode == "mean" else x.sum(dim=-1)  # hazard: missing-type-hint [StringMode]
