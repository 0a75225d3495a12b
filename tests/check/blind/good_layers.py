"""Good models, first part: vision, audio and sequence blocks that only look hazardous."""

import functools
import logging
import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.check.blind._helpers_good import (
    Act,
    EncoderConfig,
    LayerNorm2d,
    act_layer,
    logged,
    mel_filters,
    rotate_half,
    sinusoid,
)

try:
    import cv2
except ImportError:
    cv2 = None

logger = logging.getLogger(__name__)
NEG_INF = -1e4


class MelFrontend(nn.Module):
    """Log-mel spectrogram from power frames; NumPy only builds the buffers."""

    def __init__(self, n_bins: int = 33, n_mels: int = 12):
        super().__init__()
        self.register_buffer("fb", mel_filters(n_bins, n_mels))
        window = np.hanning(n_bins).astype(np.float32)
        self.register_buffer("window", torch.from_numpy(window), persistent=False)

    def forward(self, power: Tensor) -> Tensor:
        mel = torch.einsum("mf,bft->bmt", self.fb, power * self.window[:, None])
        logmel = torch.log(mel.clamp(min=1e-5))
        return (logmel - logmel.mean(dim=-1, keepdim=True)) / (logmel.std(dim=-1, keepdim=True) + 1e-5)


class NeckPyramid(nn.Module):
    """The local called np is the list of pyramid levels."""

    def __init__(self, chans=(8, 16, 24), out: int = 8):
        super().__init__()
        stems = [nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip((3, *chans), chans, strict=False)]
        self.stems = nn.ModuleList(stems)
        self.lateral = nn.ModuleList(nn.Conv2d(c, out, 1) for c in chans)
        self.smooth = nn.ModuleDict({f"p{i}": nn.Conv2d(out, out, 3, padding=1) for i in range(len(chans))})

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        np = []
        for stem, lateral in zip(self.stems, self.lateral, strict=True):
            image = F.relu(stem(image))
            np.append(lateral(image))
        for i in reversed(range(len(np) - 1)):
            np[i] = np[i] + F.interpolate(np[i + 1], scale_factor=2.0, mode="nearest")
        return tuple(self.smooth[f"p{i}"](level) for i, level in enumerate(np))


class Catalogue(nn.Module):
    """A method called item(), which looks an embedding up, and a method called numpy()."""

    def __init__(self, n_items: int = 40, dim: int = 12):
        super().__init__()
        self.table = nn.Embedding(n_items, dim, padding_idx=0)
        self.user = nn.Embedding(20, dim)
        self.bias = nn.Parameter(torch.zeros(n_items))

    def item(self, ids: Tensor) -> Tensor:
        return self.table(ids) / math.sqrt(self.table.embedding_dim)

    def numpy(self):
        return self.table.weight.detach().cpu().numpy().copy()

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return (self.user(users).unsqueeze(1) * self.item(items)).sum(-1) + self.bias[items]


class ResidualUNet(nn.Module):
    def __init__(self, width: int = 8, depth: int = 2):
        super().__init__()
        self.inc = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.ModuleList(self._block(width * 2**i, width * 2 ** (i + 1)) for i in range(depth))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(width * 2 ** (i + 1), width * 2**i, 2, stride=2) for i in reversed(range(depth))
        )
        self.fuse = nn.ModuleList(self._block(width * 2 ** (i + 1), width * 2**i) for i in reversed(range(depth)))
        self.outc = nn.Conv2d(width, 2, 1)

    @staticmethod
    def _block(cin: int, cout: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.SiLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.inc(x)]
        for block in self.down:
            skips.append(block(F.max_pool2d(skips[-1], 2)))
        y = skips.pop()
        for up, fuse in zip(self.up, self.fuse, strict=True):
            y = fuse(torch.cat([up(y), skips.pop()], dim=1))
        return self.outc(y)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int = 12, layer_scale: float = 1e-2, drop_path: float = 0.1):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pw1 = nn.Linear(dim, 4 * dim)
        self.pw2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(layer_scale * torch.ones(dim)) if layer_scale > 0 else None
        self.drop_path = drop_path

    def _drop(self, x: Tensor) -> Tensor:
        if self.drop_path == 0.0 or not self.training:
            return x
        keep = 1 - self.drop_path
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep) / keep

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.pw2(F.gelu(self.pw1(y)))
        if self.gamma is not None:
            y = self.gamma * y
        return x + self._drop(y.permute(0, 3, 1, 2))


