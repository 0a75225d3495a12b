import torch
from torch import Tensor, nn

ROUTE = "script"
EPS = 1e-5


class Wrong(nn.Module):
    """EPS is a number at the top of the file."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)  # wrong


class Right(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eps = EPS

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


EXAMPLE: dict[str, Tensor] = {"x": torch.randn(2, 8)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.randn(2, 8)}, {"x": torch.randn(3, 12)}]
