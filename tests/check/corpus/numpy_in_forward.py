"""Models that go through NumPy on the way from input to output."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tests.check.corpus import _helpers_arrays


class SortedFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        ordered = torch.from_numpy(np.sort(x.numpy(), axis=-1))  # hazard: numpy-in-forward
        return self.fc(ordered)


class WindowedFrames(nn.Module):
    """The window is kept as an array and not as a buffer."""

    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.window = np.hanning(size).astype(np.float32)
        self.mel = nn.Linear(size, 3)

    def forward(self, frames: Tensor) -> Tensor:
        return self.mel(frames * torch.from_numpy(self.window))  # hazard: numpy-in-forward


class SoftplusByNumpy(nn.Module):
    """A NumPy function takes the tensor as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(np.logaddexp(x, torch.zeros_like(x)))  # hazard: numpy-in-forward


class RankFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(_helpers_arrays.relative_ranks(x))


class FixedPointOutput(nn.Module):
    """A forward hook rounds the logits as the device will."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.head.register_forward_hook(self._to_grid)

    @staticmethod
    def _to_grid(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return torch.tensor(np.round(out.detach().numpy() * 64.0) / np.float32(64.0))  # hazard: numpy-in-forward

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).softmax(dim=-1)


class DiscreteIntegral(nn.Module):
    """A decorator lets a method work on arrays."""

    @_helpers_arrays.on_arrays
    def _integrate(self, signal: np.ndarray) -> np.ndarray:
        return np.cumsum(signal, axis=-1)  # hazard: numpy-in-forward

    def forward(self, signal: Tensor) -> Tensor:
        return self._integrate(signal) / signal.size(-1)


class ChannelReorder(nn.Module):
    """RGB to BGR by an array of indices."""

    def __init__(self) -> None:
        super().__init__()
        self.order = np.array([2, 1, 0])
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image[:, self.order])  # hazard: numpy-in-forward


class ImageNetNormalise(nn.Module):
    """A property turns the constants into tensors each time."""

    def __init__(self) -> None:
        super().__init__()
        self._stats = {"mean": np.float32([0.485, 0.456, 0.406]), "std": np.float32([0.229, 0.224, 0.225])}

    @property
    def mean(self) -> Tensor:
        return torch.tensor(self._stats["mean"]).view(3, 1, 1)  # hazard: numpy-in-forward

    @property
    def std(self) -> Tensor:
        return torch.tensor(self._stats["std"]).view(3, 1, 1)  # hazard: numpy-in-forward

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class LookupTable:
    """A tone curve as an array."""

    def __init__(self, levels: int, gamma: float) -> None:
        self.table = (np.linspace(0.0, 1.0, levels) ** gamma).astype(np.float32)

    def __call__(self, codes: Tensor) -> Tensor:
        return torch.from_numpy(self.table[codes.numpy()])  # hazard: numpy-in-forward [ToneCurve]


class ToneCurve(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.curve = LookupTable(8, 2.2)
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, codes: Tensor) -> Tensor:
        return self.conv(self.curve(codes).unsqueeze(1))


class MirroredViews(nn.Module):
    """Test-time augmentation over two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        views = [torch.from_numpy(np.flip(v.numpy(), -1).copy()) for v in (left, right)]  # hazard: numpy-in-forward
        return torch.stack([self.conv(view) for view in (left, right, *views)]).mean(dim=0)


class Apply(nn.Module):
    def __init__(self, fn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x)


