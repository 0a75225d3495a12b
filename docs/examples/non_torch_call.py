import math

import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def forward(self, wave: Tensor) -> Tensor:
        loudness = math.sqrt(wave.square().mean())  # wrong
        return wave / (loudness + 1e-6)


class Right(nn.Module):
    def forward(self, wave: Tensor) -> Tensor:
        loudness = torch.sqrt(wave.square().mean())
        return wave / (loudness + 1e-6)


EXAMPLE: dict[str, Tensor] = {"wave": torch.randn(2, 16)}
PROBES: list[dict[str, Tensor]] = [{"wave": 3 * torch.randn(2, 16)}, {"wave": torch.randn(3, 24)}]
