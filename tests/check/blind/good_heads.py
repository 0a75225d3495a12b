"""Good models, third part: time series, OCR, pose, speech, tracking and retrieval blocks."""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import math
import random
import time
import types
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NewType, Protocol, TypeVar, overload

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from tests.check.blind._helpers_good import LayerNorm2d, logged, rotate_half

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = logging.getLogger("blind.good")
T = TypeVar("T", bound=nn.Module)
Frames = NewType("Frames", torch.Tensor)


class Fusible(Protocol):
    def fuse(self) -> nn.Module: ...


class SeriesDecomposition(nn.Module):
    """Moving average with borders repeated by expand; trend and season go through separate linears."""

    def __init__(self, length: int = 24, horizon: int = 6, kernel: int = 5):
        super().__init__()
        self.half = (kernel - 1) // 2
        self.pool = nn.AvgPool1d(kernel, stride=1)
        self.linear = nn.ModuleDict({k: nn.Linear(length, horizon) for k in ("trend", "season")})

    def forward(self, series: Tensor) -> Tensor:
        front = series[:, :1].repeat(1, self.half, 1)
        back = series[:, -1:].expand(-1, self.half, -1)
        trend = self.pool(torch.cat([front, series, back], dim=1).transpose(1, 2))
        parts = {"trend": trend, "season": series.transpose(1, 2) - trend}
        return sum(self.linear[k](v) for k, v in parts.items()).transpose(1, 2)


