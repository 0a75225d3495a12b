import random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)  # expect: training-mode=error
        self.unused = nn.Dropout(0.5)
        self.inert = nn.Dropout(0.0)
        self.register_buffer("table", torch.ones(4, dtype=torch.float64))  # expect: float64=warning
        self.eval()
        for part in (self.norm, self.unused, self.inert):
            part.train()

    def forward(self, x: Tensor) -> Tensor:
        x.clamp_(min=0.5)  # expect: inplace-on-input=warning
        y = self.norm(x)  # expect: training-mode=note, unsupported-engine-op=warning, unsupported-engine-op=warning
        y = self.inert(y)
        y = F.dropout(y, 0.25)  # expect: randomness=error, training-mode=error
        y = y + random.random()  # expect: randomness=error
        y = y + float(np.random.rand())  # expect: randomness=error
        z = torch.linspace(0, 1, 4, dtype=torch.float64)  # expect: float64=warning
        return y * z.float() + self.table.float()


def make():
    return Net(), {"x": torch.rand(3, 4)}, [{"x": torch.rand(5, 4)}]
