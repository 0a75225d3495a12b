"""BERT's kind: learned positions, a padding mask, dropout and layer norm."""

import math

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.size) + mask
        return self.out((self.drop(scores.softmax(-1)) @ v).transpose(1, 2).reshape(n, length, width))


class Encoder(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, width), nn.Embedding(16, width)
        self.register_buffer("position_ids", torch.arange(16), persistent=False)
        self.attention = nn.ModuleList(Attention(width, 3) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places(self.position_ids[: ids.shape[1]])
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * torch.finfo(x.dtype).min
        for attention, norm in zip(self.attention, self.norms, strict=True):
            x = norm(x + attention(x, bias))
        return x


def make():
    def inputs(n, length):
        return {"ids": torch.randint(0, 50, (n, length)), "mask": torch.ones(n, length, dtype=torch.int64)}

    return Encoder().eval(), inputs(2, 7), [inputs(3, 5)]
