import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def forward(self, wave: Tensor) -> Tensor:
        peak = wave.abs().max().item()  # wrong
        return wave / (peak + 1e-6)


class Right(nn.Module):
    def forward(self, wave: Tensor) -> Tensor:
        peak = wave.abs().max()
        return wave / (peak + 1e-6)


EXAMPLE: dict[str, Tensor] = {"wave": torch.randn(2, 16)}
PROBES: list[dict[str, Tensor]] = [{"wave": 3 * torch.randn(2, 16)}, {"wave": torch.randn(3, 24)}]
