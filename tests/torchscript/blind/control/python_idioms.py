"""Dispatch, decorators, hooks, exceptions, generators, contexts, patched methods."""

import enum
import math
import types
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F

from tests.torchscript.blind.control._helpers import (
    ConvBlock,
    FeedForward,
    SelfAttention,
    build,
    in_chunks,
    rand,
    randn,
    temporarily,
)


class Task(enum.Enum):
    GRASP = 0
    PUSH = 1
    PLACE = 2


class TaskDispatcher(nn.Module):
    """Robot policy: the head is looked up by the name of the task asked for."""

    def __init__(self, obs=9, dim=16, action=4):
        super().__init__()
        self.trunk = FeedForward(obs, dim, dim, nn.Tanh)
        self.head_grasp = nn.Linear(dim, action)
        self.head_push = nn.Sequential(nn.Linear(dim, 8), nn.ReLU(), nn.Linear(8, action))
        self.head_place = FeedForward(dim, 12, action, nn.SiLU)
        self._task = Task.GRASP

    @property
    def head(self):
        return getattr(self, f"head_{self._task.name.lower()}")

    def limit(self, action):
        rule = {Task.GRASP: torch.tanh, Task.PUSH: lambda a: a.clamp(-0.4, 0.4)}
        return rule.get(self._task, lambda a: a)(action)

    def forward(self, observation, task):
        with temporarily(self, _task=Task(int(task))):
            return self.limit(self.head(self.trunk(observation)))


@dataclass
class UNetConfig:
    widths: tuple = (4, 6, 8)
    activations: list = field(
        default_factory=lambda: [partial(F.leaky_relu, negative_slope=0.2), F.silu, partial(F.gelu, approximate="tanh")]
    )


class SkipStackUNet(nn.Module):
    """U-Net for any height and width; upsampled maps are padded to meet their skips."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        ws = config.widths
        self.down = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip((1,) + ws, ws))
        self.up = nn.ModuleDict(
            OrderedDict((f"up{n}", nn.ConvTranspose2d(ws[n + 1], ws[n], 2, stride=2)) for n in range(len(ws) - 1))
        )
        self.out = nn.Conv2d(ws[0], 2, 1)

    def forward(self, scan):
        x, skips = scan, []
        for conv, act in zip(self.down, self.config.activations):
            if skips:
                x = F.max_pool2d(x, 2)
            x = act(conv(x))
            skips.append(x)
        x = skips.pop()
        for level, skip in reversed(list(enumerate(skips))):
            x = self.up[f"up{level}"](x)
            dh, dw = (s - t for s, t in zip(skip.shape[2:], x.shape[2:]))
            if dh or dw:
                x = F.pad(x, (0, dw, 0, dh), mode="replicate")
            x = x + skip
        return self.out(x)


class ChunkedScorer(nn.Module):
    """Scores a catalogue for each user, a few items at a time."""

    def __init__(self, dim=8):
        super().__init__()
        self.user = nn.Linear(dim, dim)
        self.item = nn.Linear(dim, dim)
        self.joint = nn.Linear(2 * dim, 1)

    @in_chunks(rows=5)
    def score(self, users, items):
        u, i = torch.broadcast_tensors(users[:, None], items[None])
        joint = self.joint(torch.cat([u, i], -1)).squeeze(-1)
        # each chunk is standardised on its own
        return (users @ items.t() + joint) / (1.0 + joint.abs().amax(dim=1, keepdim=True))

    def forward(self, users, items):
        with torch.no_grad():
            items = F.normalize(self.item(items), dim=-1)
        return self.score(torch.tanh(self.user(users)), items)


class TryFoldMixer(nn.Module):
    """Folds time into groups of four; when it does not fit, pads and tries again."""

    def __init__(self, dim=6, group=4):
        super().__init__()
        self.group = group
        self.within = nn.Linear(group, group)
        self.across = FeedForward(dim, 10)

    def fold(self, x):
        try:
            return x.view(x.shape[0], -1, self.group, x.shape[2])
        except RuntimeError:
            fill = x.mean(dim=1, keepdim=True)
            return self.fold(torch.cat([x, fill], dim=1))

    def forward(self, series):
        n = series.shape[1]
        y = self.fold(series.contiguous())
        y = y + torch.tanh(self.within(y.transpose(2, 3))).transpose(2, 3)
        return (y + self.across(y)).flatten(1, 2)[:, :n]


class HookedFeatures(nn.Module):
    """Perceptual features: taps by forward hooks, pixel range mended by a pre-hook."""

    def __init__(self, wanted=("early", "late")):
        super().__init__()
        self.net = nn.Sequential(OrderedDict(early=ConvBlock(3, 6, 2), middle=ConvBlock(6, 6), late=ConvBlock(6, 8, 2)))
        self.taps = {}
        self.net.register_forward_pre_hook(self._to_unit)
        for name, child in self.net.named_children():
            if name in wanted:
                child.register_forward_hook(self._keep(name))
        self.head = nn.Linear(14, 5)

    @staticmethod
    def _to_unit(module, inputs):
        (image,) = inputs
        if image.max() > 2.0:
            image = image / 255.0
        return (image - 0.5) / 0.25

    def _keep(self, name):
        def hook(module, inputs, output):
            self.taps[name] = output.mean(dim=(2, 3))

        return hook

    def forward(self, image):
        self.taps.clear()
        self.net(image)
        return self.head(torch.cat([self.taps[k] for k in sorted(self.taps)], dim=1))


def make_local(module, stretch=1.0):
    """Replaces an attention layer's forward by a banded one."""
    original = module.forward

    def forward(self, x, bias=None):
        n = x.shape[1]
        reach = max(1, int(math.sqrt(n) * stretch))
        band = torch.full((n, n), -1e4)
        for i in range(n):
            band[i, max(0, i - reach) : i + reach + 1] = 0.0
        return original(x, band if bias is None else band + bias)

    module.forward = types.MethodType(forward, module)
    return module


