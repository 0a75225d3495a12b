import numpy as np
import torch
from torch import Tensor, nn


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.as_tensor(np.sin(x))  # qntz: ignore[numpy-in-forward] replaced by a rewrite
        # the next comment names another rule    expect-below: numpy-in-forward=error, unused-ignore=note
        x = torch.as_tensor(np.cos(x))  # qntz: ignore[non-torch-call] another
        y = np.tan(x) + len("# qntz: ignore[numpy-in-forward] no")  # expect: numpy-in-forward=error
        # the next comment gives no reason    expect-below: unexplained-ignore=note, unused-ignore=note
        return y + torch.as_tensor(np.exp(x))  # qntz: ignore[multi-device, numpy-in-forward]


def make():
    return Net().eval(), {"x": torch.rand(2, 4)}, [{"x": torch.rand(3, 4)}]