class InstanceNormForecaster(nn.Module):
    """Reversible normalisation: a state of the call is passed by return value, not kept on self."""

    def __init__(self, channels: int = 4, hidden: int = 10):
        super().__init__()
        self.affine = nn.Parameter(torch.stack((torch.ones(channels), torch.zeros(channels))))
        self.body = nn.LSTM(channels, hidden, num_layers=2, batch_first=True, dropout=0.5)
        self.out = nn.Linear(hidden, channels)

    def norm(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean(1, keepdim=True).detach()
        std = torch.sqrt(x.var(dim=1, keepdim=True, unbiased=False) + 1e-5).detach()
        return (x - mean) / std * self.affine[0] + self.affine[1], mean, std

    def forward(self, x: Tensor) -> Tensor:
        y, mean, std = self.norm(x)
        y, (_h, _c) = self.body(y)
        y = (self.out(y) - self.affine[1]) / (self.affine[0] + 1e-8)
        return y.mul_(std).add_(mean)


class SoftArgmaxPose(nn.Module):
    """Joint positions as expectations over heat maps of whatever size; the grids are made on the fly."""

    def __init__(self, joints: int = 5, beta: float = 10.0):
        super().__init__()
        self.heat = nn.Conv2d(3, joints, 3, padding=1)
        self.beta = beta

    @staticmethod
    def expectation(prob: Tensor, dim: int) -> Tensor:
        other = {2: 3, 3: 2}[dim]
        marginal = prob.sum(dim=other)
        grid = torch.arange(marginal.size(-1), device=prob.device).to(prob)
        return (marginal * grid).sum(-1) / marginal.size(-1)

    def forward(self, image: Tensor) -> Tensor:
        heat = self.heat(image)
        prob = F.softmax(self.beta * heat.flatten(2), dim=-1).view_as(heat)
        return torch.stack([self.expectation(prob, dim) for dim in (3, 2)], dim=-1)


class CRNNRecogniser(nn.Module):
    """Height averaged away; decode() with Python loops and .tolist() is for after the engine."""

    charset = "-abcdefgh"

    def __init__(self, hidden: int = 8):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.rnn = nn.LSTM(8, hidden, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(2 * hidden, len(self.charset))

    def decode(self, logits: Tensor) -> list[str]:
        best = logits.argmax(-1).cpu().numpy().tolist()
        return ["".join(self.charset[c] for c, _ in itertools.groupby(row) if c != 0) for row in best]

    def forward(self, image: Tensor) -> Tensor:
        features = self.cnn(image).mean(dim=2).transpose(1, 2)
        return self.fc(self.rnn(features)[0]).log_softmax(dim=-1)


class RepConv(nn.Module):
    """A branch on whether the weights have been fused: config, not data."""

    def __init__(self, channels: int = 6, deploy: bool = False):
        super().__init__()
        self.three = nn.Conv2d(channels, channels, 3, padding=1, bias=deploy)
        self.one = None if deploy else nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.Identity() if deploy else nn.BatchNorm2d(channels)

    @torch.no_grad()
    def fuse(self) -> RepConv:
        twin = RepConv(self.three.in_channels, deploy=True).eval()
        scale = self.bn.weight / np.sqrt(1.0) / torch.sqrt(self.bn.running_var + self.bn.eps)
        kernel = self.three.weight + F.pad(self.one.weight, (1, 1, 1, 1))
        twin.three.weight.copy_(kernel * scale.view(-1, 1, 1, 1))
        twin.three.bias.copy_(self.bn.bias - self.bn.running_mean * scale)
        return twin

    def forward(self, x: Tensor) -> Tensor:
        y = self.three(x)
        if self.one is not None:
            y += self.one(x)
        return F.relu_(self.bn(y))


class CosineRetriever(nn.Module):
    """Random prototypes and random signs are drawn in __init__; forward draws nothing."""

    def __init__(self, dim: int = 12, bank: int = 20, k: int = 3):
        super().__init__()
        rng = np.random.default_rng(7)
        random.seed(7)
        self.register_buffer("bank", F.normalize(torch.from_numpy(rng.standard_normal((bank, dim))).float(), dim=-1))
        self.register_buffer("sign", torch.tensor([random.choice((-1.0, 1.0)) for _ in range(dim)]))
        self.k = min(k, bank)

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        similarity = F.normalize(query * self.sign, dim=-1) @ self.bank.T
        order = similarity.sort(dim=-1, descending=True)
        return order.values[:, : self.k], self.bank[order.indices[:, : self.k]].mean(dim=1)


@dataclass
class ConformerConfig:
    dim: int = 12
    kernel: int = 5
    ff_mult: int = 2
    residual: float = 0.5
    norms: dict[str, float] = field(default_factory=lambda: {"ff": 1e-5, "conv": 1e-6})


class ConformerConv(nn.Module):
    """GLU, depthwise convolution and half-step feed-forward, all sized from a dataclass through asdict."""

    def __init__(self, config: ConformerConfig | dict[str, Any] | None = None):
        super().__init__()
        cfg = types.SimpleNamespace(**(asdict(config) if isinstance(config, ConformerConfig) else config or {}))
        self.cfg = cfg
        self.norms = nn.ModuleDict({k: nn.LayerNorm(cfg.dim, eps=eps) for k, eps in cfg.norms.items()})
        wide = cfg.ff_mult * cfg.dim
        self.ff = nn.Sequential(nn.Linear(cfg.dim, wide), nn.SiLU(), nn.Linear(wide, cfg.dim))
        self.pointwise = nn.Conv1d(cfg.dim, 2 * cfg.dim, 1)
        self.depthwise = nn.Conv1d(cfg.dim, cfg.dim, cfg.kernel, padding=cfg.kernel // 2, groups=cfg.dim)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        x = x + getattr(self.cfg, "residual", 1.0) * self.ff(self.norms["ff"](x))
        y = F.glu(self.pointwise(self.norms["conv"](x).transpose(1, 2)), dim=1)
        if keep is not None:
            y = torch.where(keep.unsqueeze(1), y, torch.zeros_like(y))
        return x + F.silu(self.depthwise(y)).transpose(1, 2)


class Symmetric(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 0.5 * (w + w.transpose(0, 1))


class BilinearScorer(nn.Module):
    """A custom parametrization keeps the form symmetric; overloads and a generic holder decorate it."""

    def __init__(self, dim: int = 9):
        super().__init__()
        self.form = nn.Linear(dim, dim, bias=False)
        register_parametrization(self.form, "weight", Symmetric())

    @overload
    def forward(self, left: Tensor, right: Tensor) -> Tensor: ...

    @overload
    def forward(self, left: Frames, right: Frames) -> Tensor: ...

    def forward(self, left, right):
        return torch.einsum("bid,bjd->bij", self.form(left), right) * self.form.in_features**-0.5


class Holder(nn.Module, Generic[T]):
    def __init__(self, inner: T):
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class WrappedBackbone(Holder[nn.Sequential]):
    """Attributes delegated to the wrapped module; a timer and a counter that no output reads."""

    def __init__(self, width: int = 6):
        super().__init__(nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), LayerNorm2d(width), nn.GELU()))
        self.calls: collections.Counter[str] = collections.Counter()
        self.register_forward_hook(lambda module, args, out: LOG.debug("%s took %d", type(module).__name__, len(args)))

    @contextlib.contextmanager
    def timed(self, label: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.calls[label] += 1
        LOG.debug("%s %.3f ms", label, 1e3 * (time.perf_counter() - start))

    def forward(self, image: Tensor) -> Tensor:
        with self.timed("backbone"):
            y = self.inner(image)
        return y.mean((2, 3))


class LinearAttention(nn.Module):
    """Cumulative sums for causal linear attention, no loop over time."""

    def __init__(self, dim: int = 8):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    @property
    def feature_map(self):
        return lambda t: F.elu(t) + 1.0

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = map(self.feature_map, (q, k))
        state = (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(dim=1)
        numerator = (q.unsqueeze(-2) @ state)[..., 0, :]
        return numerator / (q * k.cumsum(dim=1)).sum(-1, keepdim=True).clamp(min=1e-4)


class CrossAttentionReader(nn.Module):
    """Learned latents read a masked sequence; the mask may be of several dtypes, which trace settles."""

    def __init__(self, dim: int = 16, latents: int = 3, heads: int = 2):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, dim) / math.sqrt(dim))
        self.to_q, self.to_kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.heads = heads

    def split(self, t: Tensor) -> Tensor:
        return t.reshape(t.shape[0], t.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, context: Tensor, mask: Tensor) -> Tensor:
        if mask.dtype == torch.bool:
            bias = torch.zeros(mask.shape, dtype=context.dtype, device=mask.device).masked_fill(~mask, -1e4)
        elif mask.is_floating_point():
            bias = mask
        else:
            bias = (1.0 - mask.to(context.dtype)) * -1e4
        q = self.split(self.to_q(self.latents).expand(context.shape[0], -1, -1))
        k, v = (self.split(t) for t in self.to_kv(context).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None, :], dropout_p=0.0)
        return out.transpose(1, 2).flatten(2)


class AnchorDecoder(nn.Module):
    """Anchors of three strides come from NumPy and itertools at construction, for a constant image size."""

    strides = (8, 16)

    def __init__(self, image: int = 64, dim: int = 6):
        super().__init__()
        rows = []
        for s in self.strides:
            cells = np.arange(image // s)
            rows += [((x + 0.5) * s, (y + 0.5) * s, float(s)) for y, x in itertools.product(cells, cells)]
        self.register_buffer("anchors", torch.from_numpy(np.asarray(rows)).float(), persistent=False)
        self.stems = nn.ModuleList([nn.Conv2d(3, dim, s, stride=s) for s in self.strides])
        self.heads = nn.ModuleList([nn.Conv2d(dim, 4, 1) for _ in self.strides])

    def forward(self, image: Tensor) -> Tensor:
        raw = [head(F.silu(stem(image))).flatten(2).transpose(1, 2) for stem, head in zip(self.stems, self.heads)]
        raw = torch.cat(raw, dim=1)
        xy, stride = self.anchors[:, :2], self.anchors[:, 2:]
        distance = F.softplus(raw) * stride
        return torch.cat((xy - distance[..., :2], xy + distance[..., 2:]), dim=-1)


class KeypointRefiner(nn.Module):
    """Constant number of refinement rounds; each samples features at the current points with grid_sample."""

    def __init__(self, dim: int = 6, points: int = 4, rounds: int = 3):
        super().__init__()
        self.stem = nn.Conv2d(1, dim, 3, padding=1)
        self.start = nn.Parameter(torch.rand(points, 2) - 0.5)
        self.delta = nn.ModuleList(nn.Linear(dim + 2, 2) for _ in range(rounds))

    def rounds(self) -> Iterator[nn.Module]:
        yield from self.delta

    def forward(self, image: Tensor) -> Tensor:
        maps = self.stem(image)
        points = self.start.unsqueeze(0).repeat(image.size(0), 1, 1)
        for step in self.rounds():
            sampled = F.grid_sample(maps, points.unsqueeze(2), align_corners=False).squeeze(-1).transpose(1, 2)
            points = points + 0.1 * torch.tanh(step(torch.cat((sampled, points), dim=-1)))
        return points


class TokenShiftRotary(nn.Module):
    """cos/sin tables cached in __init__ for the configured length, sliced with position ids by gather."""

    def __init__(self, dim: int = 8, max_len: int = 32):
        super().__init__()
        inv = 10000.0 ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        table = torch.outer(torch.arange(max_len, dtype=torch.float64), inv).repeat(1, 2)
        self._cache: dict[str, int] = {"length": max_len}
        for name in ("cos", "sin"):
            self.register_buffer(name, getattr(torch, name)(table).float(), persistent=False)
        self.mix = nn.Parameter(torch.rand(dim))

    @logged
    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        previous = F.pad(x, (0, 0, 1, 0))[:, :-1]
        x = torch.lerp(previous, x, self.mix)
        flat = positions.clamp(0, self._cache["length"] - 1)
        return x * self.cos[flat] + rotate_half(x) * self.sin[flat]


class GRUCellUnroll(nn.Module):
    """A GRUCell unrolled over a window whose length is a constant of the architecture, with a skip connection."""

    window = 5

    def __init__(self, features: int = 4, hidden: int = 8):
        super().__init__()
        self.lift = nn.Linear(features, hidden)
        self.cell = nn.GRUCell(hidden, hidden)
        self.skip = nn.Linear(self.window * features, hidden)

    def forward(self, frames: Tensor) -> Tensor:
        assert frames.dim() == 3, "frames come as (batch, time, features)"
        recent = frames[:, -self.window :]
        state = frames.new_zeros(frames.shape[0], self.cell.hidden_size)
        for step in range(self.window):
            state = self.cell(self.lift(recent[:, step]), state)
        return state + self.skip(recent.flatten(1))


class LastValidState(nn.Module):
    """Lengths are used by gather and comparison rather than by packing or slicing; branches on ndim and dtype."""

    def __init__(self, vocab: int = 25, dim: int = 10):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        self.rnn = nn.RNN(dim, dim, batch_first=True, nonlinearity="tanh")

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        if tokens.ndim == 1:
            tokens = tokens.unsqueeze(0)
        if lengths.dtype != torch.int64:
            lengths = lengths.long()
        outputs, _ = self.rnn(self.embed(tokens))
        last = (lengths - 1).view(-1, 1, 1).expand(-1, 1, outputs.shape[-1])
        inside = torch.arange(tokens.shape[1], device=tokens.device)[None, :] < lengths[:, None]
        mean = (outputs * inside.unsqueeze(-1)).sum(1) / lengths.unsqueeze(-1).type_as(outputs)
        return outputs.gather(1, last)[:, 0] + mean


class HybridMatcher(nn.Module):
    """Two towers, a margin through torch.where, a hard mask by comparison: no Python branch on data."""

    def __init__(self, dim: int = 7, **options: float):
        super().__init__()
        self.options = {"margin": 0.2, "floor": -0.5, **options}
        towers = {side: nn.Sequential(nn.Linear(dim, 10), nn.Tanh(), nn.Linear(10, dim)) for side in ("a", "b")}
        self.towers = nn.ModuleDict(towers)

    def __call__(self, *args, **kwargs):
        LOG.debug("match %d", len(args))
        return super().__call__(*args, **kwargs)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        left, right = (F.normalize(self.towers[side](t), p=2.0, dim=-1) for side, t in zip("ab", (a, b), strict=True))
        score = left @ right.transpose(0, 1)
        score = torch.where(score > self.options["margin"], score, score.new_full((), self.options["floor"]))
        best = score.amax(dim=1, keepdim=True)
        return torch.where(score >= best, score, 0.5 * score)


def cases():
    torch.manual_seed(0)
    r = torch.randn
    ids = torch.randint
    keep = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    built = {
        "SeriesDecomposition": (SeriesDecomposition(), {"series": r(2, 24, 3)}, [{"series": r(4, 24, 5)}]),
        "InstanceNormForecaster": (InstanceNormForecaster(), {"x": r(2, 10, 4)}, [{"x": r(3, 15, 4)}]),
        "SoftArgmaxPose": (SoftArgmaxPose(), {"image": r(2, 3, 8, 10)}, [{"image": r(3, 3, 12, 9)}]),
        "CRNNRecogniser": (CRNNRecogniser(), {"image": r(2, 1, 8, 20)}, [{"image": r(3, 1, 8, 32)}]),
        "RepConv": (RepConv(), {"x": r(2, 6, 8, 8)}, [{"x": r(3, 6, 7, 10)}]),
        "CosineRetriever": (CosineRetriever(), {"query": r(3, 12)}, [{"query": r(5, 12)}]),
        "ConformerConv": (
            ConformerConv(ConformerConfig()),
            {"x": r(2, 7, 12), "keep": keep},
            [{"x": r(3, 11, 12), "keep": r(3, 11) > -1}],
        ),
        "BilinearScorer": (
            BilinearScorer(),
            {"left": r(2, 4, 9), "right": r(2, 6, 9)},
            [{"left": r(3, 5, 9), "right": r(3, 7, 9)}],
        ),
        "WrappedBackbone": (WrappedBackbone(), {"image": r(2, 3, 12, 12)}, [{"image": r(3, 3, 16, 10)}]),
        "LinearAttention": (LinearAttention(), {"x": r(2, 6, 8)}, [{"x": r(3, 11, 8)}]),
        "CrossAttentionReader": (
            CrossAttentionReader(),
            {"context": r(2, 7, 16), "mask": keep},
            [{"context": r(3, 12, 16), "mask": r(3, 12) > -1}],
        ),
        "AnchorDecoder": (AnchorDecoder(), {"image": r(2, 3, 64, 64)}, [{"image": r(3, 3, 64, 64)}]),
        "KeypointRefiner": (KeypointRefiner(), {"image": r(2, 1, 10, 12)}, [{"image": r(3, 1, 14, 9)}]),
        "TokenShiftRotary": (
            TokenShiftRotary(),
            {"x": r(2, 6, 8), "positions": ids(0, 32, (2, 6))},
            [{"x": r(3, 9, 8), "positions": ids(0, 40, (3, 9))}],
        ),
        "GRUCellUnroll": (GRUCellUnroll(), {"frames": r(2, 8, 4)}, [{"frames": r(3, 12, 4)}]),
        "LastValidState": (
            LastValidState(),
            {"tokens": ids(1, 25, (3, 8)), "lengths": torch.tensor([8, 5, 2])},
            [{"tokens": ids(1, 25, (4, 11)), "lengths": torch.tensor([3, 11, 7, 9])}],
        ),
        "HybridMatcher": (HybridMatcher(floor=-1.0), {"a": r(3, 7), "b": r(4, 7)}, [{"a": r(5, 7), "b": r(6, 7)}]),
    }
    for _, example, probes in built.values():
        probes.append({k: v.flip(0) for k, v in example.items()})
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
