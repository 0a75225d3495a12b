"""Positions of tokens and of patches."""

import torch
from torch import Tensor


def token_positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device)  # hazard: captured-device [TokenEmbedder]
