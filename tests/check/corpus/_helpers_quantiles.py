"""Order statistics with NumPy."""

import numpy as np
import torch
from torch import Tensor


def rank_rows(x: Tensor) -> Tensor:
    """The rank of each value within its row."""
    return torch.as_tensor(np.asarray(x).argsort(-1).argsort(-1))  # hazard: numpy-in-forward [RankFeatures]
