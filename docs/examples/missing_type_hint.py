import torch
from torch import Tensor, nn

ROUTE = "script"


class Wrong(nn.Module):
    def split_heads(self, x: Tensor, heads) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.split_heads(tokens, 2).softmax(dim=-1)  # wrong


class Right(nn.Module):
    def split_heads(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.split_heads(tokens, 2).softmax(dim=-1)


EXAMPLE: dict[str, Tensor] = {"tokens": torch.randn(2, 5, 8)}
PROBES: list[dict[str, Tensor]] = [{"tokens": torch.randn(2, 5, 8)}, {"tokens": torch.randn(3, 7, 8)}]
