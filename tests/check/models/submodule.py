import numpy
import torch
from torch import Tensor, nn


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return numpy.sin(x)  # expect: numpy-in-forward=error


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Sine(), nn.Linear(4, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def make():
    return Net().eval(), (torch.rand(2, 4),), [(torch.rand(2, 4),)]
