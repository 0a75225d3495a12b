"""Models in which a variable, a result or a container holds values of several types."""

from typing import Any

import torch
from torch import Tensor, nn


class TensorThenTuple(nn.Module):
    def __init__(self, recurrent: bool = True) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        out = x
        if self.recurrent:
            out = self.rnn(x)  # hazard: dynamic-type
        return out[0].mean(dim=1)


class IntThenTensor(nn.Module):
    """The penalty is zero unless there are enough rows."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        penalty = 0
        if x.shape[0] > 2:
            penalty = self.gate(x).abs().mean()  # hazard: dynamic-type
        return x + penalty


class NoneThenTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        best = None
        for t in range(x.shape[1]):
            score = x[:, t]
            best = score if best is None else torch.maximum(best, score)  # hazard: dynamic-type
        for cell in self.cells:
            best = cell(best)
        return best


class ReturnsEither(nn.Module):
    def __init__(self, return_hidden: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 4), nn.Linear(4, 2)
        self.flag = return_hidden

    def features(self, x: Tensor, with_hidden: bool):
        hidden = torch.relu(self.fc1(x))
        if with_hidden:
            return self.fc2(hidden), hidden
        return self.fc2(hidden)  # hazard: dynamic-type

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x, x.shape[0] > 100)


class MixedList(nn.Module):
    """The level without a head is None in the list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def levels(self, x: Tensor) -> list[Tensor]:
        return [self.fc(x), None, x]  # hazard: dynamic-type

    def forward(self, x: Tensor) -> Tensor:
        first, _, last = self.levels(x)
        return first + last


class MixedDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    @staticmethod
    def rescale(out: dict[str, Tensor]) -> Tensor:
        return out["logits"] * out["scale"]

    def forward(self, x: Tensor) -> Tensor:
        return self.rescale({"logits": self.fc(x), "scale": 2.0})  # hazard: dynamic-type


class TupleOrTensor(nn.Module):
    """As in detection backbones: one level or several, dispatched on the type."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        features = x
        if x.dim() == 3:
            features = [level(x) for level in self.levels]  # hazard: dynamic-type
        return torch.stack(features).sum(0) if isinstance(features, list) else features


class OptionalBias(nn.Module):
    """TorchScript does not narrow an attribute."""

    bias: Tensor | None

    def __init__(self, dim: int = 4, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, dim))
        self.bias = torch.zeros(dim) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        if self.bias is not None:
            y = y + self.bias  # hazard: dynamic-type
        return y


class LazyCache(nn.Module):
    """The attribute is None before the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.cache = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        self.cache = y.detach()  # hazard: dynamic-type
        return y * 2


class UnpackEither(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[-1]
        if x.dim() == 4:
            shape = (x.shape[-2], x.shape[-1])  # hazard: dynamic-type
        size = shape[0] * shape[1] if isinstance(shape, tuple) else shape
        return x / size


class AnyInput(nn.Module):
    @staticmethod
    def to_list(value: Any) -> list[Tensor]:
        if not isinstance(value, (list, tuple)):
            return [value]  # hazard: dynamic-type
        return list(value)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.to_list(x), dim=0) + 1


class FloatOrTensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.temperature.exp() if x.shape[0] > 3 else 1.0  # hazard: dynamic-type
        return (x * scale).softmax(-1)


class ShapeThenTensor(nn.Module):
    """The name `norm` is a length at first and a column of lengths for a causal mean."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        norm = x.shape[1]
        if self.causal:
            norm = torch.arange(1, x.shape[1] + 1)[:, None]  # hazard: dynamic-type
        return self.fc(x.cumsum(dim=1) / norm)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def rows(module: nn.Module, name: str, *tail: int) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        return module.eval(), {name: torch.randn(4, *tail)}, [{name: torch.randn(n, *tail)} for n in (3, 5)]

    return {
        "TensorThenTuple": rows(TensorThenTuple(), "x", 5, 4),
        "IntThenTensor": rows(IntThenTensor(), "x", 4),
        "NoneThenTensor": rows(NoneThenTensor(), "x", 3, 4),
        "ReturnsEither": rows(ReturnsEither(), "x", 4),
        "MixedList": rows(MixedList(), "x", 4),
        "MixedDict": rows(MixedDict(), "x", 4),
        "TupleOrTensor": rows(TupleOrTensor(), "x", 3, 4),
        "OptionalBias": rows(OptionalBias(), "x", 4),
        "LazyCache": rows(LazyCache(), "x", 4),
        "UnpackEither": rows(UnpackEither(), "x", 4),
        "AnyInput": rows(AnyInput(), "x", 4),
        "FloatOrTensor": rows(FloatOrTensor(), "x", 4),
        "ShapeThenTensor": rows(ShapeThenTensor(), "x", 5, 4),
    }
