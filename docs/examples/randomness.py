import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(x, 0.1))  # wrong


class Right(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(x, 0.1, self.training))


EXAMPLE: dict[str, Tensor] = {"x": torch.rand(2, 8)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.rand(2, 8)}, {"x": torch.rand(5, 8)}]
