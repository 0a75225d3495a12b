import torch
from torch import Tensor, nn

ROUTE = "script"


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + sum(expert(x).relu() for expert in self.experts)  # wrong


class Right(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        total = x
        for expert in self.experts:
            total = total + expert(x).relu()
        return total


EXAMPLE: dict[str, Tensor] = {"x": torch.randn(2, 8)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.randn(2, 8)}, {"x": torch.randn(5, 8)}]
