"""Good models by structure: dict, nested and named outputs, optional inputs, config, loops over modules, hooks."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class MultiTask(nn.Module):
    """A dict of outputs; the heads are chosen by name, and conditions are on the config alone."""

    def __init__(
        self, dim: int = 6, tasks: tuple[tuple[str, int], ...] = (("age", 1), ("kind", 4), ("mask", 6))
    ) -> None:
        super().__init__()
        self.trunk = nn.Linear(dim, dim)
        self.heads = nn.ModuleDict({name: nn.Linear(dim, size) for name, size in tasks})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        shared = torch.tanh(self.trunk(x))
        outputs = {}
        for name, head in self.heads.items():
            out = head(shared)
            if head.out_features == 1:
                out = F.softplus(out.squeeze(-1))
            elif name.startswith("mask"):
                out = out.sigmoid()
            outputs[name] = out
        return outputs


class Posterior(NamedTuple):
    sample: Tensor
    mean: Tensor
    logvar: Tensor


class Encoder(nn.Module):
    """A VAE's encoder: it draws in training, and takes the mean in eval mode."""

    def __init__(self, dim: int = 5, latent: int = 3) -> None:
        super().__init__()
        self.latent = latent
        self.stats = nn.Linear(dim, 2 * latent)

    def forward(self, x: Tensor) -> Posterior:
        mean, logvar = torch.split(self.stats(x), [self.latent, self.latent], dim=1)
        logvar = logvar.clamp(-8.0, 8.0)
        sample = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar) if self.training else mean
        return Posterior(sample=sample, mean=mean, logvar=logvar)


class MaybeMasked(nn.Module):
    """Optional inputs that are not given here; the choice is made by `is None`."""

    def __init__(self, dim: int = 4, bias: bool = False, gate: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None
        self.gate = gate

    def forward(
        self, query: Tensor, memory: Tensor | None = None, mask: Tensor | None = None, scale: float | None = None
    ) -> Tensor:
        memory = query if memory is None else memory
        scale = scale or self.weight.shape[0] ** -0.5
        scores = F.linear(query, self.weight, self.bias) @ memory.transpose(1, 2) * scale
        if mask is not None:
            scores = scores.masked_fill(mask == 0, -1e4)
        out = scores.softmax(dim=-1) @ memory
        return out if self.gate is None else self.gate(out) * out


class Pyramid(nn.Module):
    """FPN: lists of maps from coarse to fine and back, nested tuples as outputs."""

    def __init__(self, channels: tuple[int, ...] = (3, 4, 6, 8), width: int = 5) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(channels))
        self.stages = nn.ModuleList([nn.Conv2d(cin, cout, 2, stride=2) for cin, cout in pairs])
        self.lateral = nn.ModuleList([nn.Conv2d(cout, width, 1) for _, cout in pairs])

    def forward(self, image: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        maps = []
        for stage in self.stages:
            image = F.relu(stage(image))
            maps.append(image)
        coarse, *finer = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)][::-1]
        merged = [coarse]
        for fine in finer:
            merged.append(fine + F.interpolate(merged[-1], scale_factor=2, mode="bilinear", align_corners=False))
        pooled = torch.stack([m.amax(dim=(-2, -1)) for m in merged], dim=1)
        return tuple(reversed(merged)), pooled


@dataclass(frozen=True)
class Config:
    dim: int = 6
    depth: int = 4
    act: str = "gelu"
    norm: str = "rms"
    pool: str = "mean"
    residual: bool = True
    taps: tuple[int, ...] = (1, 3)
    eps: float = 1e-6


class Configured(nn.Module):
    """Every branch is taken on the config."""

    ACTS = {"gelu": F.gelu, "relu": F.relu, "swish": lambda x: x * x.sigmoid()}  # noqa: RUF012

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in range(config.depth))
        self.gain = nn.Parameter(torch.ones(config.dim))

    def norm(self, x: Tensor) -> Tensor:
        if self.config.norm == "none":
            return x
        if self.config.norm == "layer":
            return F.layer_norm(x, (self.config.dim,), self.gain)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config.eps) * self.gain

    def forward(self, x: Tensor) -> Tensor:
        act, taps = self.ACTS[self.config.act], []
        for i, layer in enumerate(self.layers):
            y = act(layer(self.norm(x)))
            x = x + y if self.config.residual and i > 0 else y
            if i in self.config.taps:
                taps.append(x)
        x = torch.cat(taps, dim=-1) if taps else x
        if self.config.pool == "mean":
            return x.mean(dim=1)
        return x[:, -1] if self.config.pool == "last" else x


