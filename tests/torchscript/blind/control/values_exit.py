"""Branches, early exits and iteration counts decided by tensor values."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from tests.torchscript.blind.control._helpers import (
    ConvBlock,
    FeedForward,
    REGISTRY,
    SelfAttention,
    build,
    rand,
    randn,
    register,
)


class LoudnessGate(nn.Module):
    """Mask-based speech denoiser that skips silent recordings and tames clipped ones."""

    def __init__(self, channels=12, floor=0.02, ceiling=4.0):
        super().__init__()
        self.floor, self.ceiling = floor, ceiling
        self.encode = nn.Conv1d(1, channels, 9, padding=4)
        self.mask = nn.Sequential(
            nn.Conv1d(channels, channels, 5, padding=2, groups=channels),
            nn.PReLU(channels),
            nn.Conv1d(channels, channels, 1),
        )
        self.decode = nn.Conv1d(channels, 1, 9, padding=4)

    def forward(self, wave):
        rms = wave.pow(2).mean().sqrt().item()
        if rms < self.floor:
            return wave * 0.1
        peak = wave.abs().max()
        if peak > self.ceiling:
            wave = self.ceiling * torch.tanh(wave / self.ceiling)
        h = self.encode(wave.unsqueeze(1))
        h = h * torch.sigmoid(self.mask(F.relu(h)))
        return self.decode(h).squeeze(1)


@register("stage")
class Stage(nn.Module):
    def __init__(self, cin, cout, classes):
        super().__init__()
        self.body = ConvBlock(cin, cout, stride=2)
        self.head = nn.Linear(cout, classes)

    def forward(self, x):
        x = self.body(x)
        return x, self.head(x.mean((2, 3)))


class EarlyExitVision(nn.Module):
    """BranchyNet: returns from the first stage which is sure of the whole batch."""

    def __init__(self, classes=4, widths=(6, 10, 14), sure=0.7):
        super().__init__()
        self.sure = sure
        cins = (3,) + tuple(widths[:-1])
        self.stages = nn.ModuleList(REGISTRY["stage"](i, o, classes) for i, o in zip(cins, widths))

    def forward(self, image):
        x = image
        for depth, stage in enumerate(self.stages):
            x, logits = stage(x)
            probs = logits.mul(6.0).softmax(-1)
            if depth == len(self.stages) - 1:
                break
            if probs.amax(-1).min().item() > self.sure:
                return probs
        return probs * 0.5 + 0.5 / probs.size(-1)


class ArmRefiner(nn.Module):
    """A learned first guess of a planar arm's joint angles, refined until it reaches."""

    def __init__(self, links=(1.0, 0.8, 0.5), tol=0.1, most=10, damping=0.2):
        super().__init__()
        self.tol, self.most, self.damping = tol, most, damping
        self.register_buffer("links", torch.tensor(links))
        self.guess = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, len(links)))

    def reach(self, q):
        total = q.cumsum(-1)
        return torch.stack([(self.links * total.cos()).sum(-1), (self.links * total.sin()).sum(-1)], -1)

    def jacobian(self, q):
        total = q.cumsum(-1)
        dx = -(self.links * total.sin())
        dy = self.links * total.cos()
        rev = lambda t: t.flip(-1).cumsum(-1).flip(-1)
        return torch.stack([rev(dx), rev(dy)], dim=-2)

    def step(self, q, error):
        j = self.jacobian(q)
        a, b, d = (j[:, r] * j[:, c] for r, c in ((0, 0), (0, 1), (1, 1)))
        a, b, d = a.sum(-1) + self.damping, b.sum(-1), d.sum(-1) + self.damping
        det = a * d - b * b
        ex, ey = error.unbind(-1)
        pull = torch.stack([(d * ex - b * ey) / det, (a * ey - b * ex) / det], -1)
        return (j.transpose(-1, -2) @ pull.unsqueeze(-1)).squeeze(-1)

    def forward(self, target):
        q = self.guess(target)
        error = target - self.reach(q)
        steps = 0
        while error.norm(dim=-1).max() > self.tol and steps < self.most:
            q = q + self.step(q, error)
            error = target - self.reach(q)
            steps += 1
        return q, error


