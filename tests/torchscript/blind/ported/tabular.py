"""Time series and recommenders."""

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import build, ri, rn


class TimesPeriodNet(nn.Module):
    """TimesNet: the strongest frequencies of the batch fold the series into 2-D."""

    def __init__(self, chans=3, dim=8, k=2, horizon=4):
        super().__init__()
        self.k = k
        self.emb = nn.Conv1d(chans, dim, 3, padding=1, padding_mode="circular")
        self.conv = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.GELU(), nn.Conv2d(dim, dim, 3, padding=1))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, horizon)

    def periods(self, x):
        xf = torch.fft.rfft(x, dim=1)
        amp = xf.abs().mean(0).mean(-1)
        amp[0] = 0
        _, top = torch.topk(amp, self.k)
        top = top.detach().cpu().numpy()
        return x.shape[1] // top, xf.abs().mean(-1)[:, top]

    def forward(self, series):
        x = self.emb(series.transpose(1, 2)).transpose(1, 2)
        B, T, N = x.size()
        periods, weight = self.periods(x)
        res = []
        for p in periods:
            p = int(p)
            if T % p != 0:
                length = (T // p + 1) * p
                out = torch.cat([x, torch.zeros(B, length - T, N)], dim=1)
            else:
                length, out = T, x
            out = out.reshape(B, length // p, p, N).permute(0, 3, 1, 2).contiguous()
            out = self.conv(out).permute(0, 2, 3, 1).reshape(B, -1, N)
            res.append(out[:, :T])
        w = F.softmax(weight, dim=1)[:, None, None, :]
        x = self.norm((torch.stack(res, -1) * w).sum(-1) + x)
        return self.head(x[:, -1]), x


class RevINForecaster(nn.Module):
    """DLinear with RevIN: statistics live on the module between norm and denorm."""

    class RevIN(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.w, self.b = nn.Parameter(torch.rand(n) + 0.5), nn.Parameter(torch.randn(n) * 0.1)

        def forward(self, x, mode):
            if mode == "norm":
                self.mean = x.mean(1, keepdim=True).detach()
                self.stdev = torch.sqrt(x.var(1, keepdim=True, unbiased=False) + 1e-5).detach()
                return (x - self.mean) / self.stdev * self.w + self.b
            elif mode == "denorm":
                return (x - self.b) / (self.w + 1e-8) * self.stdev + self.mean
            raise NotImplementedError(mode)

    def __init__(self, chans=3, window=12, horizon=6):
        super().__init__()
        self.window = window
        self.rev = self.RevIN(chans)
        self.season, self.trend = nn.Linear(window, horizon), nn.Linear(window, horizon)

    def forward(self, x_enc):
        x = self.rev(x_enc, "norm")
        T = x.shape[1]
        kernel = min(15, T // 3 * 2 - 1)  # odd, follows the length
        front = x[:, :1].repeat(1, (kernel - 1) // 2, 1)
        back = x[:, -1:].repeat(1, (kernel - 1) // 2, 1)
        trend = F.avg_pool1d(torch.cat([front, x, back], 1).transpose(1, 2), kernel, stride=1)
        season = x.transpose(1, 2) - trend
        y = self.season(season[..., -self.window :]) + self.trend(trend[..., -self.window :])
        return self.rev(y.transpose(1, 2), "denorm")


class HashedBagRanker(nn.Module):
    """Recommender: hashed ids, EmbeddingBag, attention inside each bag, dispatch on type."""

    def __init__(self, buckets=31, dim=8):
        super().__init__()
        self.buckets = buckets
        self.item = nn.Embedding(buckets, dim)
        self.wide = nn.EmbeddingBag(buckets, 1, mode="sum")
        self.user = nn.Embedding(buckets, dim)
        self.empty = nn.Parameter(torch.randn(dim))
        self.top = nn.Sequential(nn.Linear(2 * dim + 2, 16), nn.ReLU(), nn.Linear(16, 1))

    def hash(self, ids, salt):
        return ((ids * 2654435761 + salt) % 4294967296 // 7) % self.buckets

    @functools.singledispatchmethod
    def encode(self, value, user):
        raise TypeError(type(value))

    @encode.register
    def _(self, value: torch.Tensor, user):
        return value

    @encode.register
    def _(self, value: tuple, user):
        items, offsets = value
        e = self.item(self.hash(items, 17))
        ends = offsets.tolist()[1:] + [items.numel()]
        out = []
        for row, (s, t) in enumerate(zip(offsets.tolist(), ends)):
            if s == t:
                out.append(self.empty)
                continue
            a = (e[s:t] @ user[row]).softmax(0)
            out.append(a @ e[s:t])
        return torch.stack(out)

    def forward(self, user_id, items, offsets, dense):
        user = self.user(self.hash(user_id, 3))
        fields = {"history": (items, offsets), "dense": dense}
        feats = [self.encode(v, user) for v in fields.values()]
        logit = self.top(torch.cat([user] + feats, -1)) + self.wide(self.hash(items, 5), offsets)
        return logit.squeeze(-1).sigmoid()


def cases():
    def ts(seed, b, t, period):
        base = torch.sin(torch.arange(t) * 2 * np.pi / period)[None, :, None]
        return {"series": base * 2 + rn(seed, b, t, 3, scale=0.4)}

    def fc(seed, b, t):
        return {"x_enc": rn(seed, b, t, 3).cumsum(1) * 2 + 5}

    def rec(seed, sizes):
        n = torch.tensor(sizes)
        return {
            "user_id": ri(seed, 0, 10**6, len(sizes)),
            "items": ri(seed + 1, 0, 10**6, int(n.sum())),
            "offsets": n.cumsum(0) - n,
            "dense": rn(seed, len(sizes), 2),
        }

    return {
        "TimesPeriodNet": (
            build(TimesPeriodNet, seed=81),
            ts(1, 2, 24, 6),
            [ts(2, 1, 31, 8), ts(3, 3, 20, 4), ts(4, 2, 27, 9)],
            [ts(5, 3, 28, 7), ts(6, 1, 22, 5), ts(7, 2, 35, 12), ts(8, 4, 30, 6)],
        ),
        "RevINForecaster": (
            build(RevINForecaster, seed=82),
            fc(1, 2, 20),
            [fc(2, 1, 33), fc(3, 4, 16)],
            [fc(4, 3, 25), fc(5, 1, 18), fc(6, 5, 40), fc(7, 2, 22)],
        ),
        "HashedBagRanker": (
            build(HashedBagRanker, seed=83),
            rec(1, [3, 2, 4]),
            [rec(2, [1, 5]), rec(3, [2, 0, 3, 4]), rec(4, [6])],
            [rec(5, [4, 1, 3]), rec(6, [2, 7, 0, 1]), rec(7, [5, 3]), rec(8, [1, 1, 2, 0, 6])],
        ),
    }