class Encoder(nn.Module):
    def __init__(self, dim=12):
        super().__init__()
        self.layers = nn.ModuleList(SelfAttention(dim, 2) for _ in range(2))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(self.norm(x))
        return x


class PatchedLocalEncoder(Encoder):
    """An encoder made local after the fact; its parent still does the work."""

    def __init__(self, dim=12):
        super().__init__(dim)
        for depth, layer in enumerate(self.layers):
            make_local(layer, stretch=0.7 + 0.4 * depth)
        self.pool = nn.Linear(dim, 1)

    def forward(self, residues):
        h = super().forward(residues)
        return h, (self.pool(h).softmax(1) * h).sum(1)


class KwargRanker(nn.Module):
    """Ranks candidates; options go down as keywords, padding is cut before scoring."""

    def __init__(self, dim=8):
        super().__init__()
        self.mix = nn.Bilinear(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)

    def score(self, query, items, *, temperature=1.0, **options):
        s = self.mix(query[:, None].expand_as(items).contiguous(), items).squeeze(-1)
        s = s + (self.proj(query)[:, None] * items).sum(-1)
        if "mask" in options:
            s = s.masked_fill(~options["mask"], -30.0)
        return (s / temperature).softmax(-1)

    def forward(self, query, items, mask: Optional[torch.Tensor] = None, boost=None):
        options = {}
        if isinstance(mask, torch.Tensor):
            longest = int(mask.sum(1).max())
            items, options["mask"] = items[:, :longest], mask[:, :longest]
            if longest > 6:
                options["temperature"] = math.sqrt(longest)
        if boost is not None:
            items = items * boost
        p = self.score(query, items, **options)
        return {"p": p, "blend": (p.unsqueeze(1) @ items).squeeze(1)}


class Belief(NamedTuple):
    mean: torch.Tensor
    var: torch.Tensor


class UnrolledTracker(nn.Module):
    """Learned Kalman-like filter: a generator yields beliefs, unseen steps only predict."""

    def __init__(self, obs=3, dim=8):
        super().__init__()
        self.start = nn.Parameter(torch.randn(dim) * 0.1)
        self.move = nn.Linear(dim, dim)
        self.look = nn.Linear(obs, dim)
        self.noise = nn.Parameter(torch.rand(dim))
        self.log = defaultdict(list)

    def unroll(self, readings, seen):
        belief = Belief(self.start.expand(readings.size(1), -1), torch.ones(readings.size(1), self.start.numel()))
        for t, reading in enumerate(readings):
            belief = Belief(torch.tanh(self.move(belief.mean)), belief.var * 0.9 + self.noise)
            if seen[t]:
                gain = belief.var / (belief.var + 0.5)
                gap = self.look(reading) - belief.mean
                belief = belief._replace(mean=belief.mean + gain * gap, var=(1 - gain) * belief.var)
            yield belief

    def forward(self, readings, seen):
        log = defaultdict(list)
        for belief in self.unroll(readings, seen):
            for name, value in belief._asdict().items():
                log[name].append(value)
        return Belief(*(torch.stack(log[name]) for name in Belief._fields))


