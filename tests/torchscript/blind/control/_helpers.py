"""Shared odds and ends: seeded building, seeded inputs, shape utilities."""

import functools
import math
from contextlib import contextmanager

import torch
import torch.nn as nn
import torch.nn.functional as F

REGISTRY = {}


def build(cls, seed, *args, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(*args, **kwargs).eval()


def gen(seed):
    g = torch.Generator()
    g.manual_seed(seed)
    return g


def randn(seed, *shape, scale=1.0, shift=0.0):
    return torch.randn(*shape, generator=gen(seed)) * scale + shift


def rand(seed, *shape, lo=0.0, hi=1.0):
    return torch.rand(*shape, generator=gen(seed)) * (hi - lo) + lo


def randint(seed, lo, hi, *shape):
    return torch.randint(lo, hi, shape, generator=gen(seed))


def register(name):
    def wrap(cls):
        REGISTRY[name] = cls
        return cls

    return wrap


def ceil_to(n, multiple):
    return ((n + multiple - 1) // multiple) * multiple


def pad_tail(x, multiple, dim):
    """Zero-pads dimension `dim` up to the next multiple."""
    missing = (-x.shape[dim]) % multiple
    if missing == 0:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat([x, x.new_zeros(shape)], dim=dim)


def window_partition(x, size):
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def window_reverse(windows, size, h, w):
    b = int(windows.shape[0] / (h * w / size / size))
    x = windows.view(b, h // size, w // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)


def in_chunks(rows, argument=1):
    """Runs a method on slices of one positional argument, to bound memory."""

    def decorate(method):
        @functools.wraps(method)
        def wrapper(self, *args):
            whole = args[argument]
            if len(whole) <= rows:
                return method(self, *args)
            parts = []
            for start in range(0, len(whole), rows):
                piece = list(args)
                piece[argument] = whole[start : start + rows]
                parts.append(method(self, *piece))
            return torch.cat(parts, dim=-1)

        return wrapper

    return decorate


@contextmanager
def temporarily(module, **values):
    old = {k: getattr(module, k) for k in values}
    for k, v in values.items():
        setattr(module, k, v)
    try:
        yield module
    finally:
        for k, v in old.items():
            setattr(module, k, v)


class SelfAttention(nn.Module):
    def __init__(self, dim, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def split(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def merge(self, y):
        b, h, n, d = y.shape
        return self.out(y.transpose(1, 2).reshape(b, n, h * d))

    def forward(self, x, bias=None):
        q, k, v = self.split(x)
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if bias is not None:
            scores = scores + bias
        return self.merge(scores.softmax(-1) @ v)


class FeedForward(nn.Sequential):
    def __init__(self, dim, hidden, out=None, act=nn.GELU):
        super().__init__(nn.Linear(dim, hidden), act(), nn.Linear(hidden, out or dim))


class ConvBlock(nn.Module):
    def __init__(self, cin, cout, stride=1, kernel=3):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2)
        self.norm = nn.GroupNorm(2, cout)

    def forward(self, x):
        return F.silu(self.norm(self.conv(x)))