class AdaptiveHalting(nn.Module):
    """Universal transformer: one layer repeated until every token has halted."""

    def __init__(self, dim=16, most=6):
        super().__init__()
        self.most = most
        self.layer = SelfAttention(dim)
        self.ff = FeedForward(dim, 24)
        self.norm = nn.LayerNorm(dim)
        self.halt = nn.Linear(dim, 1)
        nn.init.constant_(self.halt.weight, 0.25)

    def forward(self, tokens, haste):
        h = tokens
        used = torch.zeros_like(h[..., 0])
        out = torch.zeros_like(h)
        for step in range(self.most):
            h = self.norm(h + self.layer(h))
            h = h + self.ff(h)
            p = torch.sigmoid(self.halt(h).squeeze(-1) + haste)
            p = torch.minimum(p, 1.0 - used)
            used = used + p
            out = out + p.unsqueeze(-1) * h
            if bool((used > 0.97).all()):
                break
        else:
            out = out + (1.0 - used).unsqueeze(-1) * h
        return {"hidden": out, "ponder": used}


class SpectrumScaler(nn.Module):
    """Photon-count spectra: a scale rule by range, then a small 1-d network."""

    def __init__(self, bins=40, wide=20):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(bins, wide), nn.Softplus(), nn.Linear(wide, 5))
        self.lines = nn.Parameter(torch.randn(bins) * 0.2)

    def rescale(self, counts):
        if torch.any(counts < -0.5):
            low = counts.min(dim=1, keepdim=True).values
            return (counts - low) / 50.0, "baseline"
        elif float(counts.max()) > 1000:
            return counts.clamp_min(0).log1p() / 3.0, "log"
        return counts / 100.0, "plain"

    def forward(self, counts):
        scaled, how = self.rescale(counts)
        gain = {"baseline": 0.5, "log": 1.5}.get(how, 1.0)
        y = self.net(scaled * (1 + self.lines)) * gain
        if how != "log" and scaled.mean() > 0.5:
            y = y - y.mean(dim=1, keepdim=True)
        return y


def cases():
    out = {}

    w = lambda s, b, t, k: {"wave": randn(s, b, t, scale=k)}
    out["LoudnessGate"] = (
        build(LoudnessGate, 1),
        w(1, 2, 160, 0.4),
        [w(2, 1, 120, 0.003), w(3, 3, 200, 3.0), w(4, 2, 90, 0.7)],
        [w(5, 1, 143, 0.3), w(6, 3, 111, 0.005), w(7, 2, 180, 2.8), w(8, 3, 97, 0.9), w(9, 2, 171, 0.002)],
    )

    im = lambda s, b, h, wd, k, m=0.0: {"image": randn(s, b, 3, h, wd, scale=k, shift=m)}
    out["EarlyExitVision"] = (
        build(EarlyExitVision, 22),
        im(1, 2, 24, 24, 1.0),
        [im(2, 1, 32, 20, 1.0, 1.5), im(3, 3, 20, 28, 1.0, -1.5), im(4, 2, 28, 36, 0.3)],
        [
            im(5, 1, 26, 22, 1.0),
            im(6, 2, 30, 24, 1.0, 1.4),
            im(7, 3, 22, 34, 1.0, -1.4),
            im(8, 2, 24, 30, 0.3, 0.5),
            im(9, 3, 32, 32, 0.5, -0.7),
        ],
    )

    t = lambda s, b, r: {"target": F.normalize(randn(s, b, 2), dim=-1) * r}
    out["ArmRefiner"] = (
        build(ArmRefiner, 3),
        t(1, 4, 1.6),
        [t(2, 1, 2.0), t(3, 7, 3.1), t(4, 2, 1.1)],
        [t(5, 3, 1.8), t(6, 5, 1.3), t(7, 6, 3.0), t(8, 1, 1.5), t(9, 2, 2.1)],
    )

    a = lambda s, b, n, k: {"tokens": randn(s, b, n, 16), "haste": torch.tensor(float(k))}
    out["AdaptiveHalting"] = (
        build(AdaptiveHalting, 4),
        a(1, 2, 7, -0.5),
        [a(2, 1, 12, 1.5), a(3, 3, 5, -4.0), a(4, 2, 9, -0.9)],
        [a(5, 3, 8, 0.0), a(6, 1, 6, 1.2), a(7, 2, 11, -3.5), a(8, 2, 10, -0.8), a(9, 1, 5, 0.8)],
    )

    c = lambda s, b, lo, hi: {"counts": rand(s, b, 40, lo=lo, hi=hi)}
    out["SpectrumScaler"] = (
        build(SpectrumScaler, 5),
        c(1, 3, 0, 60),
        [c(2, 2, -40, 10), c(3, 5, 0, 9000), c(4, 1, 20, 200), c(5, 4, -20, 90)],
        [c(6, 2, 0, 40), c(7, 4, 0, 5000), c(8, 3, -35, 2), c(9, 1, 60, 180), c(10, 5, -30, 80), c(11, 2, 5, 55)],
    )
    return out
