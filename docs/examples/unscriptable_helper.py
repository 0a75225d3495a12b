import torch
from torch import Tensor, nn

ROUTE = "script"


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)
        self.activation = lambda x: x.relu().square()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.fc(x))  # wrong


class Right(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def activation(self, x: Tensor) -> Tensor:
        return x.relu().square()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.fc(x))


EXAMPLE: dict[str, Tensor] = {"x": torch.randn(2, 8)}
PROBES: list[dict[str, Tensor]] = [{"x": torch.randn(2, 8)}, {"x": torch.randn(5, 8)}]
