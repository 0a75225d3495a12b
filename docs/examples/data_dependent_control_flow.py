import torch
from torch import Tensor, nn


class Wrong(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        if image.max() > 1.0:  # wrong
            image = image / 255.0
        return image - 0.5


class Right(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        image = torch.where(image.max() > 1.0, image / 255.0, image)
        return image - 0.5


EXAMPLE: dict[str, Tensor] = {"image": torch.rand(2, 3, 8, 8)}
PROBES: list[dict[str, Tensor]] = [{"image": 255.0 * torch.rand(2, 3, 8, 8)}, {"image": torch.rand(3, 3, 6, 4)}]
