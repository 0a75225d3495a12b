import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        turn = torch.polar(torch.ones_like(angle), angle)  # wrong
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2)


class Right(nn.Module):
    def forward(self, x: Tensor, angle: Tensor) -> Tensor:
        cos, sin = angle.cos(), angle.sin()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


EXAMPLE: dict[str, Tensor] = {"x": torch.randn(2, 5, 8), "angle": torch.rand(5, 4)}
PROBES: list[dict[str, Tensor]] = [
    {"x": torch.randn(2, 5, 8), "angle": torch.rand(5, 4)},
    {"x": torch.randn(3, 7, 8), "angle": torch.rand(7, 4)},
]
