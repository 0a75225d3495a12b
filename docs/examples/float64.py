import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], dtype=torch.float64, device=x.device)  # wrong
        return x * torch.exp(-0.1 * steps)


class Right(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], dtype=torch.float32, device=x.device)
        return x * torch.exp(-0.1 * steps)


EXAMPLE: dict[str, Tensor] = {"x": torch.rand(2, 8)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.rand(2, 8)}, {"x": torch.rand(3, 12)}]
