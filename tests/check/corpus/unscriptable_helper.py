"""Models that call helpers which TorchScript cannot compile."""

import itertools
import math
import operator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.corpus import _helpers_wrapped

gelu_tanh = partial(F.gelu, approximate="tanh")
square = lambda x: x * x  # noqa: E731


class WrappedSimilarity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return _helpers_wrapped.cosine(self.fc(a), self.fc(b))  # hazard: unscriptable-helper


class CachedMask(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.key = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        scores = x @ self.key(x).transpose(1, 2)
        scores = scores + _helpers_wrapped.causal_mask(x.shape[1])  # hazard: unscriptable-helper
        return scores.softmax(-1)


class LambdaActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.activation = lambda x: x.clamp(min=0) ** 2

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.fc(x))  # hazard: unscriptable-helper


class ModuleLambda(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return square(x).sum(dim=-1)  # hazard: unscriptable-helper


class ClosurePower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.compress = _helpers_wrapped.power(0.3)
        self.conv = nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, spectrum: Tensor) -> Tensor:
        return self.conv(self.compress(spectrum))  # hazard: unscriptable-helper


class PartialGelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(gelu_tanh(self.fc1(x)))  # hazard: unscriptable-helper


class StarConcat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return _helpers_wrapped.concat(self.left(x), self.right(x), dim=-1)  # hazard: unscriptable-helper


class PlainObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.normalizer = _helpers_wrapped.Normalizer(mean=0.5, std=0.25)
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(self.normalizer.apply(image))  # hazard: unscriptable-helper


class WithoutSource(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return _helpers_wrapped.swish(self.fc(x))  # hazard: unscriptable-helper


class NumpyWindow(nn.Module):
    def forward(self, frames: Tensor) -> Tensor:
        window = np.hanning(frames.shape[-1])  # hazard: unscriptable-helper
        return frames * torch.as_tensor(window, dtype=torch.float32)


class OperatorModule(nn.Module):
    """`operator.matmul` is a function of C."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return operator.matmul(x, self.weight) / math.sqrt(4)  # hazard: unscriptable-helper


class TimedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.times: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        with _helpers_wrapped.timed(self.times):  # hazard: unscriptable-helper
            x = self.fc(x)
        return x


class ActivationRegistry(nn.Module):
    """The name of the activation chose a function at construction."""

    def __init__(self, name: str = "cubic") -> None:
        super().__init__()
        self.act = {"cubic": partial(torch.pow, exponent=3), "relu": torch.relu}[name]
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.act(x)  # hazard: unscriptable-helper


class CornersByProduct(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, i, j] for i, j in itertools.product((0, -1), (0, -1))]  # hazard: unscriptable-helper
        return torch.stack(corners, dim=-1)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def sized(
        module: nn.Module, **tails: tuple[int, ...]
    ) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        inputs = [{name: torch.randn(n, *tail) for name, tail in tails.items()} for n in (4, 3, 5)]
        return module.eval(), inputs[0], inputs[1:]

    return {
        "WrappedSimilarity": sized(WrappedSimilarity(), a=(4,), b=(4,)),
        "CachedMask": sized(CachedMask(), x=(5, 4)),
        "LambdaActivation": sized(LambdaActivation(), x=(4,)),
        "ModuleLambda": sized(ModuleLambda(), x=(4,)),
        "ClosurePower": sized(ClosurePower(), spectrum=(2, 6)),
        "PartialGelu": sized(PartialGelu(), x=(4,)),
        "StarConcat": sized(StarConcat(), x=(4,)),
        "PlainObject": sized(PlainObject(), image=(3, 5, 5)),
        "WithoutSource": sized(WithoutSource(), x=(4,)),
        "NumpyWindow": sized(NumpyWindow(), frames=(6,)),
        "OperatorModule": sized(OperatorModule(), x=(4,)),
        "TimedForward": sized(TimedForward(), x=(4,)),
        "CornersByProduct": sized(CornersByProduct(), x=(3, 5)),
        "ActivationRegistry": sized(ActivationRegistry(), x=(4,)),
    }