def cases():
    out = {}
    d = lambda s, b, k: {"observation": randn(s, b, 9), "task": torch.tensor(k)}
    out["TaskDispatcher"] = (
        build(TaskDispatcher, 41),
        d(1, 3, 0),
        [d(2, 1, 1), d(3, 4, 2)],
        [d(4, 2, 1), d(5, 4, 0), d(6, 1, 2), d(7, 3, 1), d(8, 2, 2)],
    )

    u = lambda s, b, h, w: {"scan": randn(s, b, 1, h, w)}
    out["SkipStackUNet"] = (
        build(SkipStackUNet, 42, UNetConfig()),
        u(1, 1, 16, 20),
        [u(2, 2, 13, 18), u(3, 1, 22, 15), u(4, 2, 12, 24)],
        [u(5, 2, 19, 17), u(6, 1, 14, 23), u(7, 1, 20, 16), u(8, 3, 21, 13), u(9, 2, 18, 18)],
    )

    c = lambda s, m, n: {"users": randn(s, m, 8), "items": randn(s + 1, n, 8)}
    out["ChunkedScorer"] = (
        build(ChunkedScorer, 43),
        c(1, 3, 12),
        [c(3, 2, 5), c(5, 5, 17)],
        [c(7, 4, 10), c(9, 2, 14), c(11, 3, 4), c(13, 5, 8), c(15, 4, 16)],
    )

    t = lambda s, b, n: {"series": randn(s, b, n, 6)}
    out["TryFoldMixer"] = (
        build(TryFoldMixer, 44),
        t(1, 2, 8),
        [t(2, 3, 11), t(3, 1, 14), t(4, 2, 17)],
        [t(5, 2, 10), t(6, 1, 16), t(7, 3, 13), t(8, 2, 15), t(9, 1, 9)],
    )

    h = lambda s, b, m, n, top: {"image": rand(s, b, 3, m, n, hi=top)}
    out["HookedFeatures"] = (
        build(HookedFeatures, 45),
        h(1, 2, 16, 20, 1.0),
        [h(2, 1, 24, 18, 255.0), h(3, 3, 20, 28, 1.0)],
        [h(4, 2, 22, 22, 255.0), h(5, 1, 18, 26, 1.0), h(6, 3, 17, 21, 240.0), h(7, 2, 23, 19, 0.9)],
    )

    r = lambda s, b, n: {"residues": randn(s, b, n, 12)}
    out["PatchedLocalEncoder"] = (
        build(PatchedLocalEncoder, 46),
        r(1, 2, 10),
        [r(2, 1, 18), r(3, 3, 6)],
        [r(4, 2, 14), r(5, 1, 8), r(6, 3, 17), r(7, 2, 12)],
    )

    def k(s, lengths, width):
        lens = torch.tensor(lengths)
        return {
            "query": randn(s, len(lengths), 8),
            "items": randn(s + 1, len(lengths), width, 8),
            "mask": torch.arange(width)[None] < lens[:, None],
        }

    out["KwargRanker"] = (
        build(KwargRanker, 47),
        k(1, [3, 5], 7),
        [k(3, [8, 2, 4], 9), k(5, [4], 5), k(7, [9, 7], 10)],
        [k(9, [2, 6, 5], 8), k(11, [9, 3], 9), k(13, [1, 4], 6), k(15, [7], 10), k(17, [3, 2, 5], 9)],
    )

    def v(s, n, b, pattern):
        seen = torch.tensor([ch == "1" for ch in pattern])
        return {"readings": randn(s, n, b, 3), "seen": seen}

    out["UnrolledTracker"] = (
        build(UnrolledTracker, 48),
        v(1, 5, 2, "11011"),
        [v(2, 8, 1, "10011101"), v(3, 3, 4, "011")],
        [v(4, 6, 3, "110010"), v(5, 4, 2, "0101"), v(6, 7, 1, "1110001"), v(7, 5, 4, "10111")],
    )
    return out
