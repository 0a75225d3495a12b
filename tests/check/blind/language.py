"""Helpers that script cannot compile, and Python that it refuses."""

import functools
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.check.blind._helpers_decor import Rotary, soft_iou

logger = logging.getLogger(__name__)


# ------------------------------------------------------------- unscriptable-helper


class MaskMatcher(nn.Module):
    """The helper is decorated in another file."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 6))

    def forward(self, mask_logits: Tensor) -> Tensor:
        masks = mask_logits.sigmoid().unsqueeze(1)
        return soft_iou(masks, self.queries.sigmoid())  # hazard: unscriptable-helper


class CheckpointedEncoder(nn.Module):
    """Activation checkpointing was never taken out for inference."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = hidden + checkpoint(block, hidden, use_reentrant=False)  # hazard: unscriptable-helper
        return hidden


class RotaryAttention(nn.Module):
    """An object with `__call__` is an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.rotary = Rotary(0.5)
        self.qk = nn.Linear(8, 16)

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.qk(x).chunk(2, dim=-1)
        query = self.rotary(query)  # hazard: unscriptable-helper
        return torch.softmax(query @ key.transpose(-1, -2), dim=-1)


class TabularMixer(nn.Module):
    """The activation is a partial, picked from a dict in the constructor."""

    def __init__(self, activation: str = "gelu") -> None:
        super().__init__()
        table = {"gelu": functools.partial(F.gelu, approximate="tanh"), "relu": torch.relu}
        self.activation = table[activation]
        self.fc = nn.Linear(5, 5)

    def forward(self, columns: Tensor) -> Tensor:
        return self.fc(columns) * self.activation(columns)  # hazard: unscriptable-helper


class MultiScaleSum(nn.Module):
    """Folds the list of maps with the standard library."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(3, 3, k, padding=k // 2) for k in (1, 3, 5))

    def combine(self, maps: list[Tensor]) -> Tensor:
        return functools.reduce(torch.maximum, maps)  # hazard: unscriptable-helper

    def forward(self, signal: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for conv in self.convs:
            maps.append(torch.tanh(conv(signal)))
        return self.combine(maps)


class LoggedHead(nn.Module):
    """A debug message is left in a method of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 2)

    def report(self, logits: Tensor) -> Tensor:
        logger.debug("logits of rank %d", logits.dim())  # hazard: unscriptable-helper
        return logits

    def forward(self, pooled: Tensor) -> Tensor:
        return self.report(self.head(pooled)).log_softmax(-1)


# -------------------------------------------------------------- unsupported-python


class FallbackNorm(nn.Module):
    """Some layers have no norm; the code asks for forgiveness."""

    def __init__(self) -> None:
        super().__init__()
        self.pre = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre(x)
        try:  # hazard: unsupported-python
            x = self.norm(x)
        except AttributeError:
            x = x / x.norm(dim=-1, keepdim=True)
        return x


class LevelSorter(nn.Module):
    """Stacks the pyramid from the coarsest to the finest level."""

    def __init__(self) -> None:
        super().__init__()
        self.strides = [8, 32, 16]
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, fine: Tensor) -> Tensor:
        order = sorted(self.strides, key=lambda stride: -stride)  # hazard: unsupported-python
        parts = [fine * self.weight[i] / order[i] for i in range(3)]
        return torch.stack(parts, dim=1)


class WalrusGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)
        self.value = nn.Linear(4, 4)

    def forward(self, series: Tensor) -> Tensor:
        gated = torch.sigmoid(opened := self.gate(series)) * self.value(series)  # hazard: unsupported-python
        return gated - opened


class PoolingByMatch(nn.Module):
    """The kind of pooling is matched on every call."""

    def __init__(self, kind: str = "lse") -> None:
        super().__init__()
        self.kind = kind
        self.proj = nn.Linear(4, 4)

    def forward(self, points: Tensor) -> Tensor:
        points = self.proj(points)
        match self.kind:  # hazard: unsupported-python
            case "max":
                return points.amax(dim=1)
            case "lse":
                return points.logsumexp(dim=1)
            case _:
                return points.mean(dim=1)


class LocalKernel(nn.Module):
    """A message function is defined inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.bandwidth = nn.Parameter(torch.tensor(0.5))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        def kernel(distance: Tensor) -> Tensor:  # hazard: unsupported-python
            return torch.exp(-distance / self.bandwidth)

        squared = (left.unsqueeze(2) - right.unsqueeze(1)).square().sum(-1)
        return kernel(squared)


class LateImport(nn.Module):
    """The name of the module is only bound when forward runs."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, latent: Tensor) -> Tensor:
        import math  # hazard: unsupported-python

        return self.out(latent) * math.sqrt(2.0)


class Forwarded(nn.Module):
    """The inner layer of KeywordStack passes on whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # hazard: unsupported-python [KeywordStack]
        return self.norm(*args, **kwargs)


class KeywordStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Forwarded(), Forwarded()])
        self.last = nn.Linear(6, 6)

    def forward(self, frames: Tensor) -> Tensor:
        for layer in self.layers:
            frames = layer(frames) + frames
        return self.last(frames)


class RaggedPairs(nn.Module):
    """Counts the different fields with a set."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = ["age", "city", "age"]
        self.fc = nn.Linear(4, 4)

    def forward(self, dense: Tensor) -> Tensor:
        width = len({*self.fields})  # hazard: unsupported-python
        return self.fc(dense) / width


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    rand = torch.randn
    table: dict[str, tuple[nn.Module, dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]] = {
        "MaskMatcher": (MaskMatcher(), {"mask_logits": (2, 6)}, {"mask_logits": (5, 6)}),
        "CheckpointedEncoder": (CheckpointedEncoder(), {"hidden": (2, 4, 8)}, {"hidden": (3, 6, 8)}),
        "RotaryAttention": (RotaryAttention(), {"x": (2, 4, 8)}, {"x": (3, 5, 8)}),
        "TabularMixer": (TabularMixer(), {"columns": (4, 5)}, {"columns": (7, 5)}),
        "MultiScaleSum": (MultiScaleSum(), {"signal": (2, 3, 9)}, {"signal": (3, 3, 12)}),
        "LoggedHead": (LoggedHead(), {"pooled": (3, 6)}, {"pooled": (5, 6)}),
        "FallbackNorm": (FallbackNorm(), {"x": (2, 6)}, {"x": (4, 6)}),
        "LevelSorter": (LevelSorter(), {"fine": (2, 5)}, {"fine": (3, 8)}),
        "WalrusGate": (WalrusGate(), {"series": (2, 7, 4)}, {"series": (3, 9, 4)}),
        "PoolingByMatch": (PoolingByMatch(), {"points": (2, 9, 4)}, {"points": (3, 5, 4)}),
        "LocalKernel": (
            LocalKernel(),
            {"left": (2, 4, 3), "right": (2, 5, 3)},
            {"left": (3, 6, 3), "right": (3, 2, 3)},
        ),
        "LateImport": (LateImport(), {"latent": (2, 6)}, {"latent": (5, 6)}),
        "KeywordStack": (KeywordStack(), {"frames": (2, 5, 6)}, {"frames": (4, 3, 6)}),
        "RaggedPairs": (RaggedPairs(), {"dense": (3, 4)}, {"dense": (6, 4)}),
    }

    def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        return {name: rand(*shape) for name, shape in shapes.items()}

    return {
        name: (module.eval(), draw(first), [draw(first), draw(second)])
        for name, (module, first, second) in table.items()
    }
