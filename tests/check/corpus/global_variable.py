"""Models that read module-level variables of Python, which TorchScript refuses."""

import logging
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.corpus import _helpers_config

LOGGER = logging.getLogger(__name__)
MEAN = [0.4, 0.5, 0.6]
LABELS = {"cat": 0, "dog": 1}
NEGATIVE = -1e4
USE_BIAS = bool(int(os.environ.get("CORPUS_USE_BIAS", "1")))
LAPLACE = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
MODE = "relu"
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh}
CALLS = 0


class MaskValue(nn.Module):
    def forward(self, scores: Tensor, padding: Tensor) -> Tensor:
        scores = scores.masked_fill(padding, NEGATIVE)  # hazard: global-variable
        return scores.softmax(dim=-1)


class NormWithGlobalEps(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return _helpers_config.rms_norm(x) * self.gain


class SubtractMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, image: Tensor) -> Tensor:
        mean = torch.tensor(MEAN, device=image.device)  # hazard: global-variable
        return self.conv(image - mean[:, None, None])


class FixedKernel(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        kernel = LAPLACE.expand(image.shape[1], 1, 3, 3)  # hazard: global-variable
        return F.conv2d(image, kernel, padding=1, groups=image.shape[1])


class ClassScore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.fc(x)
        return logits[:, LABELS["dog"]] - logits[:, 0]  # hazard: global-variable


class EnvironmentFlag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.t()
        if USE_BIAS:  # hazard: global-variable
            y = y + self.bias
        return y


class ConfigObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.fc(x)
        return (logits / _helpers_config.CONFIG.temperature).softmax(-1)  # hazard: global-variable


class AnchorLoop(nn.Module):
    def forward(self, centers: Tensor) -> Tensor:
        boxes: list[Tensor] = []
        for scale in _helpers_config.ANCHOR_SCALES:  # hazard: global-variable
            boxes.append(torch.cat([centers - scale / 2, centers + scale / 2], dim=-1))
        return torch.stack(boxes, dim=1)


class CountCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        global CALLS  # hazard: global-variable
        CALLS += 1
        return self.fc(x)


class NamedActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS["tanh"](self.fc(x))  # hazard: global-variable


def _padded(x: Tensor) -> Tensor:
    return F.pad(x, (_helpers_config.CONFIG.window - 1, 0))  # hazard: global-variable [CausalConv]


class CausalConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, _helpers_config.CONFIG.window)

    def forward(self, signal: Tensor) -> Tensor:
        return self.conv(_padded(signal))


class StaticSwitch(nn.Module):
    @staticmethod
    def activate(x: Tensor) -> Tensor:
        return x.relu() if MODE == "relu" else x.tanh()  # hazard: global-variable

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(x).sum(dim=-1)


class LoggedShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        LOGGER.debug("forward")  # hazard: global-variable
        return self.fc(x)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def rows(module: nn.Module, name: str, *tail: int) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        return module.eval(), {name: torch.randn(4, *tail)}, [{name: torch.randn(n, *tail)} for n in (3, 5)]

    def scores(count: int, size: int) -> dict[str, Tensor]:
        return {"scores": torch.randn(count, size), "padding": torch.arange(size).expand(count, size) > size - 3}

    return {
        "MaskValue": (MaskValue().eval(), scores(2, 5), [scores(3, 6), scores(4, 4)]),
        "NormWithGlobalEps": rows(NormWithGlobalEps(), "x", 6),
        "SubtractMean": rows(SubtractMean(), "image", 3, 6, 6),
        "FixedKernel": rows(FixedKernel(), "image", 2, 6, 5),
        "ClassScore": rows(ClassScore(), "x", 5),
        "EnvironmentFlag": rows(EnvironmentFlag(), "x", 4),
        "ConfigObject": rows(ConfigObject(), "x", 4),
        "AnchorLoop": rows(AnchorLoop(), "centers", 2),
        "CountCalls": rows(CountCalls(), "x", 4),
        "NamedActivation": rows(NamedActivation(), "x", 4),
        "CausalConv": rows(CausalConv(), "signal", 2, 7),
        "StaticSwitch": rows(StaticSwitch(), "x", 4),
        "LoggedShape": rows(LoggedShape(), "x", 4),
    }
