"""Module-level constants of the global-variable cases, and a helper that reads one."""

from dataclasses import dataclass

import torch
from torch import Tensor

ANCHOR_SCALES = [8.0, 16.0, 32.0]
EPS = 1e-5


@dataclass
class Config:
    temperature: float = 0.5
    window: int = 3


CONFIG = Config()


def rms_norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)  # hazard: global-variable [NormWithGlobalEps]
