"""Good models, second part: tabular, recommendation, graph, language and generative blocks."""

import enum
import functools
import math
import operator
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import ClassVar, Final, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from scipy import signal
from torch import Tensor, nn

from tests.check.blind._helpers_good import Act, EncoderConfig, act_layer, logged, sinusoid

EPS: Final = 1e-6
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "leaky": partial(F.leaky_relu, negative_slope=0.2),
    "relu2": lambda t: F.relu(t).square(),
}


class TabTransformer(nn.Module):
    """Offsets of the categorical columns are a NumPy cumulative sum turned into a buffer."""

    def __init__(self, cardinalities: Sequence[int] = (5, 9, 3), n_num: int = 4, dim: int = 8):
        super().__init__()
        offsets = np.concatenate(([0], np.cumsum(cardinalities)[:-1]))
        self.register_buffer("offsets", torch.as_tensor(offsets, dtype=torch.int64))
        self.embed = nn.Embedding(int(np.sum(cardinalities)), dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(len(cardinalities) * dim + n_num, 2)

    def forward(self, cat: Tensor, num: Tensor) -> Tensor:
        tokens = self.embed(cat + self.offsets)
        mixed = F.scaled_dot_product_attention(*self.qkv(tokens).chunk(3, dim=-1))
        tokens = self.norm(tokens + mixed)
        return self.head(torch.cat((tokens.flatten(1), num), dim=1))


class PointNetEncoder(nn.Module):
    """A learned alignment plus an identity made on the fly; a max over however many points there are."""

    def __init__(self, out: int = 10):
        super().__init__()
        widths = (3, 16, 24)
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.mlp = nn.Sequential(OrderedDict((f"fc{i}", nn.Conv1d(a, b, 1)) for i, (a, b) in enumerate(pairs)))
        self.tnet = nn.Linear(widths[-1], 9)
        self.head = nn.Linear(widths[-1], out)

    def forward(self, points: Tensor) -> Tensor:
        x = points.transpose(1, 2)
        align = self.tnet(self.mlp(x).amax(dim=-1)).view(-1, 3, 3)
        align = align + torch.eye(3, device=x.device, dtype=x.dtype)
        return self.head(F.relu(self.mlp(torch.bmm(align, x))).max(dim=2).values)


class MixerBlock(nn.Module):
    def __init__(self, tokens: int = 9, dim: int = 12, act: Callable[..., nn.Module] = partial(nn.GELU, "tanh")):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.token = nn.Sequential(nn.Linear(tokens, 2 * tokens), act(), nn.Linear(2 * tokens, tokens))
        self.channel = nn.Sequential(nn.Linear(dim, 2 * dim), act(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        steps = (lambda t: self.token(t.transpose(1, 2)).transpose(1, 2), self.channel)
        for norm, step in zip(self.norms, steps, strict=True):
            x = x + step(norm(x))
        return x


class SqueezeExcite(nn.Module):
    """The reduced width comes from round/max on config alone."""

    def __init__(self, channels: int = 20, rd_ratio: float = 0.25, divisor: int = 4, gate: str = "hard_sigmoid"):
        super().__init__()
        reduced = max(divisor, int(round(channels * rd_ratio / divisor)) * divisor)
        self.fc1 = nn.Conv2d(channels, reduced, 1)
        self.fc2 = nn.Conv2d(reduced, channels, 1)
        self.gate = {"hard_sigmoid": nn.Hardsigmoid, "sigmoid": nn.Sigmoid}[gate]()

    def forward(self, x: Tensor, verbose: bool = False) -> Tensor:
        s = x.mean(dim=(2, 3), keepdim=True)
        s = self.gate(self.fc2(F.hardswish(self.fc1(s))))
        if verbose:
            print("gate", s.min().item(), s.max().item())
        return x * s


class WeightedBiFPN(nn.Module):
    """Fast normalised fusion: relu of parameters, division by their sum plus a global epsilon."""

    def __init__(self, dim: int = 8):
        super().__init__()
        self.w_up = nn.Parameter(torch.ones(2))
        self.w_down = nn.Parameter(torch.ones(3))
        self.convs = nn.ModuleDict({"mid": self.separable(dim), "out": self.separable(dim)})

    @classmethod
    def separable(cls, dim: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.Conv2d(dim, dim, 1))

    @staticmethod
    def fuse(weights: Tensor, *maps: Tensor) -> Tensor:
        weights = F.relu(weights)
        weights = weights / (weights.sum() + EPS)
        return F.silu(sum(w * m for w, m in zip(weights.unbind(), maps, strict=True)))

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        up = F.interpolate(coarse, scale_factor=2, mode="nearest")
        mid = self.convs["mid"](self.fuse(self.w_up, middle, up))
        down = F.max_pool2d(fine, kernel_size=3, stride=2, padding=1)
        return self.convs["out"](self.fuse(self.w_down, middle, mid, down))


class DenseGraphConv(nn.Module):
    """Symmetric normalisation of a dense adjacency with self loops, by matrix products."""

    def __init__(self, dims: tuple[int, ...] = (6, 12, 3)):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(dims, dims[1:], strict=False)])

    @staticmethod
    def normalise(adj: Tensor) -> Tensor:
        n = adj.size(-1)
        index = torch.arange(n, device=adj.device)
        adj = adj + (index[:, None] == index[None, :]).to(adj.dtype)
        scale = adj.sum(-1).clamp_min(EPS).rsqrt()
        return scale.unsqueeze(-1) * adj * scale.unsqueeze(-2)

    def forward(self, nodes: Tensor, adj: Tensor) -> Tensor:
        adj = self.normalise(adj)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            nodes = adj @ layer(nodes)
            if i < last:
                nodes = F.elu(nodes)
        return nodes


class VectorQuantizer(nn.Module):
    """Nearest code by argmin and an embedding; the moving average and the noise serve training only."""

    def __init__(self, codes: int = 16, dim: int = 8, commitment: float = 0.25):
        super().__init__()
        self.codebook = nn.Embedding(codes, dim)
        self.register_buffer("usage", torch.zeros(codes))
        self.commitment = commitment

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            z = z + 0.01 * torch.randn_like(z)
        w = self.codebook.weight
        distance = z.square().sum(-1, keepdim=True) - 2 * z @ w.t() + w.square().sum(-1)
        index = distance.argmin(dim=-1)
        quantised = self.codebook(index)
        if self.training and self.usage.sum().item() >= 0:
            self.usage.mul_(0.99).add_(torch.bincount(index.flatten(), minlength=len(self.usage)), alpha=0.01)
        return z + (quantised - z).detach(), index


class DenseMoE(nn.Module):
    """Every expert runs; a top-2 gate is scattered into dense weights."""

    top_k: ClassVar[int] = 2

    def __init__(self, dim: int = 8, experts: int = 4):
        super().__init__()
        self.gate = nn.Linear(dim, experts, bias=False)
        mlps = (nn.Sequential(nn.Linear(dim, 16), nn.SiLU(), nn.Linear(16, dim)) for _ in range(experts))
        self.experts = nn.ModuleList(mlps)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.gate(x)
        value, index = torch.topk(logits, self.top_k, dim=-1)
        weight = torch.zeros_like(logits).scatter(-1, index, value.softmax(dim=-1))
        stacked = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return torch.einsum("bte,bted->btd", weight, stacked)


class NoiseKind(enum.IntEnum):
    LINEAR = 0
    COSINE = 1


class DiffusionStep(nn.Module):
    """The schedule is computed in double precision in __init__ and cast to float at once."""

    def __init__(self, steps: int = 50, kind: NoiseKind = NoiseKind.COSINE, dim: int = 8):
        super().__init__()
        match kind:
            case NoiseKind.LINEAR:
                betas = np.linspace(1e-4, 0.02, steps, dtype=np.float64)
            case NoiseKind.COSINE:
                t = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
                bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2).square()
                betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999).numpy()
        alphas_bar = np.cumprod(1.0 - betas)
        for name, array in {"sqrt_bar": np.sqrt(alphas_bar), "sqrt_rest": np.sqrt(1.0 - alphas_bar)}.items():
            self.register_buffer(name, torch.tensor(array).to(torch.float32))
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.net = nn.Conv1d(dim, dim, 3, padding=1)
        freq = torch.exp(-math.log(10000.0) * torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
        self.register_buffer("freq", freq.float())

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        phase = t.to(x.dtype).unsqueeze(-1) * self.freq
        shift = self.time(torch.cat((phase.sin(), phase.cos()), dim=-1)).unsqueeze(-1)
        noise = self.net(F.silu(x + shift))
        return (x - self.sqrt_rest[t].view(-1, 1, 1) * noise) / self.sqrt_bar[t].view(-1, 1, 1).clamp_min(1e-2)


class CachedScale(nn.Module):
    """cached_property over config and the shapes of parameters; reduce over a tuple of ints."""

    def __init__(self, grid: tuple[int, int] = (4, 6), dim: int = 10):
        super().__init__()
        self.grid = grid
        self.weight = nn.Parameter(torch.randn(5, dim))
        self.pos = nn.Parameter(torch.randn(1, reduce(operator.mul, grid), dim) * 0.02)

    @cached_property
    def temperature(self) -> float:
        return 1.0 / math.sqrt(self.weight.numel())

    @property
    def prototypes(self) -> Tensor:
        return F.normalize(self.weight, dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = F.normalize(tokens + self.pos, dim=-1)
        score = F.linear(tokens, self.prototypes) / self.temperature
        return score.unflatten(1, self.grid).permute(0, 3, 1, 2)


class FIRFilterBank(nn.Module):
    """SciPy designs the filters in __init__; forward is a plain convolution with reflected borders."""

    def __init__(self, cutoffs: tuple[float, ...] = (0.1, 0.25, 0.4), taps: int = 15):
        super().__init__()
        bank = np.stack([signal.firwin(taps, c) for c in cutoffs])
        self.register_buffer("bank", torch.from_numpy(bank[:, None]).to(torch.float32))
        self.pad = taps // 2

    def forward(self, wave: Tensor) -> Tensor:
        padded = F.pad(wave.unsqueeze(1), (self.pad, self.pad), mode="reflect")
        bands = F.conv1d(padded, self.bank)
        return torch.log1p(F.avg_pool1d(bands.abs(), kernel_size=4, stride=4))


class LMInputs(TypedDict):
    hidden: Tensor
    bias: Tensor


class CausalLMBlock(nn.Module):
    """The causal mask grows with the length; amp context is a nullcontext; activations sit in a dict of partials."""

    def __init__(self, cfg: EncoderConfig, vocab: int = 32, act: str = "relu2"):
        super().__init__()
        self.cfg = cfg
        self.embed = nn.Embedding(vocab, cfg.dim)
        self.q, self.k, self.v, self.o = (nn.Linear(cfg.dim, cfg.dim, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(cfg.dim, 4 * cfg.dim), nn.Linear(4 * cfg.dim, cfg.dim)
        self.act = ACTIVATIONS[act]
        self.scale = nn.Parameter(torch.ones(cfg.dim))
        self.lm_head = nn.Linear(cfg.dim, vocab, bias=False)
        self.lm_head.weight = self.embed.weight

    def rms(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.scale

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.cfg.heads, -1)).transpose(1, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.autocast("cpu") if self.training else nullcontext():
            x = self.embed(tokens)
            y = self.rms(x)
            scale = (self.cfg.dim / self.cfg.heads) ** -0.5
            score = self.split(self.q(y)) @ self.split(self.k(y)).transpose(-2, -1) * scale
            if self.cfg.causal:
                length = tokens.size(1)
                mask = torch.full((length, length), float("-inf"), device=x.device).triu(diagonal=1)
                score = score + mask
            x = x + self.o((score.softmax(-1) @ self.split(self.v(y))).transpose(1, 2).flatten(2))
            inputs: LMInputs = {"hidden": x + self.down(self.act(self.up(self.rms(x)))), "bias": self.embed.weight}
        return F.linear(inputs["hidden"], inputs["bias"])


class FactorizationMachine(nn.Module):
    """Second-order interactions; isinstance dispatch over submodules."""

    def __init__(self, fields: int = 6, vocab: int = 50, k: int = 4):
        super().__init__()
        self.first = nn.Embedding(vocab, 1)
        self.second = nn.Embedding(vocab, k)
        self.deep = nn.ModuleList([nn.Linear(fields * k, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 1)])

    def forward(self, fields: Tensor) -> Tensor:
        v = self.second(fields)
        pairwise = 0.5 * (v.sum(1).pow(2) - v.pow(2).sum(1)).sum(-1, keepdim=True)
        h = v.reshape(v.shape[0], -1)
        for layer in self.deep:
            h = layer(h)
            if isinstance(layer, nn.BatchNorm1d):
                h = h.relu()
        return torch.sigmoid(self.first(fields).sum(1) + pairwise + h)


@dataclass(slots=True)
class Gates:
    i: Tensor
    f: Tensor
    g: Tensor
    o: Tensor


class FixedHorizonDecoder(nn.Module):
    """An LSTM cell written by hand, unrolled over a constant horizon, collecting into a list."""

    def __init__(self, features: int = 3, hidden: int = 12, horizon: int = 4):
        super().__init__()
        self.encoder = nn.LSTM(features, hidden, batch_first=True)
        self.ih, self.hh = nn.Linear(features, 4 * hidden), nn.Linear(hidden, 4 * hidden)
        self.out = nn.Linear(hidden, features)
        self.horizon = horizon

    def cell(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        gates = Gates(*(self.ih(x) + self.hh(h)).chunk(4, dim=-1))
        c = gates.f.sigmoid() * c + gates.i.sigmoid() * gates.g.tanh()
        return gates.o.sigmoid() * c.tanh(), c

    def forward(self, series: Tensor) -> Tensor:
        _, (h, c) = self.encoder(series)
        h, c, x, steps = h[-1], c[-1], series[:, -1], []
        while len(steps) < self.horizon:
            h, c = self.cell(x, h, c)
            steps.append(x := x + self.out(h))
        return torch.stack(steps, dim=1)


class ShiftedWindows(nn.Module):
    """Windows partitioned by view/permute with running sizes; the shift is a constant roll."""

    def __init__(self, dim: int = 8, window: int = 4, shift: int = 2):
        super().__init__()
        self.window, self.shift = window, shift
        self.attn = nn.Linear(dim, 3 * dim)
        coords = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", relative[..., 0] * (2 * window - 1) + relative[..., 1], persistent=False)
        self.bias = nn.Parameter(torch.randn((2 * window - 1) ** 2) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        k = self.window
        y = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2)) if self.shift > 0 else x
        y = y.view(b, h // k, k, w // k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k, c)
        q, key, v = self.attn(y).chunk(3, dim=-1)
        y = (q @ key.transpose(1, 2) * c**-0.5 + self.bias[self.index]).softmax(-1) @ v
        y = y.view(b, h // k, w // k, k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(y, shifts=(self.shift, self.shift), dims=(1, 2)) + x


class MultiTaskHeads(nn.Module):
    """Decorated dispatch over a dict of modules, cached by functools.lru_cache on config alone."""

    def __init__(self, tasks: dict[str, int] | None = None, dim: int = 6, act: Act = Act.SILU):
        super().__init__()
        self.tasks = dict(sorted((tasks or {"ctr": 1, "dwell": 3, "like": 2}).items(), key=lambda kv: kv[1]))
        self.trunk = nn.Sequential(nn.Linear(dim, dim), act_layer(act))
        self.heads = nn.ModuleDict({name: nn.Linear(dim, n) for name, n in self.tasks.items()})
        self.register_buffer("pos", sinusoid(1, dim))

    @staticmethod
    @functools.cache
    def temperature(width: int) -> float:
        return math.log(width + 1.0)

    @logged
    def head(self, name: str, x: Tensor) -> Tensor:
        return self.heads[name](x) / self.temperature(self.tasks[name])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.trunk(x + self.pos)
        scores = {name: self.head(name, x) for name in self.tasks}
        return tuple(scores[name] for name in sorted(scores))


def cases():
    torch.manual_seed(0)
    r = torch.randn
    ids = torch.randint
    cat = torch.tensor([[0, 8, 2], [4, 3, 1], [2, 5, 0]])
    wave = r(3, 96)
    built = {
        "TabTransformer": (TabTransformer(), {"cat": cat, "num": r(3, 4)}, [{"cat": cat[:2], "num": r(2, 4)}]),
        "PointNetEncoder": (PointNetEncoder(), {"points": r(2, 20, 3)}, [{"points": r(3, 31, 3)}]),
        "MixerBlock": (MixerBlock(), {"x": r(2, 9, 12)}, [{"x": r(5, 9, 12)}]),
        "SqueezeExcite": (SqueezeExcite(), {"x": r(2, 20, 6, 6)}, [{"x": r(3, 20, 8, 5)}]),
        "WeightedBiFPN": (
            WeightedBiFPN(),
            {"fine": r(2, 8, 16, 16), "middle": r(2, 8, 8, 8), "coarse": r(2, 8, 4, 4)},
            [{"fine": r(3, 8, 24, 16), "middle": r(3, 8, 12, 8), "coarse": r(3, 8, 6, 4)}],
        ),
        "DenseGraphConv": (
            DenseGraphConv(),
            {"nodes": r(2, 5, 6), "adj": (r(2, 5, 5) > 0).float()},
            [{"nodes": r(3, 8, 6), "adj": (r(3, 8, 8) > 0).float()}],
        ),
        "VectorQuantizer": (VectorQuantizer(), {"z": r(2, 6, 8)}, [{"z": r(3, 9, 8)}]),
        "DenseMoE": (DenseMoE(), {"x": r(2, 5, 8)}, [{"x": r(3, 7, 8)}]),
        "DiffusionStep": (
            DiffusionStep(),
            {"x": r(2, 8, 12), "t": ids(0, 50, (2,))},
            [{"x": r(3, 8, 20), "t": ids(0, 50, (3,))}],
        ),
        "CachedScale": (CachedScale(), {"tokens": r(2, 24, 10)}, [{"tokens": r(4, 24, 10)}]),
        "FIRFilterBank": (FIRFilterBank(), {"wave": wave}, [{"wave": r(2, 144)}]),
        "CausalLMBlock": (
            CausalLMBlock(EncoderConfig()),
            {"tokens": ids(0, 32, (2, 6))},
            [{"tokens": ids(0, 32, (3, 11))}],
        ),
        "FactorizationMachine": (
            FactorizationMachine(),
            {"fields": ids(0, 50, (4, 6))},
            [{"fields": ids(0, 50, (7, 6))}],
        ),
        "FixedHorizonDecoder": (FixedHorizonDecoder(), {"series": r(2, 8, 3)}, [{"series": r(3, 13, 3)}]),
        "ShiftedWindows": (ShiftedWindows(), {"x": r(2, 8, 8, 8)}, [{"x": r(3, 12, 8, 8)}]),
        "MultiTaskHeads": (MultiTaskHeads(), {"x": r(3, 6)}, [{"x": r(5, 6)}]),
    }
    for _, example, probes in built.values():
        probes.append({k: v.flip(0) for k, v in example.items()})
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
