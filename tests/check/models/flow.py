"""Values that leave torch and come back: what is computed from them outside torch, and what is not."""

import math
import statistics

import scipy.special
import torch
from torch import Tensor, nn


def spread(values: list, factor: float = 1.0) -> float:
    return statistics.pstdev(values) * factor  # expect: non-torch-call=error


def count(values: list) -> float:
    return math.sqrt(len(values))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    @property
    def gain(self) -> float:
        return math.sqrt(self.head.out_features)

    def forward(self, x: Tensor) -> Tensor:
        y = x[0].tolist()
        size = count([1, 2, 3]) * self.gain
        width = spread(factor=size, values=y)
        y = torch.tensor(y)  # expect: captured-constant=error
        size = size + math.log(y.shape[0])
        for _ in range(2):
            level = x.max().item()
            size = size + math.fabs(level)  # expect: non-torch-call=error
            level = 3.0
        size = size + math.fabs(level)
        peaks = [math.sinh(row.max().item()) for row in x]  # expect: non-torch-call=error
        width = width + sum(peaks)
        z = scipy.special.expit(x.sum(1, keepdim=True))  # expect: non-torch-call=warning
        return self.head(x) * width * size + math.sqrt(z.dim())


def make():
    return Net().eval(), {"x": torch.rand(2, 4)}, [{"x": torch.rand(2, 4)}]
