import numpy as np
import torch
from torch import Tensor, nn

SCALE = np.array([1.0, 2.0, 3.0, 4.0], dtype=np.float32)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.offset = np.zeros(4, dtype=np.float32)
        self.names = [np.array(["a", "b"])]  # expect: numpy-in-forward=note
        self.seen = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.numpy().max()  # expect: numpy-in-forward=warning, captured-constant=note
        x = x * torch.from_numpy(SCALE)  # expect: numpy-in-forward=warning
        x = x + torch.as_tensor(self.offset)  # expect: numpy-in-forward=warning
        if self.training:
            x = x + float(np.hypot(3, 4))  # expect: numpy-in-forward=note
        return self.head(x)


def make():
    return Net().eval(), {"x": torch.rand(2, 4)}, [{"x": torch.rand(3, 4)}]
