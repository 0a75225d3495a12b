"""Pads and reduces sequences."""

import torch
from torch import Tensor
from torch.nn import functional as F


def pairwise_sum(x: Tensor) -> Tensor:
    """Sums along dim 1 in a tree, two neighbours at a time."""
    if x.size(1) == 1:  # hazard: shape-dependent-control-flow [TreeSum]
        return x.squeeze(1)
    if x.size(1) % 2:  # hazard: shape-dependent-control-flow [TreeSum]
        x = F.pad(x, (0, 0, 0, 1))
    return pairwise_sum(torch.tanh(x[:, 0::2] + x[:, 1::2]))
