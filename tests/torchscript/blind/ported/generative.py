"""Samplers and flows: DDIM, an adaptive ODE, a flow with both directions."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import build, ri, rn


class DDIMSampler(nn.Module):
    """Deterministic DDIM with classifier-free guidance; step count comes with the request."""

    def __init__(self, ch=8, classes=4, T=40):
        super().__init__()
        self.T, self.ch = T, ch
        self.register_buffer("alpha_bar", torch.cumprod(1 - torch.linspace(1e-3, 0.12, T), 0))
        self.label = nn.Embedding(classes + 1, ch)
        self.time = nn.Sequential(nn.Linear(ch, ch), nn.SiLU(), nn.Linear(ch, ch))
        self.inp, self.mid = nn.Conv2d(2, ch, 3, padding=1), nn.Conv2d(ch, ch, 3, padding=1)
        self.norm, self.out = nn.GroupNorm(2, ch), nn.Conv2d(ch, 2, 3, padding=1)

    def timestep_embedding(self, t):
        half = self.ch // 2
        freqs = torch.exp(-math.log(1000) * torch.arange(half) / half)
        a = t[:, None].float() * freqs[None]
        return torch.cat([a.cos(), a.sin()], -1)

    def eps(self, x, t, y):
        emb = self.time(self.timestep_embedding(t)) + self.label(y)
        h = self.inp(x) + emb[:, :, None, None]
        return self.out(F.silu(self.norm(h + self.mid(F.silu(h)))))

    @torch.no_grad()
    def forward(self, noise, labels, num_steps, guidance):
        steps = int(num_steps)
        ts = list(range(0, self.T, self.T // steps))[:steps]
        x = noise
        for i in reversed(range(len(ts))):
            t = torch.full((x.shape[0],), ts[i], dtype=torch.long)
            e = self.eps(x, t, labels)
            if guidance > 1.0:
                null = torch.full_like(labels, self.label.num_embeddings - 1)
                e0 = self.eps(x, t, null)
                e = e0 + guidance * (e - e0)
            a = self.alpha_bar[ts[i]]
            x0 = ((x - (1 - a).sqrt() * e) / a.sqrt()).clamp(-2, 2)
            if i > 0:
                ap = self.alpha_bar[ts[i - 1]]
                e = (x - a.sqrt() * x0) / (1 - a).sqrt()
                x = ap.sqrt() * x0 + (1 - ap).sqrt() * e
            else:
                x = x0
        return x


class AdaptiveODE(nn.Module):
    """Neural ODE by an embedded Bogacki-Shampine pair with step-size control."""

    def __init__(self, dim=5, rtol=2e-3, atol=2e-3):
        super().__init__()
        self.rtol, self.atol = rtol, atol
        self.f = nn.Sequential(nn.Linear(dim + 1, 24), nn.Tanh(), nn.Linear(24, dim))
        with torch.no_grad():
            self.f[0].weight.mul_(2.0)
            self.f[2].weight.mul_(2.5)

    def dyn(self, t, y):
        return self.f(torch.cat([y, torch.full_like(y[:, :1], t)], -1))

    def forward(self, y0, t_end):
        t, T = 0.0, float(t_end)
        y, h = y0, 0.1
        k1 = self.dyn(t, y)
        while t < T - 1e-6:
            h = min(h, T - t)
            k2 = self.dyn(t + h / 2, y + h / 2 * k1)
            k3 = self.dyn(t + 3 * h / 4, y + 3 * h / 4 * k2)
            yn = y + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
            k4 = self.dyn(t + h, yn)
            err = h * (-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)
            tol = self.atol + self.rtol * torch.maximum(y.abs(), yn.abs())
            ratio = (err / tol).pow(2).mean().sqrt().item()
            if ratio <= 1.0:
                t, y, k1 = t + h, yn, k4
            h = h * min(4.0, max(0.25, 0.9 * (ratio + 1e-10) ** (-1 / 3)))
        return y


class MaskedAutoregressiveFlow(nn.Module):
    """MAF: density in one pass, sampling one coordinate at a time; a flag picks the way."""

    def __init__(self, dim=6, hidden=20, layers=2):
        super().__init__()
        self.dim = dim
        deg_h = torch.arange(hidden) % (dim - 1)
        deg = torch.arange(dim)
        self.register_buffer("m1", (deg_h[:, None] >= deg[None]).float())
        self.register_buffer("m2", (deg[:, None] > deg_h[None]).float().repeat(2, 1))
        self.l1 = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(layers))
        self.l2 = nn.ModuleList(nn.Linear(hidden, 2 * dim) for _ in range(layers))
        self.cond = nn.Linear(3, hidden)

    def net(self, i, x, c):
        h = torch.tanh(F.linear(x, self.l1[i].weight * self.m1, self.l1[i].bias) + self.cond(c))
        mu, s = F.linear(h, self.l2[i].weight * self.m2, self.l2[i].bias).chunk(2, -1)
        return mu, torch.tanh(s)

    def forward(self, x, context, inverse):
        logdet = torch.zeros(x.shape[0])
        if inverse:
            for i in reversed(range(len(self.l1))):
                z = x.flip(-1)
                x = torch.zeros_like(z)
                for d in range(self.dim):
                    mu, s = self.net(i, x, context)
                    x[:, d] = z[:, d] * s[:, d].exp() + mu[:, d]
                logdet = logdet + s.sum(-1)
            return x, logdet
        for i in range(len(self.l1)):
            mu, s = self.net(i, x, context)
            x = ((x - mu) * (-s).exp()).flip(-1)
            logdet = logdet - s.sum(-1)
        return x, logdet


def cases():
    def d(seed, b, h, w, n, g):
        return {
            "noise": rn(seed, b, 2, h, w),
            "labels": ri(seed, 0, 4, b),
            "num_steps": torch.tensor(n),
            "guidance": torch.tensor(g),
        }

    def o(seed, b, t, s=1.0):
        return {"y0": rn(seed, b, 5, scale=s), "t_end": torch.tensor(t)}

    def f(seed, b, inv):
        return {"x": rn(seed, b, 6), "context": rn(seed + 3, b, 3), "inverse": torch.tensor(inv)}

    return {
        "DDIMSampler": (
            build(DDIMSampler, seed=71),
            d(1, 2, 8, 10, 5, 2.0),
            [d(2, 1, 12, 8, 8, 0.5), d(3, 3, 6, 12, 2, 3.0), d(4, 2, 10, 6, 4, 0.8)],
            [
                d(5, 1, 10, 12, 3, 2.5),
                d(6, 3, 8, 6, 10, 0.7),
                d(7, 2, 14, 8, 7, 1.6),
                d(8, 4, 7, 9, 2, 0.9),
                d(9, 2, 9, 9, 6, 4.0),
            ],
        ),
        "AdaptiveODE": (
            build(AdaptiveODE, seed=72),
            o(1, 3, 1.0),
            [o(2, 1, 2.5, 2.0), o(3, 5, 0.4), o(4, 2, 1.7, 0.3)],
            [o(5, 4, 1.3), o(6, 1, 0.6, 1.5), o(7, 6, 2.1), o(8, 2, 3.0, 0.5)],
        ),
        "MaskedAutoregressiveFlow": (
            build(MaskedAutoregressiveFlow, seed=73),
            f(1, 4, False),
            [f(2, 2, True), f(3, 7, False), f(4, 1, True)],
            [f(5, 3, True), f(6, 6, False), f(7, 8, True), f(8, 5, False), f(9, 1, False)],
        ),
    }
