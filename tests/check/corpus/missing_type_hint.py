"""Models whose helpers take non-tensors without an annotation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.corpus import _helpers_untyped


class HeadSplit(nn.Module):
    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        q = _helpers_untyped.split_heads(self.proj(tokens), self.heads)  # hazard: missing-type-hint
        return q @ q.transpose(-1, -2)


class PadToMultiple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 4, stride=4)

    def forward(self, signal: Tensor) -> Tensor:
        return self.conv(_helpers_untyped.pad_to(signal, 4))


class StringMode(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = _helpers_untyped.reduce(x, "mean")
        return x - mean.unsqueeze(-1)


def _upsample(x: Tensor, size) -> Tensor:
    return F.interpolate(x, size=size, mode="nearest")


class SizeList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(2, 2, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        return self.lateral(fine) + _upsample(coarse, fine.shape[-2:])  # hazard: missing-type-hint


class MethodFlag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)

    def encode(self, x: Tensor, normalize=True) -> Tensor:  # hazard: missing-type-hint
        h = self.fc1(x)
        return F.normalize(h, dim=-1) if normalize else h

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.encode(x, True))


class StateTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 5)

    def step(self, x: Tensor, state) -> tuple[Tensor, Tensor]:
        h, c = state  # hazard: missing-type-hint
        return self.cell(x, (h, c))

    def forward(self, x: Tensor) -> Tensor:
        state = (x.new_zeros(x.shape[0], 5), x.new_zeros(x.shape[0], 5))
        for t in range(3):
            state = self.step(x[:, t], state)
        return state[0]


class FeatureDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(4, 3), nn.Linear(4, 3)

    def fuse(self, features) -> Tensor:
        return features["image"] * features["text"].sigmoid()  # hazard: missing-type-hint

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        return self.fuse({"image": self.image(pixels), "text": self.text(tokens)})


class OptionalMask(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.key = nn.Linear(dim, dim)

    def scores(self, x: Tensor, mask=None) -> Tensor:
        scores = x @ self.key(x).transpose(1, 2)
        if mask is not None:
            scores = scores + mask
        return scores

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x, None).softmax(-1)  # hazard: missing-type-hint


class _Scale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x, level):
        return x * self.gain / (level + 1)


class LevelArgument(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = _Scale(6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale(x, 2)  # hazard: missing-type-hint


class ListOfFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    @staticmethod
    def merge(features) -> Tensor:
        return torch.cat(features, dim=-1)  # hazard: missing-type-hint

    def forward(self, x: Tensor) -> Tensor:
        features: list[Tensor] = []
        for stage in self.stages:
            x = torch.relu(stage(x))
            features.append(x)
        return self.merge(features)


class EmptyListOfInts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sizes = []
        for width in range(1, 3):
            sizes.append(width)  # hazard: missing-type-hint
        return x.repeat(sizes)


class RangeOverArgument(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def refine(self, x, steps):
        for _ in range(steps):  # hazard: missing-type-hint
            x = x + 0.1 * torch.tanh(self.fc(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.refine(x, 4)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def sized(
        module: nn.Module, **tails: tuple[int, ...]
    ) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        inputs = [{name: torch.randn(n, *tail) for name, tail in tails.items()} for n in (4, 3, 5)]
        return module.eval(), inputs[0], inputs[1:]

    return {
        "HeadSplit": sized(HeadSplit(), tokens=(5, 8)),
        "PadToMultiple": sized(PadToMultiple(), signal=(2, 10)),
        "StringMode": sized(StringMode(), x=(6,)),
        "SizeList": sized(SizeList(), coarse=(2, 3, 3), fine=(2, 6, 6)),
        "MethodFlag": sized(MethodFlag(), x=(4,)),
        "StateTuple": sized(StateTuple(), x=(3, 4)),
        "FeatureDict": sized(FeatureDict(), pixels=(4,), tokens=(4,)),
        "OptionalMask": sized(OptionalMask(), x=(5, 4)),
        "LevelArgument": sized(LevelArgument(), x=(6,)),
        "ListOfFeatures": sized(ListOfFeatures(), x=(4,)),
        "EmptyListOfInts": sized(EmptyListOfInts(), x=(4,)),
        "RangeOverArgument": sized(RangeOverArgument(), x=(4,)),
    }
