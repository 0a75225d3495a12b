"""Models with double precision somewhere on the way."""

import numpy as np
import torch
from torch import Tensor, nn

from tests.check.corpus import _helpers_double


class DoubleHead(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.trunk = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, 2, dtype=torch.float64)  # hazard: float64

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x).double())  # hazard: float64


class MeanInDouble(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return _helpers_double.stable_mean(self.fc(x))


class NumpyPositions(nn.Module):
    def __init__(self, length: int = 16, dim: int = 6) -> None:
        super().__init__()
        self.register_buffer("pos", _helpers_double.sinusoid(length, dim))  # hazard: float64

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.pos[: tokens.shape[1]]


class DoubleFactory(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], dtype=torch.float64)  # hazard: float64
        weight = torch.exp(-steps[:, None] * self.log_decay.exp())
        return (x * weight.to(x.dtype)).sum(dim=1)


class CastForCumsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(x).sigmoid()
        total = x.cumsum(dim=1, dtype=torch.double)  # hazard: float64
        return total.to(torch.float32)


class FrozenStatistics(nn.Module):
    """Mean and deviation come from a numpy file; np.asarray of python floats is float64."""

    def __init__(self, mean: tuple[float, ...] = (0.4, 0.5, 0.6), std: tuple[float, ...] = (0.2, 0.2, 0.3)) -> None:
        super().__init__()
        self.mean = torch.from_numpy(np.asarray(mean))[:, None, None]  # hazard: float64
        self.std = torch.tensor(std)[:, None, None]
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        image = (image - self.mean) / self.std
        return self.conv(image.float())


class DoubleModel(nn.Module):
    """A model for a solver that asks for double precision throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 5).double())  # hazard: float64
        self.bias = nn.Parameter(torch.zeros(3, dtype=torch.double))  # hazard: float64

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x.to(self.weight), self.weight, self.bias)  # hazard: float64


class NumpyConstant(nn.Module):
    def __init__(self, frequencies: int = 4) -> None:
        super().__init__()
        self.bands = 2.0 ** np.arange(frequencies)

    def forward(self, x: Tensor) -> Tensor:
        angles = x[..., None] * torch.as_tensor(self.bands)  # hazard: float64
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TypeAs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("epsilon", torch.tensor([1e-12], dtype=torch.float64))  # hazard: float64

    def forward(self, x: Tensor) -> Tensor:
        norm = x.type_as(self.epsilon).pow(2).sum(dim=-1, keepdim=True).sqrt()  # hazard: float64
        return x / norm.type_as(x)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def rows(module: nn.Module, name: str, *tail: int) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        return module.eval(), {name: torch.randn(4, *tail)}, [{name: torch.randn(n, *tail)} for n in (3, 5)]

    return {
        "DoubleHead": rows(DoubleHead(), "x", 6),
        "MeanInDouble": rows(MeanInDouble(), "x", 6),
        "NumpyPositions": rows(NumpyPositions(), "tokens", 5, 6),
        "DoubleFactory": rows(DoubleFactory(), "x", 5, 4),
        "CastForCumsum": rows(CastForCumsum(), "x", 5, 4),
        "FrozenStatistics": rows(FrozenStatistics(), "image", 3, 6, 6),
        "DoubleModel": rows(DoubleModel(), "x", 5),
        "NumpyConstant": rows(NumpyConstant(), "x", 3),
        "TypeAs": rows(TypeAs(), "x", 4),
    }
