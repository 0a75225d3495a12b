import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.empty_like(x, device="meta")  # expect: multi-device=error, captured-device=warning
        return self.head(x) / rows.shape[0]


def make():
    return Net().eval(), {"x": torch.rand(2, 4)}, []
