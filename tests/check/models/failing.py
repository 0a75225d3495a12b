import sys

import torch
from torch import Tensor, nn


def combine(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight  # the line that fails


class Net(nn.Module):
    def __init__(self, leave: bool = False, rows: int = 0, device: str = "cpu") -> None:
        super().__init__()
        self.leave, self.rows = leave, rows
        self.weight = nn.Parameter(torch.ones(5, 2))
        self.lost = nn.Linear(2, 2, device=device)

    def forward(self, x: Tensor) -> Tensor:
        if self.leave:
            sys.exit(3)
        if x.shape[0] == self.rows:
            raise ValueError("too many\nrows")
        return self.lost(combine(x, self.weight))
