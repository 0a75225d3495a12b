"""Good models whose names, comments and unreached methods look like numpy, OpenCV, random numbers or `.item()`."""

from __future__ import annotations

import math
import random

import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PointPool(nn.Module):
    """PointNet's pooling; as in the paper's code, `np` is the number of points."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.local = nn.Sequential(nn.Linear(3, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.head = nn.Linear(2 * dim, 4)

    def forward(self, points: Tensor) -> Tensor:
        bs, np, _ = points.shape
        feats = self.local(points.reshape(bs * np, 3)).reshape(bs, np, -1)
        pooled = feats.max(dim=1, keepdim=True).values.expand(bs, np, -1)
        return self.head(torch.cat([feats, pooled], dim=-1))


class Fields:
    """Named columns of a table of features, in the manner of a data frame."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def item(self, name: str) -> Tensor:
        return self.columns[name]

    def tolist(self) -> list[Tensor]:
        return list(self.columns.values())

    def numpy(self) -> Tensor:
        return torch.stack(self.tolist(), dim=-1)

    def cpu(self) -> Fields:
        return Fields({name: column.float() for name, column in self.columns.items()})


class TableNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(3, 5)

    def forward(self, price: Tensor, volume: Tensor) -> Tensor:
        fields = Fields({"price": price, "volume": volume, "spread": (price - volume).abs()}).cpu()
        first, *_ = fields.tolist()
        return self.mix(fields.numpy()) + fields.item("spread")[..., None] * first[..., None]


