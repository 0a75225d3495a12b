import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        image.sub_(0.5).div_(0.25)  # wrong
        return self.conv(image)


class Right(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        image = (image - 0.5) / 0.25
        return self.conv(image)


EXAMPLE: dict[str, Tensor] = {"image": torch.rand(2, 3, 8, 8)}
PROBES: list[dict[str, Tensor]] = [{"image": torch.rand(2, 3, 8, 8)}, {"image": torch.rand(3, 3, 10, 12)}]
