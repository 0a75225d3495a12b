"""Shared bits that the models and the case tables import."""

import math

import torch
from torch import nn


def rng(seed):
    return torch.Generator().manual_seed(seed)


def randn(seed, *shape):
    return torch.randn(*shape, generator=rng(seed))


def rand(seed, *shape):
    return torch.rand(*shape, generator=rng(seed))


def randint(seed, low, high, shape, dtype=torch.int64):
    return torch.randint(low, high, shape, generator=rng(seed)).to(dtype)


def assemble(factory, make, example, probes, held, seed, train=False):
    """make(seed, *sizes) -> dict of tensors."""
    torch.manual_seed(seed)
    model = factory()
    model = model.train() if train else model.eval()
    s = seed * 1000
    ex = make(s, *example)
    pr = [make(s + 17 * (i + 1), *p) for i, p in enumerate(probes)]
    he = [make(s + 400 + 13 * (i + 1), *p) for i, p in enumerate(held)]
    return model, ex, pr, he


def lengths_to_mask(lengths, t):
    """True where a step is valid."""
    return torch.arange(t, device=lengths.device)[None, :] < lengths[:, None]


def sinusoid_table(n, d):
    pos = torch.arange(n, dtype=torch.float32)[:, None]
    div = torch.exp(torch.arange(0, d, 2).float() * (-math.log(10000.0) / d))
    table = torch.zeros(n, d)
    table[:, 0::2] = torch.sin(pos * div)
    table[:, 1::2] = torch.cos(pos * div)
    return table


_SHIFT_MASKS = {}


def shift_mask(h, w, win, shift):
    """Attention mask of the shifted windows; memoised by image size."""
    key = (int(h), int(w), win, shift)
    if key not in _SHIFT_MASKS:
        img = torch.zeros(1, h, w, 1)
        cnt = 0
        spans = (slice(0, -win), slice(-win, -shift), slice(-shift, None))
        for hs in spans:
            for ws in spans:
                img[:, hs, ws, :] = cnt
                cnt += 1
        ids = window_split(img, win).squeeze(-1)
        diff = ids.unsqueeze(1) - ids.unsqueeze(2)
        _SHIFT_MASKS[key] = diff.masked_fill(diff != 0, -100.0)
    return _SHIFT_MASKS[key]


def window_split(x, win):
    b, h, w, c = x.shape
    x = x.view(b, h // win, win, w // win, win, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, win * win, c)


def window_join(x, win, h, w):
    b = x.shape[0] // ((h // win) * (w // win))
    x = x.view(b, h // win, w // win, win, win, -1)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)


class Mlp(nn.Module):
    def __init__(self, *sizes, act=nn.ReLU):
        super().__init__()
        layers = []
        for i, (a, b) in enumerate(zip(sizes[:-1], sizes[1:])):
            layers.append(nn.Linear(a, b))
            if i < len(sizes) - 2:
                layers.append(act())
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)
