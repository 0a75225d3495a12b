import math

import torch
from torch import Tensor, nn


class Base(nn.Module):
    def gain(self, x: Tensor) -> float:
        return math.exp(x.max())  # expect: non-torch-call=error

    def rescaled(self, x: Tensor) -> Tensor:
        return x * self.gain(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.rescaled(x) + torch.ones_like(x)
