"""Models that leave torch in forward: NumPy, SciPy, math, statistics, zlib."""

import math
import statistics
import zlib
from functools import partial

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from scipy.special import expit
from torch import Tensor, nn

from tests.check.blind._helpers_spectral import log_mel


class AcousticFrontEnd(nn.Module):
    """ASR stem: the mel bank is built with NumPy once, the decibels in every call."""

    bank: Tensor

    def __init__(self, bins: int = 17, mels: int = 8, hidden: int = 12) -> None:
        super().__init__()
        centres = np.linspace(0, bins - 1, mels)
        bank = np.maximum(0.0, 1.0 - np.abs(np.arange(bins)[:, None] - centres[None]) / 2.5)
        self.register_buffer("bank", torch.from_numpy(bank.astype(np.float32)))
        self.rnn = nn.GRU(mels, hidden, batch_first=True)

    def forward(self, power: Tensor) -> Tensor:
        features = log_mel(power, self.bank)
        states, _ = self.rnn(features)
        return states


class BoxRanker(nn.Module):
    """Detector head that keeps the best boxes by score."""

    def __init__(self, channels: int = 6, keep: int = 3) -> None:
        super().__init__()
        self.box = nn.Linear(channels, 4)
        self.score = nn.Linear(channels, 1)
        self.keep = keep

    @staticmethod
    def rank(scores: Tensor) -> Tensor:
        order = np.argsort(-scores.detach().numpy())  # hazard: numpy-in-forward
        return torch.from_numpy(order)  # hazard: numpy-in-forward

    def forward(self, anchors: Tensor) -> Tensor:
        boxes = self.box(anchors).sigmoid()
        best = self.rank(self.score(anchors).squeeze(-1))[: self.keep]
        return boxes[best]


class SignedLogForecaster(nn.Module):
    """Time series: signed log transform by NumPy ufuncs applied to the tensor itself."""

    def __init__(self, context: int = 12, horizon: int = 4) -> None:
        super().__init__()
        self.register_buffer("season", torch.from_numpy(np.hanning(context).astype(np.float32)))
        self.trunk = nn.Sequential(nn.Linear(context, 16), nn.GELU(), nn.Linear(16, horizon))

    def forward(self, history: Tensor) -> Tensor:
        squashed = history.sign() * np.log1p(history.abs())  # hazard: numpy-in-forward
        outlook = self.trunk((squashed * self.season).detach())
        return outlook.sign() * torch.expm1(outlook.abs())


class _MedianOverNeighbours(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, stack: Tensor) -> Tensor:
        median = np.median(stack.detach().numpy(), axis=1)  # hazard: numpy-in-forward [MedianAggregation]
        return torch.from_numpy(median)  # hazard: numpy-in-forward [MedianAggregation]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> Tensor:
        return grad.unsqueeze(1)


class MedianAggregation(nn.Module):
    """GNN layer with a robust aggregation of a fixed number of sampled neighbours."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.own = nn.Linear(width, width)
        self.others = nn.Linear(width, width)

    def forward(self, node: Tensor, neighbours: Tensor) -> Tensor:
        gathered = _MedianOverNeighbours.apply(neighbours)
        return torch.relu(self.own(node) + self.others(gathered))


class QuantileClipped(nn.Module):
    """Tabular net; a pre-hook of its first block clips outliers at percentiles of the batch."""

    def __init__(self, columns: int = 7) -> None:
        super().__init__()
        self.stem = nn.Linear(columns, 16)
        self.head = nn.Linear(16, 2)
        self.stem.register_forward_pre_hook(self._clip)

    @staticmethod
    def _clip(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        low, high = np.percentile(inputs[0].detach().numpy(), [5, 95])  # hazard: numpy-in-forward
        return (inputs[0].clamp(float(low), float(high)),)

    def forward(self, table: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(table)))


class LatentFlattener(nn.Module):
    """Diffusion latent scored per element: NumPy is used on the sizes alone."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, latent: Tensor) -> Tensor:
        mixed = self.mix(latent) * self.gain
        elements = int(np.prod(mixed.shape[1:]))  # hazard: numpy-in-forward
        return mixed.flatten(1).square().sum(1) / elements


class HeatmapSmoother(nn.Module):
    """Pose: heatmaps are blurred by SciPy before the soft-argmax."""

    def __init__(self, joints: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, joints, 1))
        self.sigma = 1.5

    def _blur(self, maps: Tensor) -> Tensor:
        smooth = gaussian_filter(maps.detach(), sigma=(0, 0, self.sigma, self.sigma))  # hazard: non-torch-call
        return torch.from_numpy(smooth)  # hazard: numpy-in-forward

    def forward(self, image: Tensor) -> Tensor:
        weights = self._blur(self.backbone(image)).flatten(2).softmax(-1)
        return weights.max(-1).values


class HungarianMatcher:
    """Pairs queries with references by the cheapest assignment."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, queries: Tensor, references: Tensor) -> Tensor:
        cost = self.weight * torch.cdist(queries, references, p=1.0)
        _, columns = linear_sum_assignment(cost.detach())  # hazard: non-torch-call [QueryTracker]
        return references[columns.tolist()]  # hazard: captured-constant [QueryTracker]


class QueryTracker(nn.Module):
    """Tracking by queries, each fused with the memory slot that it is matched to."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.matcher = HungarianMatcher(weight=2.0)
        self.fuse = nn.Linear(2 * width, width)

    def forward(self, queries: Tensor, memory: Tensor) -> Tensor:
        paired = self.matcher(queries, memory)  # hazard: unscriptable-helper
        return self.fuse(torch.cat([queries, paired], dim=-1))


