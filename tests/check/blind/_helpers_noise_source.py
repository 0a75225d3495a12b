"""Where the noise of the generative models comes from."""

import torch
from torch import Tensor


def standard_normal(reference: Tensor) -> Tensor:
    return torch.randn_like(reference)  # hazard: randomness [ReparamEncoder]
