"""Models whose forward names a device or asks which one it is on."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.check.corpus import _helpers_tables

HOST = torch.device("cpu")


class CausalSelfAttention(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        length = x.size(1)
        mask = torch.full((length, length), float("-inf"), device="cpu").triu(1)  # hazard: captured-device
        return (q @ k.transpose(1, 2) + mask).softmax(dim=-1) @ v


class ZeroStateLSTM(nn.Module):
    """The initial state is made on a device that the module names."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def _initial(self, batch: int) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(1, batch, 4, device=HOST)  # hazard: captured-device
        return zeros, zeros

    def forward(self, x: Tensor) -> Tensor:
        output, _ = self.lstm(x, self._initial(x.size(0)))
        return output


class HostSort(nn.Module):
    """Sorts on the host, where the sort of the device was once too slow."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(3, 1)

    def forward(self, candidates: Tensor) -> Tensor:
        scores = self.score(candidates).squeeze(-1)
        order = scores.cpu().argsort(dim=1, descending=True)  # hazard: captured-device
        return candidates.gather(1, order.unsqueeze(-1).expand(-1, -1, candidates.size(2)))


class PyramidHead(nn.Module):
    """The maps of all levels are collected two files away."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(2, 3, 1)
        self.regress = nn.Conv2d(2, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        levels = [image, F.avg_pool2d(image, 2)]
        outputs = {"cls": [self.classify(level) for level in levels], "box": [self.regress(level) for level in levels]}
        return _helpers_tables.merge_levels(outputs)


class FusedOrPlainGelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc(x)
        if hidden.is_cuda:  # hazard: captured-device
            return F.gelu(hidden, approximate="tanh")
        return F.gelu(hidden)


def half_on_gpu(method: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Rounds the input to half precision where that is what the hardware computes in."""

    @functools.wraps(method)
    def wrapper(self: nn.Module, x: Tensor) -> Tensor:
        if x.device.type == "cuda":  # hazard: captured-device [MixedPrecisionBlock]
            x = x.half().float()
        return method(self, x)

    return wrapper


class MixedPrecisionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    @half_on_gpu
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class DeviceOnSelf(nn.Module):
    """The device is an argument of the constructor, as in much research code."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.fc = nn.Linear(4, 3).to(self.device)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.device)  # hazard: captured-device
        return self.fc(x)


class PositionedEncoder(nn.Module):
    """Uses a helper whose default argument is a device."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x) + _helpers_tables.sinusoid(x.size(1), self.dim)


class ToDevice:
    """A transform, to be called on each output."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, x: Tensor) -> Tensor:
        return x.to(device=self.device, non_blocking=True)  # hazard: captured-device [OffloadedFeatures]


class OffloadedFeatures(nn.Module):
    """A forward hook takes the features off the accelerator."""

    def __init__(self) -> None:
        super().__init__()
        offload = ToDevice("cpu")
        self.backbone = nn.Conv1d(2, 3, 3)
        self.backbone.register_forward_hook(lambda module, args, out: offload(out))

    def forward(self, wave: Tensor) -> Tensor:
        return self.backbone(wave).amax(dim=-1)


class RelativeBias(nn.Module):
    """The index lies in a nested container that is made in each call."""

    def __init__(self, reach: int = 8) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2 * reach))
        self.reach = reach

    def forward(self, scores: Tensor) -> Tensor:
        length = scores.size(-1)
        grid = {"pos": {"q": torch.arange(length, device="cpu")}}  # hazard: captured-device
        query = grid["pos"]["q"]
        return scores + self.bias[query.unsqueeze(1) - query.unsqueeze(0) + self.reach]