class LogCompressed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Apply(lambda x: torch.from_numpy(np.log1p(np.abs(x.numpy())))),  # hazard: numpy-in-forward
            nn.Linear(4, 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ArrayPostprocess(nn.Module):
    """The base of the segmenters; the result is cleaned on the host."""

    def _clean(self, probabilities: Tensor) -> Tensor:
        array = probabilities.detach().numpy()  # hazard: numpy-in-forward [Segmenter]
        array = np.where(array > 0.5, array, np.zeros_like(array))  # hazard: numpy-in-forward [Segmenter]
        return torch.from_numpy(array)  # hazard: numpy-in-forward [Segmenter]


class Segmenter(ArrayPostprocess):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self._clean(self.conv(image).sigmoid())


def interpolator(knots: np.ndarray, values: np.ndarray) -> Callable[[Tensor], Tensor]:
    def interpolate(x: Tensor) -> Tensor:
        y = np.interp(x.detach().numpy(), knots, values)  # hazard: numpy-in-forward [CalibratedScore]
        return torch.from_numpy(y.astype(np.float32))  # hazard: numpy-in-forward [CalibratedScore]

    return interpolate


class CalibratedScore(nn.Module):
    """Calibrates by a curve that a closure holds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 1)
        self.calibrate = interpolator(np.linspace(-2.0, 2.0, 5), np.linspace(0.0, 1.0, 5) ** 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.calibrate(self.fc(x))


class SpectralEnergy(nn.Module):
    """An array leaves the tensor by its protocol method."""

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = np.fft.rfft(wave.__array__(), axis=-1)  # hazard: numpy-in-forward
        return torch.from_numpy(np.abs(spectrum).astype("float32"))  # hazard: numpy-in-forward


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    built: dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]] = {
        "SortedFeatures": (
            SortedFeatures(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 2.0 * torch.randn(2, 4)}],
        ),
        "WindowedFrames": (
            WindowedFrames(),
            {"frames": torch.randn(2, 3, 6)},
            [{"frames": torch.randn(3, 3, 6)}, {"frames": torch.randn(2, 5, 6)}],
        ),
        "SoftplusByNumpy": (
            SoftplusByNumpy(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 3.0 * torch.randn(2, 5)}],
        ),
        "RankFeatures": (
            RankFeatures(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": torch.randn(2, 4)}],
        ),
        "FixedPointOutput": (
            FixedPointOutput(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": torch.randn(2, 4)}],
        ),
        "DiscreteIntegral": (
            DiscreteIntegral(),
            {"signal": torch.randn(2, 5)},
            [{"signal": torch.randn(3, 5)}, {"signal": torch.randn(2, 7)}],
        ),
        "ChannelReorder": (
            ChannelReorder(),
            {"image": torch.randn(2, 3, 4, 4)},
            [{"image": torch.randn(3, 3, 4, 4)}, {"image": torch.randn(2, 3, 5, 6)}],
        ),
        "ImageNetNormalise": (
            ImageNetNormalise(),
            {"image": torch.rand(2, 3, 4, 4)},
            [{"image": torch.rand(3, 3, 4, 4)}, {"image": torch.rand(2, 3, 5, 6)}],
        ),
        "ToneCurve": (
            ToneCurve(),
            {"codes": torch.randint(8, (2, 3, 4))},
            [{"codes": torch.randint(8, (3, 3, 4))}, {"codes": torch.randint(8, (2, 4, 5))}],
        ),
        "MirroredViews": (
            MirroredViews(),
            {"left": torch.randn(2, 2, 5), "right": torch.randn(2, 2, 5)},
            [
                {"left": torch.randn(3, 2, 5), "right": torch.randn(3, 2, 5)},
                {"left": torch.randn(2, 2, 6), "right": torch.randn(2, 2, 6)},
            ],
        ),
        "LogCompressed": (
            LogCompressed(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 9.0 * torch.randn(2, 4)}],
        ),
        "Segmenter": (
            Segmenter(),
            {"image": torch.randn(2, 2, 4, 4)},
            [{"image": torch.randn(3, 2, 4, 4)}, {"image": torch.randn(2, 2, 5, 6)}],
        ),
        "CalibratedScore": (
            CalibratedScore(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 2.0 * torch.randn(5, 4)}],
        ),
        "SpectralEnergy": (
            SpectralEnergy(),
            {"wave": torch.randn(2, 8)},
            [{"wave": torch.randn(3, 8)}, {"wave": torch.randn(2, 6)}],
        ),
    }
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
