"""Looks suspicious by its names; nothing here leaves torch."""

import math

import numpy
import numpy as cv2
import scipy.ndimage
import torch
from torch import Tensor, nn


class Box:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def item(self) -> Tensor:
        return self.tensor

    def numpy(self) -> Tensor:
        return self.tensor * 2


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.from_numpy(numpy.eye(width, dtype=numpy.float32)))
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        np = torch
        random = Box(x)
        x = np.sin(random.item()) + np.sqrt(random.numpy())
        x = x @ self.weight / math.sqrt(self.width)
        half = math.ceil(x.shape[1] / 2)
        if x.dim() == 2 and x.shape[1] == self.width:
            x = x * 2
        x = x.clone()
        x += 1
        return self.head(x) * half

    def preview(self, x: Tensor) -> numpy.ndarray:
        return cv2.sqrt(scipy.ndimage.sobel(x.detach().numpy()))


def make():
    return Net().eval(), {"x": torch.rand(2, 4)}, [{"x": torch.rand(3, 4)}]
