import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.drop = nn.Dropout(0.5)  # wrong

    def train(self, mode: bool = True) -> "Wrong":
        super().train(mode)
        self.drop.train()  # stays awake in eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(x))


class Right(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(x))


EXAMPLE: dict[str, Tensor] = {"x": torch.rand(2, 8)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.rand(2, 8)}, {"x": torch.rand(5, 8)}]