class Parametrized(nn.Module):
    """Weight norm of a layer that two branches share, and a weight that is symmetric by a parametrization."""

    class Symmetric(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.triu() + weight.triu(1).transpose(-1, -2)

    def __init__(self, dim: int = 5) -> None:
        super().__init__()
        self.left = parametrizations.weight_norm(nn.Linear(dim, dim))
        self.right = self.left
        self.form = nn.Linear(dim, dim, bias=False)
        nn.utils.parametrize.register_parametrization(self.form, "weight", self.Symmetric())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        assert self.left is self.right, "the towers are siamese"
        return (self.form(self.left(a)) * self.right(b)).sum(dim=-1)


def centre(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = args
    return (x - x.mean(dim=-1, keepdim=True),)


class Hooked(nn.Module):
    """Hooks that only compute: one centres what goes into the stem, the other scales what leaves each block."""

    def __init__(self, dim: int = 4, depth: int = 3) -> None:
        super().__init__()
        blocks = ((f"block{i}", nn.Sequential(nn.Linear(dim, dim), nn.ELU())) for i in range(depth))
        self.body = nn.Sequential(OrderedDict(blocks))
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(0.9**i)) for i in range(depth))
        self.body[0].register_forward_pre_hook(centre)
        for scale, block in zip(self.scales, self.body, strict=True):
            block.register_forward_hook(lambda module, args, output, scale=scale: args[0] + scale * output)

    def forward(self, x: Tensor) -> Tensor:
        return self.body[1:](self.body[0](x)) if len(self.body) > 1 else self.body(x)


class DeepSupervised(nn.Module):
    """Auxiliary outputs and a loss exist in training; eval mode has the last map."""

    def __init__(self, width: int = 4, depth: int = 3, return_all: bool = False) -> None:
        super().__init__()
        self.depth, self.return_all = depth, return_all
        for i in range(depth):
            self.add_module(f"conv{i}", nn.Conv1d(width, width, 3, padding=2**i, dilation=2**i))
            self.add_module(f"head{i}", nn.Conv1d(width, 2, 1))

    def forward(self, x: Tensor, target: Tensor | None = None) -> Tensor | list[Tensor]:
        outs = []
        for i in range(self.depth):
            x = x + F.relu(getattr(self, f"conv{i}")(x))
            if self.training or self.return_all or i == self.depth - 1:
                outs.append(getattr(self, f"head{i}")(x))
        if self.training and target is not None:
            self.last_loss = sum(F.l1_loss(out, target).item() for out in outs) / len(outs)
        return outs if len(outs) > 1 else outs[0]


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def of(*names: str, sizes: list[tuple[int, ...]]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        example, *probes = ({name: torch.randn(size) for name in names} for size in sizes)
        return example, probes

    found = {
        "MultiTask": (MultiTask(), *of("x", sizes=[(2, 6), (3, 6), (5, 6)])),
        "Encoder": (Encoder(), *of("x", sizes=[(2, 5), (4, 5), (3, 5)])),
        "MaybeMasked": (MaybeMasked(), *of("query", sizes=[(2, 3, 4), (3, 5, 4), (2, 7, 4)])),
        "Pyramid": (Pyramid(), *of("image", sizes=[(2, 3, 16, 16), (3, 3, 16, 24), (2, 3, 32, 16)])),
        "Configured": (Configured(Config()), *of("x", sizes=[(2, 3, 6), (3, 5, 6), (4, 2, 6)])),
        "Parametrized": (Parametrized(), *of("a", "b", sizes=[(2, 5), (3, 5), (6, 5)])),
        "Hooked": (Hooked(), *of("x", sizes=[(2, 4), (3, 4), (5, 4)])),
        "DeepSupervised": (DeepSupervised(), *of("x", sizes=[(2, 4, 9), (3, 4, 7), (2, 4, 12)])),
    }
    for model, _, _ in found.values():
        model.eval()
    return found
