"""Models that hand the data of a tensor to functions outside torch."""

import bisect
import colorsys
import heapq
import math
import statistics
import zlib
from collections.abc import Callable
from functools import wraps

import torch
from scipy import linalg, ndimage, optimize, special
from torch import Tensor, nn

from tests.check.corpus import _helpers_calculus


class VarianceScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x / math.sqrt(x.var() + 1e-5))  # hazard: non-torch-call


class ExponentialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        gate = math.exp(-x.abs().mean().item())  # hazard: non-torch-call
        return gate * self.fc(x) + (1.0 - gate) * x


class SmoothedHeatmap(nn.Module):
    """Smooths the heatmap with SciPy before the peak is looked for."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        heat = self.conv(image).detach()
        smooth = ndimage.gaussian_filter(heat, sigma=(0.0, 0.0, 1.0, 1.0))  # hazard: non-torch-call
        return torch.as_tensor(smooth).flatten(1).softmax(dim=-1)


class BesselFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, distances: Tensor) -> Tensor:
        features = [torch.as_tensor(fn(distances)) for fn in (special.j0, special.j1)]  # hazard: non-torch-call
        return self.fc(torch.cat(features, dim=-1))


class RobustCentre(nn.Module):
    """Centres by the median that the standard library works out."""

    @staticmethod
    def _centre(x: Tensor) -> float:
        return statistics.median(x.flatten().tolist())  # hazard: non-torch-call

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x - self._centre(x))


class BucketEmbedding(nn.Module):
    """Finds the bucket of the mean level by bisection."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = [-1.0, 0.0, 1.0, 2.0]
        self.embed = nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        bucket = bisect.bisect_right(self.edges, float(x.mean()))  # hazard: non-torch-call
        return x + self.embed.weight[bucket]


class AutomaticGain(nn.Module):
    def __init__(self, target: float = -20.0) -> None:
        super().__init__()
        self.fir = nn.Conv1d(1, 1, 3, padding=1)
        self.target = target

    def forward(self, wave: Tensor) -> Tensor:
        missing = _helpers_calculus.distance_to(self.target, wave)
        return self.fir(wave) * 10.0 ** (missing / 20.0)


