"""Loops, branches, tables and grids decided by sizes."""

import math

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from tests.torchscript.blind.control._helpers import (
    ConvBlock,
    FeedForward,
    SelfAttention,
    build,
    ceil_to,
    pad_tail,
    rand,
    randint,
    randn,
    window_partition,
    window_reverse,
)


class RecursiveHalver(nn.Module):
    """Balanced-tree composition of a sequence by recursive halving."""

    def __init__(self, dim=12):
        super().__init__()
        self.leaf = nn.Linear(5, dim)
        self.left = nn.Linear(dim, dim, bias=False)
        self.right = nn.Linear(dim, dim)

    def compose(self, x):
        n = x.shape[1]
        if n == 1:
            return x[:, 0]
        middle = (n + 1) // 2
        a, b = self.compose(x[:, :middle]), self.compose(x[:, middle:])
        return torch.tanh(self.left(a) + self.right(b)) + 0.5 * (a + b)

    def forward(self, x):
        return self.compose(self.leaf(x))


class ShiftedWindowBlock(nn.Module):
    """Swin block: pad to windows, roll, mask by region, attend, roll back, crop."""

    def __init__(self, dim=8, window=4):
        super().__init__()
        self.window, self.shift = window, window // 2
        self.embed = nn.Conv2d(3, dim, 1)
        self.norm = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim)
        self.ff = FeedForward(dim, 16)
        self._masks = {}

    def region_mask(self, h, w):
        key = f"{h}x{w}"
        if key not in self._masks:
            regions = torch.zeros(1, h, w, 1)
            cuts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
            count = 0
            for rows in cuts:
                for cols in cuts:
                    regions[:, rows, cols] = count
                    count += 1
            ids = window_partition(regions, self.window).squeeze(-1)
            differ = ids[:, None, :] != ids[:, :, None]
            self._masks[key] = differ.float().masked_fill(differ, -100.0)
        return self._masks[key]

    def forward(self, image):
        x = self.embed(image).permute(0, 2, 3, 1)
        b, h, w, _ = x.shape
        y = pad_tail(pad_tail(self.norm(x), self.window, 1), self.window, 2)
        hp, wp = y.shape[1:3]
        shifting = min(hp, wp) > self.window
        bias = None
        if shifting:
            y = torch.roll(y, (-self.shift, -self.shift), dims=(1, 2))
            bias = self.region_mask(hp, wp).repeat(b, 1, 1).unsqueeze(1)
        y = self.attn(window_partition(y, self.window), bias)
        y = window_reverse(y, self.window, hp, wp)
        if shifting:
            y = torch.roll(y, (self.shift, self.shift), dims=(1, 2))
        x = x + y[:, :h, :w]
        return (x + self.ff(x)).permute(0, 3, 1, 2)


class TopRatioPool(nn.Module):
    """Molecular graph network which keeps a ratio of the nodes after each layer."""

    def __init__(self, dim=6, hidden=12, ratio=0.6):
        super().__init__()
        self.ratio = ratio
        self.convs = nn.ModuleList([nn.Linear(dim, hidden), nn.Linear(hidden, hidden)])
        self.rank = nn.Parameter(torch.randn(2, hidden))
        self.out = nn.Linear(2 * hidden, 2)

    def forward(self, nodes, adjacency):
        summary = 0
        for conv, rank in zip(self.convs, self.rank):
            degree = adjacency.sum(-1, keepdim=True) + 1
            nodes = F.elu(conv((adjacency @ nodes + nodes) / degree))
            score = nodes @ rank / rank.norm()
            keep = max(1, int(nodes.shape[0] * self.ratio))
            score, index = torch.topk(score, keep)
            nodes = nodes[index] * torch.tanh(score).unsqueeze(1)
            adjacency = adjacency[index][:, index]
            summary = summary + torch.cat([nodes.mean(0), nodes.amax(0)])
        return self.out(summary)


class LongShortAttention(nn.Module):
    """Full attention for short inputs; chunks that see the previous chunk for long ones."""

    def __init__(self, dim=12, limit=14, chunk=6):
        super().__init__()
        self.limit, self.chunk = limit, chunk
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))

    @staticmethod
    def attend(q, k, v):
        return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if x.size(1) <= self.limit:
            return x + self.attend(q, k, v)
        out, before = [], None
        for qc, kc, vc in zip(*(t.split(self.chunk, dim=1) for t in (q, k, v))):
            kk, vv = (kc, vc) if before is None else (torch.cat([before[0], kc], 1), torch.cat([before[1], vc], 1))
            out.append(self.attend(qc, kk, vv))
            before = kc, vc
        return x + torch.cat(out, dim=1)