class EnergyNormalised(nn.Module):
    """Speech enhancement: one gain for the utterance, its root taken by the C library."""

    def __init__(self, taps: int = 5) -> None:
        super().__init__()
        self.filter = nn.Conv1d(1, 1, taps, padding=taps // 2)
        self.scale = 1.0 / math.sqrt(taps)

    def forward(self, wave: Tensor) -> Tensor:
        rms = math.sqrt(wave.square().mean())  # hazard: non-torch-call
        filtered = self.filter(wave.unsqueeze(1)).squeeze(1) * self.scale
        return filtered / (rms + 1e-5)


class _RobustCentre(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.affine = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        centre = statistics.median(x.flatten().tolist())  # hazard: non-torch-call [RobustStack]
        return x + self.affine(x - centre)


class RobustStack(nn.Module):
    """Sensor model, residual blocks of which each takes off a median."""

    def __init__(self, width: int = 6, depth: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_RobustCentre(width) for _ in range(depth))

    def forward(self, readings: Tensor) -> Tensor:
        for block in self.blocks:
            readings = block(readings)
        return readings.mean(1)


def _calibrated(logits: Tensor, slope: float, offset: float) -> Tensor:
    return torch.as_tensor(expit(slope * logits.detach() + offset))  # hazard: non-torch-call [PlattScaled]


class PlattScaled(nn.Module):
    """Fraud score, calibrated by Platt's method with SciPy's sigmoid."""

    def __init__(self, columns: int = 9) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(columns, 8), nn.ReLU(), nn.Linear(8, 1))
        self.calibrate = partial(_calibrated, slope=1.7, offset=-0.2)

    def forward(self, record: Tensor) -> Tensor:
        return self.calibrate(self.trunk(record).squeeze(-1))  # hazard: unscriptable-helper


class HashedVocabulary(nn.Module):
    """Recommender with hashed item identities: no table of the catalogue is kept."""

    def __init__(self, buckets: int = 32, width: int = 8) -> None:
        super().__init__()
        self.buckets = buckets
        self.table = nn.EmbeddingBag(buckets, width, mode="mean")
        self.salt = zlib.crc32(b"catalogue")

    def _rows(self, items: Tensor) -> list[list[int]]:
        return [
            [zlib.crc32(b"%d" % item, self.salt) % self.buckets for item in basket]  # hazard: non-torch-call
            for basket in items.tolist()
        ]

    def forward(self, items: Tensor) -> Tensor:
        return self.table(torch.tensor(self._rows(items)))  # hazard: captured-constant


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    r = torch.randn
    return {
        "AcousticFrontEnd": (
            AcousticFrontEnd().eval(),
            {"power": r(2, 9, 17).square()},
            [{"power": r(2, 9, 17).square() * 5}, {"power": r(3, 14, 17).square()}],
        ),
        "BoxRanker": (BoxRanker().eval(), {"anchors": r(10, 6)}, [{"anchors": r(10, 6)}, {"anchors": r(14, 6)}]),
        "SignedLogForecaster": (
            SignedLogForecaster().eval(),
            {"history": r(3, 12)},
            [{"history": r(3, 12) * 4}, {"history": r(5, 12)}],
        ),
        "MedianAggregation": (
            MedianAggregation().eval(),
            {"node": r(4, 8), "neighbours": r(4, 5, 8)},
            [{"node": r(4, 8), "neighbours": r(4, 5, 8)}, {"node": r(6, 8), "neighbours": r(6, 5, 8)}],
        ),
        "QuantileClipped": (
            QuantileClipped().eval(),
            {"table": r(6, 7)},
            [{"table": r(6, 7) * 9}, {"table": r(11, 7) + 2}],
        ),
        "LatentFlattener": (
            LatentFlattener().eval(),
            {"latent": r(2, 4, 8, 8)},
            [{"latent": r(2, 4, 8, 8)}, {"latent": r(3, 4, 6, 10)}],
        ),
        "HeatmapSmoother": (
            HeatmapSmoother().eval(),
            {"image": r(2, 3, 12, 12)},
            [{"image": r(2, 3, 12, 12)}, {"image": r(2, 3, 16, 10)}],
        ),
        "QueryTracker": (
            QueryTracker().eval(),
            {"queries": r(4, 6), "memory": r(5, 6)},
            [{"queries": r(4, 6), "memory": r(5, 6)}, {"queries": r(3, 6), "memory": r(7, 6)}],
        ),
        "EnergyNormalised": (
            EnergyNormalised().eval(),
            {"wave": r(2, 40)},
            [{"wave": r(2, 40) * 6}, {"wave": r(3, 64)}],
        ),
        "RobustStack": (
            RobustStack().eval(),
            {"readings": r(2, 5, 6)},
            [{"readings": r(2, 5, 6) + 3}, {"readings": r(3, 8, 6)}],
        ),
        "PlattScaled": (PlattScaled().eval(), {"record": r(4, 9)}, [{"record": r(4, 9)}, {"record": r(7, 9)}]),
        "HashedVocabulary": (
            HashedVocabulary().eval(),
            {"items": torch.randint(0, 9999, (3, 4))},
            [{"items": torch.randint(0, 9999, (3, 4))}, {"items": torch.randint(0, 9999, (5, 6))}],
        ),
    }
