"""Noise helpers of the randomness cases."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor


def gumbel_like(logits: Tensor) -> Tensor:
    uniform = torch.rand_like(logits).clamp_(1e-6, 1 - 1e-6)  # hazard: randomness [GumbelRouter]
    return -(-uniform.log()).log()


def stochastic_depth(x: Tensor, residual: Tensor, p: float) -> Tensor:
    keep = torch.empty(x.shape[0], 1).bernoulli_(1 - p)  # hazard: randomness [StochasticDepth]
    return x + residual * keep / (1 - p)


class RandomJitter:
    """A callable augmentation."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, x: Tensor) -> Tensor:
        return x * random.uniform(self.low, self.high)  # hazard: randomness [JitterAtInference]


def mlp(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.dropout(F.linear(x, weight, bias), 0.1)  # hazard: randomness, unsupported-engine-op [FunctionalMlp]
