import numpy as np
import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, power: Tensor) -> Tensor:
        loudness = torch.from_numpy(np.log1p(power.numpy()))  # wrong
        return self.fc(loudness)


class Right(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, power: Tensor) -> Tensor:
        loudness = torch.log1p(power)
        return self.fc(loudness)


EXAMPLE: dict[str, Tensor] = {"power": torch.rand(2, 8)}
PROBES: list[dict[str, Tensor]] = [{"power": 9 * torch.rand(2, 8)}, {"power": torch.rand(5, 8)}]
