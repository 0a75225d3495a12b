import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        length = scores.shape[-1]
        mask = torch.full((length, length), -1e4, device="cpu").triu(1)  # wrong
        return (scores + mask).softmax(dim=-1)


class Right(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        length = scores.shape[-1]
        mask = torch.full((length, length), -1e4, device=scores.device).triu(1)
        return (scores + mask).softmax(dim=-1)


EXAMPLE: dict[str, Tensor] = {"scores": torch.randn(2, 5, 5)}
PROBES: list[dict[str, Tensor]] = [{"scores": torch.randn(2, 5, 5)}, {"scores": torch.randn(3, 7, 7)}]