class LegacyMasking(nn.Module):
    """Code from before torch 0.4 names the tensor type, and with it the device."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        keep = ids.ne(0).type(torch.FloatTensor)  # hazard: captured-device
        return self.embed(ids) * keep.unsqueeze(-1)


class GpuPolicy(nn.Module):
    """The base of blocks that go by the number of the device."""

    @staticmethod
    def _rounds(x: Tensor) -> int:
        return 4 if x.get_device() >= 0 else 2  # hazard: captured-device [PowerIteration]


class PowerIteration(GpuPolicy):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self._rounds(x)):
            x = F.normalize(x @ self.weight, dim=-1)
        return x


class AnchorPoints(nn.Module):
    """A property makes the grid on the device that the class names."""

    TARGET = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(2, 2, 1)

    @property
    def anchors(self) -> Tensor:
        return torch.linspace(0.0, 1.0, 4, device=self.TARGET)  # hazard: captured-device

    def forward(self, image: Tensor) -> Tensor:
        return self.offsets(image) + self.anchors


class ScatterCount(nn.Module):
    """Counts ids in a tensor whose type and device stand in one dictionary of options."""

    OPTIONS = {"dtype": torch.float32, "device": HOST}

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        counts = torch.zeros(ids.size(0), 6, **self.OPTIONS)  # hazard: captured-device
        return counts.scatter_add(1, ids, weights)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    built: dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]] = {
        "CausalSelfAttention": (
            CausalSelfAttention(),
            {"x": torch.randn(2, 3, 4)},
            [{"x": torch.randn(3, 3, 4)}, {"x": torch.randn(2, 5, 4)}],
        ),
        "ZeroStateLSTM": (
            ZeroStateLSTM(),
            {"x": torch.randn(2, 4, 3)},
            [{"x": torch.randn(2, 6, 3)}, {"x": torch.randn(3, 4, 3)}],
        ),
        "HostSort": (
            HostSort(),
            {"candidates": torch.randn(2, 5, 3)},
            [{"candidates": torch.randn(3, 5, 3)}, {"candidates": torch.randn(2, 7, 3)}],
        ),
        "PyramidHead": (
            PyramidHead(),
            {"image": torch.randn(2, 2, 4, 4)},
            [{"image": torch.randn(3, 2, 4, 4)}, {"image": torch.randn(2, 2, 4, 6)}],
        ),
        "FusedOrPlainGelu": (
            FusedOrPlainGelu(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 2.0 * torch.randn(2, 4)}],
        ),
        "MixedPrecisionBlock": (
            MixedPrecisionBlock(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": torch.randn(5, 4)}],
        ),
        "DeviceOnSelf": (
            DeviceOnSelf(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": torch.randn(5, 4)}],
        ),
        "PositionedEncoder": (
            PositionedEncoder(),
            {"x": torch.randn(2, 3, 4)},
            [{"x": torch.randn(3, 3, 4)}, {"x": torch.randn(2, 6, 4)}],
        ),
        "OffloadedFeatures": (
            OffloadedFeatures(),
            {"wave": torch.randn(2, 2, 6)},
            [{"wave": torch.randn(3, 2, 6)}, {"wave": torch.randn(2, 2, 9)}],
        ),
        "RelativeBias": (
            RelativeBias(),
            {"scores": torch.randn(2, 4, 4)},
            [{"scores": torch.randn(3, 4, 4)}, {"scores": torch.randn(2, 6, 6)}],
        ),
        "LegacyMasking": (
            LegacyMasking(),
            {"ids": torch.randint(8, (2, 4))},
            [{"ids": torch.randint(8, (3, 4))}, {"ids": torch.randint(8, (2, 6))}],
        ),
        "PowerIteration": (
            PowerIteration(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": torch.randn(2, 4)}],
        ),
        "AnchorPoints": (
            AnchorPoints(),
            {"image": torch.randn(2, 2, 3, 4)},
            [{"image": torch.randn(3, 2, 3, 4)}, {"image": torch.randn(2, 2, 5, 4)}],
        ),
        "ScatterCount": (
            ScatterCount(),
            {"ids": torch.randint(6, (2, 3)), "weights": torch.rand(2, 3)},
            [
                {"ids": torch.randint(6, (3, 3)), "weights": torch.rand(3, 3)},
                {"ids": torch.randint(6, (2, 5)), "weights": torch.rand(2, 5)},
            ],
        ),
    }
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
