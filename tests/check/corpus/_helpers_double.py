"""Helpers of the float64 cases."""

import numpy as np
import torch
from torch import Tensor


def sinusoid(length: int, dim: int) -> Tensor:
    """The position table of the original transformer, as numpy computes it."""
    angle = np.arange(length)[:, None] / 10000 ** (np.arange(dim)[None, :] / dim)
    return torch.from_numpy(np.sin(angle))


def stable_mean(x: Tensor) -> Tensor:
    return x.double().mean(dim=-1).float()  # hazard: float64 [MeanInDouble]
