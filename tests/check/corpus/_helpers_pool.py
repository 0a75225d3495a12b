"""Pooling helpers of the engine cases."""

import torch
import torch.nn.functional as F
from torch import Tensor


def local_maxima(heatmap: Tensor) -> tuple[Tensor, Tensor]:
    """Values and flat indices of the maxima of each window."""
    return F.max_pool2d(heatmap, 2, return_indices=True)  # hazard: unsupported-engine-op [KeypointPeaks]


def scatter_max(values: Tensor, groups: Tensor, count: int) -> Tensor:
    out = torch.zeros(count, values.shape[-1])
    index = groups[:, None].expand_as(values)
    return out.scatter_reduce(0, index, values, "amax")  # hazard: unsupported-engine-op [GraphMaxPool]