class UserItemScorer(nn.Module):
    """Two towers: `item` is a thing to sell."""

    def __init__(self, users: int = 11, items: int = 13, dim: int = 6) -> None:
        super().__init__()
        self.user = nn.Embedding(users, dim)
        self.item = nn.Embedding(items, dim)
        self.item_bias = nn.Embedding(items, 1)

    def forward(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        user = F.normalize(self.user(user_ids), dim=-1)
        item = F.normalize(self.item(item_ids), dim=-1)
        bias = self.item_bias(item_ids).squeeze(-1)
        return torch.einsum("bd,bkd->bk", user, item) + bias


class RandomFourierFeatures(nn.Module):
    """Random directions drawn once, when the model is built (`np.random`, `random.random()`), and kept as a buffer."""

    def __init__(self, dim: int = 3, features: int = 7, seed: int = 3) -> None:
        super().__init__()
        draw = np.random.default_rng(seed).normal(size=(dim, features)).astype(np.float32)
        self.register_buffer("random", torch.from_numpy(draw))
        self.gain = 1.0 + random.Random(seed).random()
        self.out = nn.Linear(2 * features, 2)

    def forward(self, coords: Tensor) -> Tensor:
        phase = 2.0 * math.pi * self.gain * coords @ self.random
        return self.out(torch.cat((phase.sin(), phase.cos()), dim=-1))


class CspBlock(nn.Module):
    """YOLO's bottleneck with cross-stage connections, where cv1, cv2, cv3 are convolutions."""

    def __init__(self, channels: int = 6, depth: int = 2) -> None:
        super().__init__()
        hidden = channels // 2
        self.cv1 = nn.Conv2d(channels, hidden, 1)
        self.cv2 = nn.Conv2d(channels, hidden, 1)
        self.cv3 = nn.Conv2d(2 * hidden, channels, 1)
        self.m = nn.Sequential(*(nn.Conv2d(hidden, hidden, 3, padding=1) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        cv2 = F.silu(self.cv2(x))
        return F.silu(self.cv3(torch.cat([self.m(F.silu(self.cv1(x))), cv2], 1)))


class ops:
    """A small namespace with the interface of the array library that the paper's code was written for."""

    exp = staticmethod(torch.exp)
    log = staticmethod(torch.log)

    @staticmethod
    def asarray(x: Tensor) -> Tensor:
        return x

    @staticmethod
    def array(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts, dim=1)


class PortedMixture(nn.Module):
    def __init__(self, parts: int = 3) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.linspace(-1.0, 1.0, parts))
        self.heights = nn.Parameter(torch.linspace(0.5, 1.5, parts))

    def forward(self, x: Tensor) -> Tensor:
        np = math = ops
        x = np.asarray(x)
        pairs = zip(self.centres.unbind(), self.heights.unbind(), strict=True)
        bumps = [height * math.exp(-((x - centre) ** 2)) for centre, height in pairs]
        return math.log(np.array(bumps).sum(dim=1) + 1e-6)


class Commented(nn.Module):
    """Replaces `int(x.argmax().item())` and np.take(table.numpy(), i) of the first version."""

    note = "for the old path see x.cpu().numpy(), random.choice(rows), cv2.resize(img) and if x.sum() > 0:"

    def __init__(self, classes: int = 5, dim: int = 4) -> None:
        super().__init__()
        self.score = nn.Linear(dim, classes)
        self.table = nn.Parameter(torch.randn(classes, dim))

    def forward(self, x: Tensor) -> Tensor:
        # was: best = self.score(x).argmax(-1).item(); return np.asarray(self.table)[best]
        best = self.score(x).argmax(dim=-1)  # no .item(), no .tolist() and no np. here
        assert self.note, "the note must say where x.item() and torch.tensor(np.zeros(3)) went"
        return F.embedding(best, self.table)


class LogMel(nn.Module):
    """The window and the filters are made by scipy, numpy and math when the model is built; frames have one size."""

    def __init__(self, size: int = 16, hop: int = 8, bands: int = 5) -> None:
        super().__init__()
        self.size, self.hop = size, hop
        bins = size // 2 + 1
        angle = 2.0 * math.pi * np.outer(np.arange(size), np.arange(bins)) / size
        window = scipy.signal.get_window("hann", size)[:, None]
        self.register_buffer("real", torch.tensor(np.cos(angle) * window, dtype=torch.float32))
        self.register_buffer("imag", torch.tensor(np.sin(angle) * window, dtype=torch.float32))
        edges = np.linspace(0.0, math.log10(1.0 + bins), bands + 2)
        ramp = np.maximum(0.0, 1.0 - np.abs(np.log10(1.0 + np.arange(bins))[:, None] - edges[None, 1:-1]) / edges[1])
        self.register_buffer("mel", torch.from_numpy(ramp).float())

    def forward(self, wave: Tensor) -> Tensor:
        frames = F.unfold(wave[:, None, None, :], (1, self.size), stride=(1, self.hop)).transpose(1, 2)
        power = (frames @ self.real) ** 2 + (frames @ self.imag) ** 2
        return torch.log10(torch.clamp(power @ self.mel, min=1e-6))


class WithReporting(nn.Module):
    """Forward is plain; `predict`, `describe` and `augment`, which it never calls, serve the notebook."""

    def __init__(self, dim: int = 5, labels: tuple[str, ...] = ("cat", "dog", "owl")) -> None:
        super().__init__()
        self.labels = labels
        self.body = nn.Sequential(nn.Linear(dim, 8), nn.GELU(), nn.Linear(8, len(labels)))

    def augment(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if random.random() < 0.5 else x

    def predict(self, x: Tensor) -> list[str]:
        return [self.labels[i] for i in self(x).argmax(-1).cpu().numpy().tolist()]

    @property
    def describe(self) -> str:
        return f"norm {self.body[0].weight.norm().item():.3f}, {np.mean([p.numel() for p in self.parameters()])}"

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = self.augment(x)
        return self.body(x).softmax(dim=-1)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def ids(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape)

    def named(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {name: torch.randn(shape) for name, shape in shapes.items()}

    found = {
        "PointPool": (
            PointPool(),
            named(points=(2, 6, 3)),
            [named(points=(3, 9, 3)), named(points=(4, 5, 3))],
        ),
        "TableNet": (
            TableNet(),
            named(price=(2, 4), volume=(2, 4)),
            [named(price=(3, 4), volume=(3, 4)), named(price=(5, 7), volume=(5, 7))],
        ),
        "UserItemScorer": (
            UserItemScorer(),
            {"user_ids": ids(11, 3), "item_ids": ids(13, 3, 4)},
            [
                {"user_ids": ids(11, 2), "item_ids": ids(13, 2, 6)},
                {"user_ids": ids(11, 5), "item_ids": ids(13, 5, 3)},
            ],
        ),
        "RandomFourierFeatures": (
            RandomFourierFeatures(),
            named(coords=(4, 3)),
            [named(coords=(2, 3)), named(coords=(7, 3))],
        ),
        "CspBlock": (
            CspBlock(),
            named(x=(2, 6, 8, 8)),
            [named(x=(3, 6, 6, 10)), named(x=(2, 6, 7, 5))],
        ),
        "PortedMixture": (
            PortedMixture(),
            named(x=(2, 5)),
            [named(x=(4, 5)), named(x=(3, 8))],
        ),
        "Commented": (
            Commented(),
            named(x=(3, 4)),
            [named(x=(2, 4)), named(x=(6, 4))],
        ),
        "LogMel": (
            LogMel(),
            named(wave=(2, 64)),
            [named(wave=(3, 64)), named(wave=(2, 96))],
        ),
        "WithReporting": (
            WithReporting(),
            named(x=(2, 5)),
            [named(x=(4, 5)), named(x=(3, 5))],
        ),
    }
    for model, _, _ in found.values():
        model.eval()
    return found
