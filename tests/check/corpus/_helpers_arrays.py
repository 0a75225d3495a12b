"""Bridges between tensors and arrays."""

from collections.abc import Callable
from functools import wraps

import numpy as np
import torch
from torch import Tensor, nn

from tests.check.corpus import _helpers_quantiles


def relative_ranks(x: Tensor) -> Tensor:
    return _helpers_quantiles.rank_rows(x).to(x.dtype) / x.size(-1)


def on_arrays(method: Callable[[nn.Module, np.ndarray], np.ndarray]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Lets a method that is written for arrays work on tensors."""

    @wraps(method)
    def wrapper(self: nn.Module, x: Tensor) -> Tensor:
        array = x.detach().numpy()  # hazard: numpy-in-forward [DiscreteIntegral]
        return torch.from_numpy(method(self, array))  # hazard: numpy-in-forward [DiscreteIntegral]

    return wrapper
