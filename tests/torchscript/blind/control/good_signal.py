"""Vision and audio models with dynamic sizes."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from tests.torchscript.blind.control._helpers import build, rand, randn


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 3, 1), nn.ReLU(), nn.Conv2d(3, width, 1), nn.Sigmoid()
        )
        nn.init.uniform_(self.bn.running_mean, -0.3, 0.3)
        nn.init.uniform_(self.bn.running_var, 0.5, 1.5)

    def forward(self, x):
        y = F.relu(self.bn(self.conv1(x)))
        return x + y * self.squeeze(y)


class SqueezeResNet(nn.Module):
    """Small residual classifier with squeeze and excitation."""

    def __init__(self, width=8, depth=2):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*[Residual(width) for _ in range(depth)])
        self.out = nn.Linear(width, 4)

    def forward(self, image):
        x = self.blocks(self.stem(image))
        return self.out(x.mean(dim=(2, 3)))


class DilatedSegmenter(nn.Module):
    """Strided encoder, two dilations, and an upsampling to the size of the input."""

    def __init__(self, width=6, classes=3):
        super().__init__()
        self.encode = nn.Conv2d(1, width, 3, stride=2, padding=1)
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.far = nn.Conv2d(width, width, 3, padding=3, dilation=3)
        self.out = nn.Conv2d(2 * width, classes, 1)

    def forward(self, scan):
        x = F.elu(self.encode(scan))
        x = self.out(torch.cat([F.elu(self.near(x)), F.elu(self.far(x))], dim=1))
        return F.interpolate(x, size=scan.shape[-2:], mode="bilinear", align_corners=False)


class SubPixelUpscaler(nn.Module):
    """ESPCN super resolution over a nearest-neighbour base."""

    def __init__(self, factor=2, width=8):
        super().__init__()
        self.factor = factor
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(width, factor**2, 3, padding=1),
            nn.PixelShuffle(factor),
        )

    def forward(self, low):
        base = F.interpolate(low, scale_factor=self.factor, mode="nearest")
        return base + self.body(low)


class WaveSeparator(nn.Module):
    """Conv-TasNet in small: learned basis, masks for two sources, trimmed overlap-add."""

    def __init__(self, basis=10, kernel=8):
        super().__init__()
        self.encode = nn.Conv1d(1, basis, kernel, stride=kernel // 2, padding=kernel // 2)
        self.mask = nn.Sequential(
            nn.GroupNorm(1, basis),
            nn.Conv1d(basis, 12, 1),
            nn.PReLU(),
            nn.Conv1d(12, 12, 3, padding=2, dilation=2, groups=12),
            nn.Conv1d(12, 2 * basis, 1),
        )
        self.decode = nn.ConvTranspose1d(basis, 1, kernel, stride=kernel // 2)

    def forward(self, mixture):
        n = mixture.shape[-1]
        code = F.relu(self.encode(mixture.unsqueeze(1)))
        masks = torch.sigmoid(self.mask(code)).chunk(2, dim=1)
        return torch.cat([self.decode(code * m)[..., :n] for m in masks], dim=1)


class CausalTCN(nn.Module):
    """Dilated causal convolutions over sensor channels."""

    def __init__(self, channels=4, width=8):
        super().__init__()
        self.first = nn.Conv1d(channels, width, 3)
        self.rest = nn.ModuleList(nn.Conv1d(width, width, 3, dilation=2**i) for i in (1, 2))
        self.out = nn.Linear(width, 2)

    def forward(self, sensors):
        x = self.first(F.pad(sensors.transpose(1, 2), (2, 0)))
        for i, conv in enumerate(self.rest, start=1):
            x = x + torch.tanh(conv(F.pad(x, (2 * 2**i, 0))))
        return self.out(x.transpose(1, 2))


def cases():
    out = {}
    i = lambda s, b, h, w, name="image", c=3: {name: randn(s, b, c, h, w)}
    out["SqueezeResNet"] = (
        build(SqueezeResNet, 71),
        i(1, 2, 16, 16),
        [i(2, 1, 24, 20), i(3, 3, 19, 27)],
        [i(4, 2, 22, 18), i(5, 3, 17, 25), i(6, 1, 21, 21), i(7, 4, 20, 23)],
    )
    s = lambda k, b, h, w: i(k, b, h, w, "scan", 1)
    out["DilatedSegmenter"] = (
        build(DilatedSegmenter, 72),
        s(1, 2, 18, 14),
        [s(2, 1, 25, 22), s(3, 3, 16, 31)],
        [s(4, 2, 21, 17), s(5, 1, 23, 29), s(6, 3, 20, 20), s(7, 2, 17, 26)],
    )
    l = lambda k, b, h, w: i(k, b, h, w, "low", 1)
    out["SubPixelUpscaler"] = (
        build(SubPixelUpscaler, 73),
        l(1, 1, 10, 12),
        [l(2, 2, 15, 9), l(3, 3, 8, 17)],
        [l(4, 2, 11, 13), l(5, 1, 14, 10), l(6, 3, 9, 16), l(7, 2, 13, 15)],
    )
    w = lambda k, b, n: {"mixture": randn(k, b, n)}
    out["WaveSeparator"] = (
        build(WaveSeparator, 74),
        w(1, 2, 80),
        [w(2, 1, 121), w(3, 3, 66)],
        [w(4, 2, 94), w(5, 3, 111), w(6, 1, 72), w(7, 2, 103)],
    )
    c = lambda k, b, n: {"sensors": randn(k, b, n, 4)}
    out["CausalTCN"] = (
        build(CausalTCN, 75),
        c(1, 2, 12),
        [c(2, 1, 20), c(3, 4, 7)],
        [c(4, 3, 9), c(5, 2, 17), c(6, 1, 14), c(7, 4, 18)],
    )
    return out
