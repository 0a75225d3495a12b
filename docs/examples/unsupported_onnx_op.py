import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def forward(self, p: Tensor) -> Tensor:
        return torch.special.entr(p).sum(-1)  # wrong


class Right(nn.Module):
    def forward(self, p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-38).log()).sum(-1)


EXAMPLE: dict[str, Tensor] = {"p": torch.rand(2, 5)}
PROBES: list[dict[str, Tensor]] = [{"p": torch.rand(2, 5)}, {"p": torch.rand(3, 7)}]
