"""LLaMA's kind: rotary positions, RMS norm, a causal mask, grouped heads, and a router that branches on values."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    one, two = x.chunk(2, -1)
    return torch.cat([one * angles.cos() - two * angles.sin(), two * angles.cos() + one * angles.sin()], -1)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * groups * self.size, bias=False)
        self.norm, self.gate = RMSNorm(width), nn.Linear(width, width)
        self.register_buffer("rates", 100.0 ** (-torch.arange(0, self.size, 2) / self.size))

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        angles = torch.outer(torch.arange(length, device=x.device, dtype=x.dtype), self.rates)
        y = self.norm(x)
        q = rotate(self.q(y).view(n, length, self.heads, -1).transpose(1, 2), angles)
        k, v = self.kv(y).view(n, length, 2 * self.groups, -1).transpose(1, 2).chunk(2, 1)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (rotate(k, angles), v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + y.transpose(1, 2).flatten(2)
        return x + F.silu(self.gate(x)) * x if self.heads % self.groups == 0 else x


def make():
    net = nn.Sequential(nn.Embedding(40, 16), Block(16, 4, 2), Block(16, 4, 2), nn.Linear(16, 40)).eval()
    return net, {"ids": torch.randint(0, 40, (2, 6))}, [{"ids": torch.randint(0, 40, (3, 5))}]
