import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    """The head is laid out on `meta` until its weights are loaded, and nobody loads them."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4, device="meta")  # wrong

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).relu())


class Right(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).relu())


EXAMPLE: dict[str, Tensor] = {"x": torch.rand(2, 8)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.rand(2, 8)}, {"x": torch.rand(5, 8)}]
