"""Vision models that plain tracing captures."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import ConvBNAct, build, ri, rn


class FPNSegmenter(nn.Module):
    """Feature pyramid with top-down additions and a resize to the input's size."""

    def __init__(self, classes=3):
        super().__init__()
        self.s1, self.s2, self.s3 = ConvBNAct(3, 8, 3, 2), ConvBNAct(8, 12, 3, 2), ConvBNAct(12, 16, 3, 2)
        self.l1, self.l2, self.l3 = nn.Conv2d(8, 8, 1), nn.Conv2d(12, 8, 1), nn.Conv2d(16, 8, 1)
        self.out = nn.Conv2d(8, classes, 3, padding=1)

    def forward(self, image):
        c1 = self.s1(image)
        c2 = self.s2(c1)
        c3 = self.s3(c2)
        p = self.l3(c3)
        p = self.l2(c2) + F.interpolate(p, size=c2.shape[-2:], mode="nearest")
        p = self.l1(c1) + F.interpolate(p, size=c1.shape[-2:], mode="nearest")
        logits = F.interpolate(self.out(p), size=image.shape[-2:], mode="bilinear", align_corners=False)
        return logits, p


class LocalizedSTN(nn.Module):
    """Spatial transformer with its grid made from aranges of the traced size."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Sequential(nn.Conv2d(2, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.theta = nn.Linear(8, 6)
        self.cls = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
        with torch.no_grad():
            self.theta.bias.copy_(torch.tensor([0.9, 0.1, 0.05, -0.1, 0.8, 0.0]))

    def forward(self, x):
        theta = self.theta(self.loc(x).mean((2, 3))).view(-1, 2, 3)
        h, w = x.shape[2], x.shape[3]
        ys = (2 * torch.arange(h, dtype=x.dtype) + 1) / h - 1
        xs = (2 * torch.arange(w, dtype=x.dtype) + 1) / w - 1
        gx = xs.unsqueeze(0).expand(h, w)
        gy = ys.unsqueeze(1).expand(h, w)
        base = torch.stack([gx, gy, torch.ones_like(gx)], -1).view(1, -1, 3)
        grid = (base @ theta.transpose(1, 2)).view(x.shape[0], h, w, 2)
        y = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return self.cls(y).amax((2, 3)), y


class LoRAConvNeXt(nn.Module):
    """ConvNeXt blocks, squeeze-excite, LoRA-wrapped pointwise layers, GeM pooling."""

    class LoRA(nn.Module):
        def __init__(self, i, o, r=2):
            super().__init__()
            self.base, self.scale = nn.Linear(i, o), 0.5
            self.A, self.B = nn.Parameter(torch.randn(r, i) * 0.3), nn.Parameter(torch.randn(o, r) * 0.3)

        def forward(self, x):
            return self.base(x) + F.linear(F.linear(x, self.A), self.B) * self.scale

    class Block(nn.Module):
        def __init__(self, d):
            super().__init__()
            self.dw, self.norm = nn.Conv2d(d, d, 5, padding=2, groups=d), nn.LayerNorm(d)
            self.up, self.down = LoRAConvNeXt.LoRA(d, 2 * d), LoRAConvNeXt.LoRA(2 * d, d)
            self.se = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(d, d // 2, 1), nn.ReLU(), nn.Conv2d(d // 2, d, 1), nn.Hardsigmoid()
            )

        def forward(self, x):
            y = self.norm(self.dw(x).permute(0, 2, 3, 1))
            y = self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
            return x + y * self.se(y)

    def __init__(self, d=12):
        super().__init__()
        self.stem = nn.Conv2d(3, d, 2, 2)
        self.blocks = nn.Sequential(self.Block(d), self.Block(d))
        self.p = nn.Parameter(torch.tensor(3.0))
        self.fc = nn.Linear(d, 5)

    def forward(self, x):
        f = self.blocks(self.stem(x))
        g = f.clamp(min=1e-3).pow(self.p).mean((2, 3)).pow(1.0 / self.p)
        return self.fc(g)


class TimestepUNet(nn.Module):
    """One denoising step: sinusoidal timestep embedding, group norm, self-attention, skip."""

    def __init__(self, ch=8):
        super().__init__()
        self.register_buffer("freqs", torch.exp(-4.0 * torch.arange(4) / 4))
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 2 * ch))
        self.inp, self.down = nn.Conv2d(2, ch, 3, padding=1), nn.Conv2d(ch, 2 * ch, 3, 2, 1)
        self.norm, self.qkv = nn.GroupNorm(4, 2 * ch), nn.Conv2d(2 * ch, 6 * ch, 1)
        self.proj = nn.Conv2d(2 * ch, ch, 1)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.out = nn.Conv2d(2 * ch, 2, 3, padding=1)

    def forward(self, sample, timestep):
        a = timestep.float().unsqueeze(1) * self.freqs
        emb = self.time(torch.cat([a.sin(), a.cos()], 1))
        h0 = F.silu(self.inp(sample))
        h = self.down(h0) + emb[:, :, None, None]
        q, k, v = self.qkv(self.norm(h)).flatten(2).chunk(3, 1)
        att = (q.transpose(1, 2) @ k * 0.25).softmax(-1)
        h = h + (v @ att.transpose(1, 2)).view(h.shape)
        h = self.up(self.proj(F.silu(h)))
        return self.out(torch.cat([h, h0], 1))


def cases():
    def x(name, seed, *shape):
        return {name: rn(seed, *shape)}

    def u(seed, b, h, w):
        return {"sample": rn(seed, b, 2, h, w), "timestep": ri(seed + 1, 0, 50, b)}

    return {
        "FPNSegmenter": (
            build(FPNSegmenter, seed=202),
            x("image", 1, 2, 3, 24, 32),
            [x("image", 2, 1, 3, 29, 18), x("image", 3, 3, 3, 17, 41)],
            [
                x("image", 4, 2, 3, 35, 22),
                x("image", 5, 1, 3, 20, 27),
                x("image", 6, 4, 3, 26, 38),
                x("image", 7, 3, 3, 16, 16),
            ],
        ),
        "LocalizedSTN": (
            build(LocalizedSTN, seed=203),
            x("x", 1, 2, 2, 12, 16),
            [x("x", 2, 1, 2, 17, 10), x("x", 3, 3, 2, 9, 20)],
            [x("x", 4, 2, 2, 14, 11), x("x", 5, 4, 2, 18, 13), x("x", 6, 1, 2, 11, 22), x("x", 7, 3, 2, 15, 15)],
        ),
        "LoRAConvNeXt": (
            build(LoRAConvNeXt, seed=204),
            x("x", 1, 2, 3, 16, 20),
            [x("x", 2, 1, 3, 24, 14), x("x", 3, 3, 3, 18, 30)],
            [x("x", 4, 2, 3, 22, 26), x("x", 5, 1, 3, 12, 18), x("x", 6, 4, 3, 28, 16), x("x", 7, 3, 3, 21, 25)],
        ),
        "TimestepUNet": (
            build(TimestepUNet, seed=205),
            u(1, 2, 8, 12),
            [u(2, 1, 14, 10), u(3, 3, 6, 16)],
            [u(4, 2, 10, 14), u(5, 1, 12, 6), u(6, 4, 16, 8), u(7, 3, 10, 10)],
        ),
    }
