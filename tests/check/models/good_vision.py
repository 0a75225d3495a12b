"""Swin's kind: patches, shifted windows, relative positions, and stochastic depth that is off in evaluation mode."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DropPath(nn.Module):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 1 - self.rate))


def windows(x: Tensor, size: int) -> Tensor:
    n, h, w, c = x.shape
    return x.view(n, h // size, size, w // size, size, c).transpose(2, 3).reshape(-1, size * size, c)


class Window(nn.Module):
    def __init__(self, width: int, size: int, shift: int) -> None:
        super().__init__()
        self.size, self.shift = size, shift
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(size * size, size * size))
        self.path = DropPath(0.2)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        y = windows(torch.roll(x, (-self.shift, -self.shift), (1, 2)), self.size)
        q, k, v = self.qkv(y).chunk(3, -1)
        y = self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias))
        y = y.view(n, h // self.size, w // self.size, self.size, self.size, c).transpose(2, 3).reshape(n, h, w, c)
        return x + self.path(torch.roll(y, (self.shift, self.shift), (1, 2)))


class Vision(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, stride=2)
        self.blocks = nn.Sequential(Window(width, 2, 0), Window(width, 2, 1))
        self.head = nn.Linear(width, 5)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.blocks(self.patches(image).permute(0, 2, 3, 1))
        return {"logits": self.head(x.mean((1, 2)))}


def make():
    return Vision().eval(), {"image": torch.rand(2, 3, 8, 16)}, [{"image": torch.rand(3, 3, 8, 16)}]
