import torch
from torch import nn
import torch.nn.functional as F

from tests.torchscript.blind.operators._helpers import assemble, rand, randn


class TinyResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.a = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, image):
        x = self.stem(image)
        x = F.relu(x + self.a(x))
        return self.fc(torch.flatten(self.pool(x), 1))


class SkipUNet(nn.Module):
    """Two-level U-Net that resizes to its skip, so any size works."""

    def __init__(self):
        super().__init__()
        self.e1 = nn.Conv2d(1, 6, 3, padding=1)
        self.e2 = nn.Conv2d(6, 10, 3, padding=1)
        self.d1 = nn.Conv2d(16, 6, 3, padding=1)
        self.out = nn.Conv2d(6, 2, 1)

    def forward(self, image):
        s = F.relu(self.e1(image))
        x = F.relu(self.e2(F.max_pool2d(s, 2)))
        x = F.interpolate(x, size=s.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(F.relu(self.d1(torch.cat([x, s], dim=1))))


class FlowWarp(nn.Module):
    """Warps a frame by a flow predicted from two frames (grid_sample)."""

    def __init__(self):
        super().__init__()
        self.flow = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, first, second):
        h, w = first.shape[2], first.shape[3]
        flow = 0.3 * torch.tanh(self.flow(torch.cat([first, second], dim=1)))
        ys = (torch.arange(h).float() + 0.5) / h * 2 - 1
        xs = (torch.arange(w).float() + 0.5) / w * 2 - 1
        base = torch.stack([xs[None, :] + 0 * ys[:, None], ys[:, None] + 0 * xs[None, :]], -1)
        grid = base.unsqueeze(0) + flow.permute(0, 2, 3, 1)
        warped = F.grid_sample(second, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return warped, (warped - first).abs().mean(dim=(1, 2, 3))


class SubPixelSR(nn.Module):
    def __init__(self, r=2):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.PReLU(8),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.GroupNorm(2, 8),
            nn.Conv2d(8, 3 * r * r, 1),
        )
        self.up = nn.PixelShuffle(r)

    def forward(self, image):
        base = F.interpolate(image, scale_factor=2.0, mode="nearest")
        return (base + self.up(self.body(image))).clamp(0.0, 1.5)


def _img(s, b, h, w, c=3):
    return {"image": rand(s, b, c, h, w)}


def cases():
    return {
        "TinyResNet": assemble(
            TinyResNet,
            _img,
            (2, 20, 24),
            [(1, 17, 30), (3, 25, 19)],
            [(4, 22, 28), (2, 31, 16), (1, 18, 21), (5, 27, 33)],
            801,
        ),
        "SkipUNet": assemble(
            SkipUNet,
            lambda s, b, h, w: _img(s, b, h, w, 1),
            (2, 12, 16),
            [(1, 15, 11), (3, 18, 13)],
            [(4, 13, 14), (2, 21, 10), (1, 16, 19), (3, 11, 17)],
            802,
        ),
        "FlowWarp": assemble(
            FlowWarp,
            lambda s, b, h, w: {"first": randn(s, b, 2, h, w), "second": randn(s + 1, b, 2, h, w)},
            (2, 9, 12),
            [(1, 11, 8), (3, 14, 10)],
            [(4, 10, 13), (2, 7, 15), (1, 13, 9), (3, 8, 11)],
            803,
        ),
        "SubPixelSR": assemble(
            SubPixelSR,
            _img,
            (2, 8, 10),
            [(1, 11, 7), (3, 6, 12)],
            [(4, 9, 11), (2, 13, 8), (1, 7, 14), (5, 10, 6)],
            804,
        ),
    }