class CausalTCN(nn.Module):
    """Dilated convolutions under weight_norm, chomped by a constant negative slice."""

    def __init__(self, channels: int = 8, levels: int = 3, kernel: int = 3):
        super().__init__()
        self.convs = nn.ModuleList()
        self.chomp = []
        for i in range(levels):
            pad = (kernel - 1) * 2**i
            conv = nn.Conv1d(channels, channels, kernel, dilation=2**i, padding=pad)
            self.convs.append(parametrizations.weight_norm(conv))
            self.chomp.append(pad)

    def forward(self, x: Tensor) -> Tensor:
        for conv, pad in zip(self.convs, self.chomp, strict=True):
            x = x + F.dropout(F.relu(conv(x)[..., :-pad]), p=0.2, training=self.training)
        return x


class RotaryAttention(nn.Module):
    """Rotary embedding without complex numbers; the angles follow the running length."""

    def __init__(self, dim: int = 32, heads: int = 4, base: float = 10000.0):
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        inv = 1.0 / base ** (np.arange(0, self.head_dim, 2) / self.head_dim)
        self.register_buffer("inv_freq", torch.tensor(inv, dtype=torch.float32))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        b, n, d = hidden.shape
        q, k, v = self.qkv(hidden).view(b, n, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        angle = torch.outer(torch.arange(n, device=hidden.device).type_as(self.inv_freq), self.inv_freq)
        angle = torch.cat((angle, angle), dim=-1)
        cos, sin = angle.cos(), angle.sin()
        q, k = (t * cos + rotate_half(t) * sin for t in (q, k))
        score = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        score = score.masked_fill(mask[:, None, None, :] == 0, NEG_INF)
        return self.proj((score.softmax(-1) @ v).transpose(1, 2).reshape(b, n, d))


class ScoreOutput(NamedTuple):
    logits: Tensor
    boxes: Tensor


class TopKDetector(nn.Module):
    """Keeps a constant number of candidates and gathers their boxes; answers with a named tuple."""

    max_det = 5

    def __init__(self, dim: int = 16, classes: int = 4):
        super().__init__()
        self.cls = nn.Linear(dim, classes)
        self.reg = nn.Linear(dim, 4)

    @property
    def num_classes(self) -> int:
        return self.cls.out_features

    def forward(self, queries: Tensor) -> ScoreOutput:
        prob = self.cls(queries).sigmoid()
        score, index = prob.flatten(1).topk(self.max_det, dim=1)
        row = torch.div(index, self.num_classes, rounding_mode="floor")
        cxcywh = self.reg(queries).sigmoid()
        centre, size = cxcywh.split((2, 2), dim=-1)
        xyxy = torch.cat((centre - 0.5 * size, centre + 0.5 * size), dim=-1)
        return ScoreOutput(score, torch.gather(xyxy, 1, row.unsqueeze(-1).expand(-1, -1, 4)))


class WarpByFlow(nn.Module):
    """The base grid comes from the sizes of the input; grid_sample then warps the picture."""

    def __init__(self, channels: int = 3):
        super().__init__()
        self.flow = nn.Conv2d(channels, 2, 3, padding=1)
        nn.init.normal_(self.flow.weight, std=0.02)

    def forward(self, frame: Tensor) -> Tensor:
        h, w = frame.shape[-2:]
        ys = torch.arange(h, device=frame.device, dtype=frame.dtype)
        xs = torch.arange(w, device=frame.device, dtype=frame.dtype)
        gy = (ys / (h - 1) * 2 - 1).view(1, -1, 1).expand(frame.shape[0], -1, w)
        gx = (xs / (w - 1) * 2 - 1).view(1, 1, -1).expand(frame.shape[0], h, -1)
        grid = torch.stack((gx, gy), dim=-1) + self.flow(frame).permute(0, 2, 3, 1)
        return F.grid_sample(frame, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


class SubPixelUpscaler(nn.Module):
    """cv2 and matplotlib serve a preview method only, which forward never reaches."""

    def __init__(self, scale: int = 2, width: int = 8):
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.tail = nn.Sequential(nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        self.scale = scale

    @torch.no_grad()
    def preview(self, path: str, image: np.ndarray) -> None:
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0
        out = self(tensor)[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
        cv2.imwrite(path, np.round(out * 255.0).astype(np.uint8))

    def forward(self, lr: Tensor) -> Tensor:
        base = F.interpolate(lr, scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        return base + self.tail(F.leaky_relu(self.head(lr), 0.1))


class GRUTagger(nn.Module):
    """A hidden state of zeros of the batch's size; Optional is refined before the graph begins."""

    def __init__(self, vocab: int = 30, dim: int = 12, tags: int = 5):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.rnn = nn.GRU(dim, dim, num_layers=2, batch_first=True, bidirectional=True, dropout=0.3)
        self.out = nn.Linear(2 * dim, tags)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> Tensor:
        if state is None:
            state = torch.zeros(4, tokens.size(0), self.rnn.hidden_size, device=tokens.device)
        hidden, _ = self.rnn(self.embed(tokens), state)
        return F.log_softmax(self.out(hidden), dim=-1)


class MixerLayer(nn.Sequential):
    def __init__(self, dim: int, expand: int, act: Act):
        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, expand * dim), act_layer(act), nn.Linear(expand * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x) + x.cumsum(dim=1) / torch.arange(1, x.size(1) + 1, device=x.device)[:, None]


class CheckpointedStack(nn.Module):
    """Checkpointing only while training; kwargs are constants."""

    def __init__(self, cfg: EncoderConfig, **extra: Any):
        super().__init__()
        self.cfg = cfg
        self.use_checkpoint = extra.pop("use_checkpoint", True)
        layer = functools.partial(MixerLayer, cfg.dim, act=cfg.act)
        self.layers = nn.ModuleList(layer(expand=2 + i) for i in range(cfg.depth))
        self.act = act_layer(cfg.act)

    def run(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.use_checkpoint and self.training:
            return checkpoint(layer, x, use_reentrant=False)
        return layer(x)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.run(layer, x)
        return self.act(x)


class SpectralDiscriminator(nn.Module):
    def __init__(self, norm: Literal["spectral", "none"] = "spectral"):
        super().__init__()
        wrap = nn.utils.spectral_norm if norm == "spectral" else (lambda m: m)
        self.net = nn.Sequential(
            wrap(nn.Conv2d(3, 8, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2, inplace=True),
            wrap(nn.Conv2d(8, 16, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.head = wrap(nn.Linear(16, 1))

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() != 4:
            raise ValueError(f"expected images, got {tuple(image.shape)} with mean {image.mean().item():.3f}")
        return self.head(self.net(image).mean(dim=(2, 3))).squeeze(-1)


@dataclass
class Stats:
    mean: Tensor
    scale: Tensor

    def apply(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class DataclassNormaliser(nn.Module):
    """A dataclass carries intermediate tensors between two methods."""

    def __init__(self, features: int = 6):
        super().__init__()
        self.head = nn.Linear(features, 3)

    @logged
    def measure(self, series: Tensor) -> Stats:
        mean = series.mean(dim=1, keepdim=True)
        return Stats(mean=mean, scale=(series - mean).square().mean(dim=1, keepdim=True).add(1e-5).sqrt())

    def forward(self, series: Tensor) -> Tensor:
        stats = self.measure(series)
        return self.head(stats.apply(series)) + stats.mean.mean(dim=-1, keepdim=True)


class PositionedTokens(nn.Module):
    """A sinusoid table sliced by the running length; asserts on rank and on static channels."""

    def __init__(self, dim: int = 16, max_len: int = 64):
        super().__init__()
        self.dim = dim
        self.register_buffer("pe", sinusoid(max_len, dim))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim).normal_(std=0.02))
        self.norm = nn.LayerNorm(dim)

    def extra_repr(self) -> str:
        print("building a description")
        return f"dim={self.dim}, std={self.pe.std().item():.3f}"

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 3, f"rank {x.ndim}"
        assert x.shape[-1] == self.dim, f"channels {x.shape[-1]}"
        x = torch.cat((self.cls_token.expand(x.size(0), -1, -1), x), dim=1)
        return self.norm(x * math.sqrt(self.dim) + self.pe[: x.size(1)])


class DeprecatedInterface(nn.Module):
    """Warnings, debug logging and isinstance checks on arguments that never vary."""

    def __init__(self, dim: int = 8, act: Act | str = "silu", scale: float | Tensor = 0.5):
        super().__init__()
        self.scale = scale
        self.fc = nn.Linear(dim, dim)
        self.act = act_layer(act)

    def forward(self, x: Tensor, mode: str = "residual", **legacy: Any) -> Tensor:
        if legacy:
            warnings.warn(f"ignored: {sorted(legacy)}", stacklevel=2)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("rank %d dtype %s", x.ndim, x.dtype)
        scale = self.scale
        if not isinstance(scale, Tensor):
            scale = torch.full((), float(scale), dtype=x.dtype, device=x.device)
        y = self.act(self.fc(x)) * scale
        return {"residual": lambda: x + y, "plain": lambda: y}[mode]()


class MaskedPooling(nn.Module):
    """Writes into a clone and into a fresh tensor, never into what it was given."""

    def __init__(self, dim: int = 10):
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, frames: Tensor, valid: Tensor) -> Tensor:
        frames = frames.clone()
        frames[:, 0] = 0.0
        frames.mul_(valid.unsqueeze(-1).to(frames.dtype)).add_(0.1)
        weight = self.score(frames).squeeze(-1)
        weight.masked_fill_(~valid, NEG_INF)
        pooled = torch.zeros_like(frames[:, 0])
        pooled += torch.bmm(weight.softmax(dim=-1).unsqueeze(1), frames).squeeze(1)
        return pooled


def cases():
    torch.manual_seed(0)
    r = torch.randn
    ids = torch.randint
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    valid = torch.tensor([[True, True, True, False], [True, False, True, True]])
    built = {
        "MelFrontend": (MelFrontend(), {"power": r(2, 33, 10).square()}, [{"power": r(3, 33, 17).square()}]),
        "NeckPyramid": (NeckPyramid(), {"image": r(2, 3, 32, 32)}, [{"image": r(3, 3, 48, 32)}]),
        "Catalogue": (
            Catalogue(),
            {"users": ids(0, 20, (3,)), "items": ids(0, 40, (3, 5))},
            [{"users": ids(0, 20, (2,)), "items": ids(0, 40, (2, 7))}],
        ),
        "ResidualUNet": (ResidualUNet(), {"x": r(2, 1, 16, 16)}, [{"x": r(2, 1, 24, 32)}]),
        "ConvNeXtBlock": (ConvNeXtBlock(), {"x": r(2, 12, 10, 10)}, [{"x": r(3, 12, 9, 14)}]),
        "CausalTCN": (CausalTCN(), {"x": r(2, 8, 20)}, [{"x": r(3, 8, 33)}]),
        "RotaryAttention": (
            RotaryAttention(),
            {"hidden": r(2, 6, 32), "mask": mask},
            [{"hidden": r(3, 9, 32), "mask": ids(0, 2, (3, 9)).clamp(min=0)}],
        ),
        "TopKDetector": (TopKDetector(), {"queries": r(2, 9, 16)}, [{"queries": r(3, 12, 16)}]),
        "WarpByFlow": (WarpByFlow(), {"frame": r(2, 3, 12, 16)}, [{"frame": r(3, 3, 10, 9)}]),
        "SubPixelUpscaler": (SubPixelUpscaler(), {"lr": r(2, 3, 8, 8)}, [{"lr": r(2, 3, 7, 11)}]),
        "GRUTagger": (GRUTagger(), {"tokens": ids(0, 30, (2, 7))}, [{"tokens": ids(0, 30, (3, 11))}]),
        "CheckpointedStack": (CheckpointedStack(EncoderConfig(), use_checkpoint=True), {"x": r(2, 7, 16)}, []),
        "SpectralDiscriminator": (SpectralDiscriminator(), {"image": r(2, 3, 16, 16)}, [{"image": r(4, 3, 24, 20)}]),
        "DataclassNormaliser": (DataclassNormaliser(), {"series": r(2, 9, 6)}, [{"series": r(3, 14, 6)}]),
        "PositionedTokens": (PositionedTokens(), {"x": r(2, 7, 16)}, [{"x": r(3, 12, 16)}]),
        "DeprecatedInterface": (DeprecatedInterface(), {"x": r(4, 8)}, [{"x": r(6, 8)}]),
        "MaskedPooling": (
            MaskedPooling(),
            {"frames": r(2, 4, 10), "valid": valid},
            [{"frames": r(3, 6, 10), "valid": r(3, 6) > -1.0}],
        ),
    }
    built["CheckpointedStack"][2].append({"x": r(4, 12, 16)})
    for _, example, probes in built.values():
        probes.append({k: v.flip(0) for k, v in example.items()})
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
