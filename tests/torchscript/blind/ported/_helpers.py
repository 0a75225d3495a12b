"""Shared plumbing of the test corpus: seeded builders, outputs, config, tiny einops."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import torch
from torch import nn


def build(cls, *args, seed: int = 0, **kw):
    torch.manual_seed(seed)
    return cls(*args, **kw).eval()


def _g(seed):
    return torch.Generator().manual_seed(seed)


def rn(seed, *shape, scale=1.0):
    return torch.randn(*shape, generator=_g(seed)) * scale


def ru(seed, *shape, lo=0.0, hi=1.0):
    return torch.rand(*shape, generator=_g(seed)) * (hi - lo) + lo


def ri(seed, lo, hi, *shape):
    return torch.randint(lo, hi, shape, generator=_g(seed))


class ModelOutput(OrderedDict):
    """HF-like: a dataclass that is also an ordered dict without its None fields."""

    def __post_init__(self):
        for f in dataclasses.fields(self):
            v = getattr(self, f.name)
            if v is not None:
                self[f.name] = v

    def __getitem__(self, k):
        if isinstance(k, str):
            return super().__getitem__(k)
        return self.to_tuple()[k]

    def to_tuple(self):
        return tuple(self[k] for k in self.keys())


@dataclasses.dataclass
class EncoderOutput(ModelOutput):
    last_hidden_state: torch.Tensor = None
    pooler_output: torch.Tensor = None
    hidden_states: tuple = None
    attentions: tuple = None


@dataclasses.dataclass
class EncoderConfig:
    vocab_size: int = 40
    hidden_size: int = 16
    num_heads: int = 2
    num_layers: int = 2
    intermediate_size: int = 32
    num_buckets: int = 16
    max_distance: int = 20
    lora_r: int = 2
    lora_alpha: float = 4.0
    output_attentions: bool = False
    output_hidden_states: bool = False
    use_return_dict: bool = True
    gradient_checkpointing: bool = False


def _parse(side):
    groups, cur, depth = [], [], False
    for tok in side.replace("(", " ( ").replace(")", " ) ").split():
        if tok == "(":
            depth, cur = True, []
        elif tok == ")":
            groups.append(cur)
            depth = False
        elif depth:
            cur.append(tok)
        else:
            groups.append([tok])
    return groups


def rearrange(x, pattern, **known):
    """einops.rearrange for the easy patterns, by hand from sizes."""
    left, right = (_parse(s) for s in pattern.split("->"))
    sizes = dict(known)
    for dim, group in enumerate(left):
        total, unknown = x.shape[dim], None
        for name in group:
            if name in sizes:
                total = total // sizes[name]
            else:
                unknown = name
        if unknown is not None:
            sizes[unknown] = total
    names = [n for g in left for n in g]
    x = x.reshape([sizes[n] for n in names])
    x = x.permute([names.index(n) for g in right for n in g])
    out = []
    for g in right:
        s = 1
        for n in g:
            s = s * sizes[n]
        out.append(s)
    return x.reshape(out)


class ConvBNAct(nn.Module):
    def __init__(self, i, o, k=3, s=1, act=nn.SiLU):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, s, k // 2, bias=False)
        self.bn = nn.BatchNorm2d(o)
        self.act = act()
        with torch.no_grad():
            self.bn.running_mean.normal_(0, 0.1)
            self.bn.running_var.uniform_(0.3, 0.8)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class FeedForward(nn.Module):
    def __init__(self, d, h):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(d, h), nn.GELU(), nn.Linear(h, d))

    def forward(self, x):
        return self.net(x)
