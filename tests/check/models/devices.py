import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.aux = nn.Linear(4, 2, device="meta")  # expect: multi-device=error
        self.inner = nn.DataParallel(nn.Linear(4, 2))  # expect: multi-device=warning

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.body(x))


def make():
    return Net().eval(), {"x": torch.rand(2, 4)}, []