def tinted(method: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Adds the hue, saturation and value of the mean colour to what a method gives."""

    @wraps(method)
    def wrapper(self: nn.Module, image: Tensor) -> Tensor:
        hsv = colorsys.rgb_to_hsv(*image.mean(dim=(0, 2, 3)).tolist())  # hazard: non-torch-call [ColourTint]
        return method(self, image) + image.new_tensor(hsv).view(3, 1, 1)

    return wrapper


class ColourTint(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    @tinted
    def forward(self, image: Tensor) -> Tensor:
        return self.conv(image)


class HashedPrompt(nn.Module):
    """The hashing trick: a checksum of the prompt picks the row."""

    def __init__(self, rows: int = 13) -> None:
        super().__init__()
        self.embed = nn.Embedding(rows, 4)
        self.tokens = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        row = zlib.crc32(bytes(ids.flatten().tolist())) % self.embed.num_embeddings  # hazard: non-torch-call
        return self.tokens(ids) + self.embed.weight[row]


class HungarianMatcher(nn.Module):
    """The assignment of DETR."""

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        cost = torch.cdist(predictions, targets)
        rows, columns = optimize.linear_sum_assignment(cost)  # hazard: non-torch-call
        return predictions[torch.as_tensor(rows)] - targets[torch.as_tensor(columns)]


class MatrixRotation(nn.Module):
    """Builds a rotation from its generator."""

    def __init__(self) -> None:
        super().__init__()
        self.to_generator = nn.Linear(4, 9)

    def forward(self, pose: Tensor, points: Tensor) -> Tensor:
        raw = self.to_generator(pose).view(3, 3)
        generator = (raw - raw.t()).detach()
        return points @ torch.as_tensor(linalg.expm(generator))  # hazard: non-torch-call


class BeamScores(nn.Module):
    def __init__(self, beam: int = 2) -> None:
        super().__init__()
        self.lm = nn.Linear(4, 5)
        self.beam = beam

    def forward(self, state: Tensor) -> Tensor:
        flat = self.lm(state).log_softmax(dim=-1).flatten()
        best = heapq.nlargest(self.beam, flat.tolist())  # hazard: non-torch-call
        return flat.new_tensor(best).cumsum(dim=0)


class EntropyHook:
    """Scales an output by the entropy of its distribution."""

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        chances = out.softmax(dim=-1).detach()
        return out / (1.0 + math.fsum(special.entr(chances).flatten()))  # hazard: non-torch-call [EntropyScaled]


class EntropyScaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.head.register_forward_hook(EntropyHook())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class AngleBase(nn.Module):
    """The angle of the mean direction."""

    @property
    def angle(self) -> Callable[[Tensor], float]:
        return lambda mean: math.atan2(mean[1], mean[0])  # hazard: non-torch-call [CanonicalFrame]


class CanonicalFrame(AngleBase):
    """Turns points into the frame in which their mean lies on the x axis."""

    def forward(self, points: Tensor) -> Tensor:
        angle = self.angle(points.mean(dim=0))
        cos, sin = torch.cos(points.new_tensor(angle)), torch.sin(points.new_tensor(angle))
        return torch.stack([points[:, 0] * cos + points[:, 1] * sin, points[:, 1] * cos - points[:, 0] * sin], dim=1)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    built: dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]] = {
        "VarianceScale": (
            VarianceScale(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 4.0 * torch.randn(2, 4)}],
        ),
        "ExponentialGate": (
            ExponentialGate(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 3.0 * torch.randn(2, 4)}],
        ),
        "SmoothedHeatmap": (
            SmoothedHeatmap(),
            {"image": torch.randn(2, 2, 4, 4)},
            [{"image": torch.randn(3, 2, 4, 4)}, {"image": torch.randn(2, 2, 5, 6)}],
        ),
        "BesselFeatures": (
            BesselFeatures(),
            {"distances": torch.rand(2, 4)},
            [{"distances": torch.rand(3, 4)}, {"distances": 3.0 * torch.rand(2, 4)}],
        ),
        "RobustCentre": (
            RobustCentre(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 5)}, {"x": 2.0 + torch.randn(2, 4)}],
        ),
        "BucketEmbedding": (
            BucketEmbedding(),
            {"x": 0.5 + 0.1 * torch.randn(2, 4)},
            [{"x": 0.5 + 0.1 * torch.randn(3, 4)}, {"x": 5.0 + torch.randn(2, 4)}],
        ),
        "AutomaticGain": (
            AutomaticGain(),
            {"wave": torch.randn(2, 1, 6)},
            [{"wave": torch.randn(3, 1, 6)}, {"wave": 0.1 * torch.randn(2, 1, 8)}],
        ),
        "ColourTint": (
            ColourTint(),
            {"image": torch.rand(2, 3, 4, 4)},
            [{"image": torch.rand(3, 3, 4, 4)}, {"image": torch.rand(2, 3, 5, 6)}],
        ),
        "HashedPrompt": (
            HashedPrompt(),
            {"ids": torch.randint(10, (2, 4))},
            [{"ids": torch.randint(10, (3, 4))}, {"ids": torch.randint(10, (2, 6))}],
        ),
        "HungarianMatcher": (
            HungarianMatcher(),
            {"predictions": torch.randn(4, 3), "targets": torch.randn(3, 3)},
            [
                {"predictions": torch.randn(4, 3), "targets": torch.randn(3, 3)},
                {"predictions": torch.randn(6, 3), "targets": torch.randn(4, 3)},
            ],
        ),
        "MatrixRotation": (
            MatrixRotation(),
            {"pose": torch.randn(4), "points": torch.randn(5, 3)},
            [
                {"pose": torch.randn(4), "points": torch.randn(6, 3)},
                {"pose": 2.0 * torch.randn(4), "points": torch.randn(5, 3)},
            ],
        ),
        "BeamScores": (
            BeamScores(),
            {"state": torch.randn(2, 4)},
            [{"state": torch.randn(3, 4)}, {"state": 2.0 * torch.randn(2, 4)}],
        ),
        "EntropyScaled": (
            EntropyScaled(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 9.0 * torch.randn(2, 4)}],
        ),
        "CanonicalFrame": (
            CanonicalFrame(),
            {"points": 1.0 + torch.randn(4, 2)},
            [{"points": torch.randn(5, 2) - 1.0}, {"points": torch.randn(4, 2)}],
        ),
    }
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
