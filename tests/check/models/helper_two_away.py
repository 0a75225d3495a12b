import torch
from torch import Tensor, nn

from .prepare import prepare


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(prepare(x))


def make():
    return Net().eval(), {"x": torch.rand(2, 5)}, [{"x": torch.rand(3, 5)}]