class LazyCausalLM(nn.Module):
    """Language model with tied weights; mask and position table are kept, and remade on demand."""

    def __init__(self, vocab=24, dim=16, expected=8):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.attn = SelfAttention(dim, 4)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocab, bias=False)
        self.head.weight = self.embed.weight
        self._mask = self.make_mask(expected)
        self._table = self.make_table(expected, dim)

    @staticmethod
    def make_mask(n):
        return torch.full((n, n), float("-inf")).triu(1)

    @staticmethod
    def make_table(n, dim):
        position = torch.arange(n).unsqueeze(1)
        rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(1000.0) / dim))
        table = torch.zeros(n, dim)
        table[:, 0::2] = torch.sin(position * rate)
        table[:, 1::2] = torch.cos(position * rate)
        return table

    def mask(self, n):
        if self._mask.shape[-1] != n:
            self._mask = self.make_mask(n)
        return self._mask

    def positions(self, n, dim):
        if self._table.shape[0] < n:
            self._table = self.make_table(n, dim)
        return self._table[:n]

    def forward(self, ids):
        x = self.embed(ids)
        x = x + self.positions(x.shape[1], x.shape[2])
        x = x + self.attn(self.norm(x), self.mask(ids.shape[1]))
        return self.head(x)


class PyramidFusion(nn.Module):
    """Multi-scale segmentation: shared trunk at computed sizes, attention over scales."""

    scales = (1.0, 0.75, 0.5)

    def __init__(self, width=6, classes=3):
        super().__init__()
        self.trunk = nn.Sequential(ConvBlock(3, width, 2), ConvBlock(width, width))
        self.classify = nn.Conv2d(width, classes, 1)
        self.attend = nn.Conv2d(width, 1, 1)

    def forward(self, image):
        h, w = int(image.shape[2]), int(image.shape[3])
        logits, weights = [], []
        for scale in self.scales:
            size = [max(8, int(round(side * scale / 2)) * 2) for side in (h, w)]
            view = image if size == [h, w] else F.interpolate(image, size=size, mode="bilinear", align_corners=False)
            f = self.trunk(view)
            up = lambda t: F.interpolate(t, size=(h, w), mode="bilinear", align_corners=True)
            logits.append(up(self.classify(f)))
            weights.append(up(self.attend(f)))
        alpha = torch.stack(weights).softmax(0)
        return (alpha * torch.stack(logits)).sum(0)


