"""A small residual convolutional network with batch norm, for 8x8 images of handwritten digits."""

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights.safetensors"


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut: float [N, C, H, W] to [N, C', H/stride, W/stride]."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: float [N, C, H, W] to float [N, C', H/stride, W/stride], not negative."""
        branch = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(branch)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """Classifies a digit from its image. ``width`` is the number of channels of the stem."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(
            ResidualBlock(width, width),
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 2 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 [N, 1, 8, 8], 0..1. Returns logits float32 [N, 10]."""
        features = self.blocks(self.stem(image))
        return self.head(self.pool(features).flatten(1))


def pretrained() -> DigitsNet:
    """Returns the network with the weights that ``train.py`` saved, in eval mode on the CPU."""
    from safetensors.torch import load_file

    model = DigitsNet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
