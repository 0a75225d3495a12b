import torch
from torch import Tensor, nn

ROUTE = "script"


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        best = None
        for step in range(x.shape[1]):
            best = x[:, step] if best is None else torch.maximum(0.9 * best, x[:, step])  # wrong
        return best


class Right(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        best = x[:, 0]
        for step in range(1, x.shape[1]):
            best = torch.maximum(0.9 * best, x[:, step])
        return best


EXAMPLE: dict[str, Tensor] = {"x": torch.randn(2, 5, 3)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.randn(2, 5, 3)}, {"x": torch.randn(3, 8, 3)}]