class FrameSpectra(nn.Module):
    """Frame by frame power spectrum, a learned filter bank and its time difference."""

    def __init__(self, frame=24, hop=10, bands=6):
        super().__init__()
        self.frame, self.hop = frame, hop
        t = torch.arange(frame).float()
        k = torch.arange(frame // 2 + 1).float()
        angle = 2 * math.pi * t[:, None] * k[None] / frame
        self.register_buffer("window", torch.hann_window(frame))
        self.register_buffer("cos", torch.cos(angle))
        self.register_buffer("sin", torch.sin(angle))
        self.bank = nn.Parameter(torch.rand(frame // 2 + 1, bands))

    def forward(self, wave):
        total = wave.shape[-1]
        count = 1 + math.ceil(max(0, total - self.frame) / self.hop)
        wave = F.pad(wave, (0, (count - 1) * self.hop + self.frame - total))
        frames = []
        for i in range(count):
            piece = wave[:, i * self.hop : i * self.hop + self.frame] * self.window
            power = (piece @ self.cos) ** 2 + (piece @ self.sin) ** 2
            frames.append(torch.log(power @ self.bank + 0.1))
        static = torch.stack(frames, dim=1)
        delta = torch.stack([frames[min(i + 1, count - 1)] - frames[max(i - 1, 0)] for i in range(count)], dim=1)
        return torch.cat([static, delta], dim=-1)


class HaarPyramid(nn.Module):
    """Wavelet shrinkage of a sensor trace: as many levels as the length allows."""

    def __init__(self, levels=8):
        super().__init__()
        self.threshold = nn.Parameter(torch.rand(levels) * 0.4)
        self.gain = nn.Parameter(1 + 0.2 * torch.randn(levels))

    def forward(self, trace):
        approx, details = trace, []
        while approx.shape[1] >= 4:
            if approx.shape[1] % 2:
                approx = torch.cat([approx, approx[:, -1:]], dim=1)
            even, odd = approx[:, ::2], approx[:, 1::2]
            level = len(details)
            d = F.softshrink((even - odd) / math.sqrt(2), 0.0)
            d = d.sign() * (d.abs() - self.threshold[level]).relu() * self.gain[level]
            details.append(d)
            approx = (even + odd) / math.sqrt(2)
        return torch.cat([approx] + details[::-1], dim=1)


class NumpyRotary(nn.Module):
    """Rotary attention, with the angle table made in NumPy."""

    def __init__(self, dim=12, base=100.0):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.rates = base ** (-np.arange(0, dim, 2) / dim)

    def angles(self, length):
        return torch.from_numpy(np.outer(np.arange(length), self.rates).astype(np.float32))

    @staticmethod
    def rotate(x, angle):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)

    def forward(self, query, memory):
        q = self.rotate(self.q(query), self.angles(len(query[0])))
        k = self.rotate(self.k(memory), self.angles(len(memory[0])))
        return F.scaled_dot_product_attention(q, k, self.v(memory))


class BucketBias(nn.Module):
    """T5-style relative position buckets, filled by a nested comprehension."""

    def __init__(self, dim=12, heads=3, buckets=8):
        super().__init__()
        self.buckets = buckets
        self.attn = SelfAttention(dim, heads)
        self.bias = nn.Embedding(buckets, heads)

    def bucket(self, distance):
        half = self.buckets // 2
        sign = half if distance > 0 else 0
        distance = abs(distance)
        if distance < 2:
            return sign + distance
        return sign + min(half - 1, 2 + int(math.log2(distance / 2 + 0.01)))

    def forward(self, x):
        n = x.shape[1]
        table = torch.tensor([[self.bucket(j - i) for j in range(n)] for i in range(n)])
        return x + self.attn(x, self.bias(table).permute(2, 0, 1))


class SpatialPyramid(nn.Module):
    """SPP-net: kernel, stride and padding by size, for a fixed-length descriptor."""

    def __init__(self, levels=(1, 2, 3), width=5):
        super().__init__()
        self.levels = levels
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.out = nn.Linear(width * sum(l * l for l in levels), 4)

    def forward(self, image):
        f = F.relu(self.conv(image))
        h, w = f.shape[-2:]
        pooled = []
        for level in self.levels:
            kh, kw = math.ceil(h / level), math.ceil(w / level)
            ph, pw = kh * level - h, kw * level - w
            padded = F.pad(f, (pw // 2, pw - pw // 2, ph // 2, ph - ph // 2))
            pooled.append(F.max_pool2d(padded, (kh, kw), stride=(kh, kw)).flatten(1))
        return self.out(torch.cat(pooled, 1))


class AffineWarper(nn.Module):
    """Spatial transformer: localisation by adaptive pooling, grid from linspace."""

    def __init__(self, width=6):
        super().__init__()
        self.locate = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d((3, 3)),
            nn.Flatten(),
            nn.Linear(width * 9, 6),
        )
        self.register_buffer("identity", torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))

    def grid(self, h, w):
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        return torch.stack([xs, ys, torch.ones(h, w)], dim=-1).reshape(-1, 3)

    def forward(self, glyph):
        b, _, h, w = glyph.shape
        theta = self.identity + 0.3 * self.locate(glyph).view(-1, 2, 3)
        points = self.grid(h, w) @ theta.transpose(1, 2)
        return F.grid_sample(glyph, points.view(b, h, w, 2), align_corners=False), theta


def _graph(seed, n):
    a = (rand(seed, n, n) < 0.4).float().triu(1)
    return {"nodes": randn(seed + 1, n, 6), "adjacency": a + a.t()}


def cases():
    out = {}
    x = lambda s, b, n, d=5: {"x": randn(s, b, n, d)}
    out["RecursiveHalver"] = (
        build(RecursiveHalver, 21),
        x(1, 2, 7),
        [x(2, 3, 4), x(3, 1, 11)],
        [x(4, 2, 9), x(5, 1, 5), x(6, 3, 10), x(7, 2, 6), x(8, 4, 8)],
    )

    i = lambda s, b, h, w, c=3: {"image": randn(s, b, c, h, w)}
    out["ShiftedWindowBlock"] = (
        build(ShiftedWindowBlock, 22),
        i(1, 1, 12, 8),
        [i(2, 2, 10, 13), i(3, 1, 4, 11), i(4, 3, 10, 16)],
        [i(5, 2, 11, 9), i(6, 1, 16, 12), i(7, 3, 4, 14), i(8, 2, 9, 8), i(9, 2, 12, 12)],
    )

    g = _graph
    out["TopRatioPool"] = (
        build(TopRatioPool, 23),
        g(1, 9),
        [g(12, 14), g(23, 6), g(34, 11)],
        [g(45, 7), g(56, 13), g(67, 10), g(78, 8), g(89, 12)],
    )

    out["LongShortAttention"] = (
        build(LongShortAttention, 24),
        x(1, 2, 10, 12),
        [x(2, 1, 24, 12), x(3, 3, 17, 12)],
        [x(4, 2, 13, 12), x(5, 2, 20, 12), x(6, 1, 16, 12), x(7, 3, 9, 12), x(8, 1, 22, 12)],
    )

    t = lambda s, b, n: {"ids": randint(s, 0, 24, b, n)}
    out["LazyCausalLM"] = (
        build(LazyCausalLM, 25),
        t(1, 2, 8),
        [t(2, 1, 13), t(3, 3, 5)],
        [t(4, 2, 10), t(5, 1, 6), t(6, 3, 12), t(7, 2, 14), t(8, 4, 7)],
    )

    out["PyramidFusion"] = (
        build(PyramidFusion, 26),
        i(1, 1, 32, 24),
        [i(2, 2, 20, 28), i(3, 1, 27, 36)],
        [i(4, 2, 24, 30), i(5, 1, 35, 22), i(6, 2, 29, 33), i(7, 3, 26, 26)],
    )

    w = lambda s, b, n: {"wave": randn(s, b, n)}
    out["FrameSpectra"] = (
        build(FrameSpectra, 27),
        w(1, 2, 84),
        [w(2, 1, 130), w(3, 3, 57)],
        [w(4, 2, 100), w(5, 1, 64), w(6, 3, 119), w(7, 2, 75), w(8, 1, 94)],
    )

    h = lambda s, b, n: {"trace": randn(s, b, n)}
    out["HaarPyramid"] = (
        build(HaarPyramid, 28),
        h(1, 2, 32),
        [h(2, 1, 45), h(3, 3, 18), h(4, 2, 70)],
        [h(5, 2, 27), h(6, 1, 64), h(7, 3, 39), h(8, 2, 22), h(9, 1, 53)],
    )

    r = lambda s, b, n, m: {"query": randn(s, b, n, 12), "memory": randn(s + 1, b, m, 12)}
    out["NumpyRotary"] = (
        build(NumpyRotary, 29),
        r(1, 2, 6, 9),
        [r(3, 1, 10, 5), r(5, 3, 4, 12)],
        [r(7, 2, 8, 11), r(9, 1, 5, 7), r(11, 3, 9, 6), r(13, 2, 7, 10)],
    )

    out["BucketBias"] = (
        build(BucketBias, 30),
        x(1, 2, 9, 12),
        [x(2, 1, 15, 12), x(3, 3, 6, 12)],
        [x(4, 2, 12, 12), x(5, 3, 8, 12), x(6, 1, 14, 12), x(7, 2, 7, 12)],
    )

    out["SpatialPyramid"] = (
        build(SpatialPyramid, 31),
        i(1, 2, 12, 12, 1),
        [i(2, 1, 17, 13, 1), i(3, 3, 14, 22, 1)],
        [i(4, 2, 19, 16, 1), i(5, 1, 13, 20, 1), i(6, 3, 16, 14, 1), i(7, 2, 21, 18, 1), i(8, 4, 15, 15, 1)],
    )

    y = lambda s, b, h, w: {"glyph": randn(s, b, 1, h, w)}
    out["AffineWarper"] = (
        build(AffineWarper, 32),
        y(1, 2, 12, 15),
        [y(2, 1, 17, 11), y(3, 3, 10, 20)],
        [y(4, 2, 14, 13), y(5, 1, 11, 19), y(6, 3, 16, 16), y(7, 2, 13, 18)],
    )
    return out
