"""Helpers of the good models: layers, a config and wrappers that only look troublesome."""

import enum
import functools
import logging
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

log = logging.getLogger(__name__)


class Act(enum.Enum):
    RELU = "relu"
    GELU = "gelu"
    SILU = "silu"


@dataclass(frozen=True)
class EncoderConfig:
    dim: int = 16
    heads: int = 4
    depth: int = 2
    act: Act = Act.GELU
    causal: bool = True
    scales: tuple[float, ...] = field(default_factory=lambda: (1.0, 0.5))


def logged(fn):
    @functools.wraps(fn)
    def wrapper(self, *args, **kwargs):
        log.debug("%s called with %d tensors", fn.__name__, len(args))
        return fn(self, *args, **kwargs)

    return wrapper


def mel_filters(n_bins: int, n_mels: int) -> torch.Tensor:
    edges = np.linspace(0.0, n_bins - 1.0, n_mels + 2)
    bins = np.arange(n_bins)
    lower = (bins[None] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    upper = (edges[2:, None] - bins[None]) / np.diff(edges)[1:, None]
    return torch.from_numpy(np.maximum(0.0, np.minimum(lower, upper))).float()


def sinusoid(length: int, dim: int) -> torch.Tensor:
    table = [
        [math.sin(p / 10000 ** (2 * (i // 2) / dim) + (i % 2) * math.pi / 2) for i in range(dim)] for p in range(length)
    ]
    return torch.tensor(table, dtype=torch.float32)


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def act_layer(act: Act | str) -> nn.Module:
    return {Act.RELU: nn.ReLU, Act.GELU: nn.GELU, Act.SILU: nn.SiLU}[Act(act)]()


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps).permute(
            0, 3, 1, 2
        )
