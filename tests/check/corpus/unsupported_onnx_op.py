"""Models with operators that the ONNX export (opset 17) cannot translate."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.corpus import _helpers_linalg


class Whitening(nn.Module):
    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(_helpers_linalg.whiten(x))


class LowRank(nn.Module):
    """Keeps the two leading singular values of each matrix."""

    def forward(self, x: Tensor) -> Tensor:
        u, s, vh = torch.linalg.svd(x, full_matrices=False)  # hazard: unsupported-onnx-op
        return (u[..., :2] * s[..., None, :2]) @ vh[..., :2, :]


class SpectralGate(nn.Module):
    def __init__(self, length: int = 8) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.rand(length // 2 + 1))

    def forward(self, signal: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(signal)  # hazard: unsupported-onnx-op
        return torch.fft.irfft(spectrum * self.gate, n=8)  # hazard: unsupported-onnx-op


class ComplexRotary(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.register_buffer("rate", 1.0 / 100 ** (torch.arange(0, dim, 2) / dim))

    def forward(self, tokens: Tensor) -> Tensor:
        angles = torch.arange(tokens.shape[1])[:, None] * self.rate
        return _helpers_linalg.rotate_half_complex(tokens, angles)


class RidgeReadout(nn.Module):
    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.target = nn.Parameter(torch.randn(dim, 2))
        self.register_buffer("ridge", 0.1 * torch.eye(dim))

    def forward(self, x: Tensor) -> Tensor:
        gram = x.t() @ x + self.ridge
        return x @ torch.linalg.solve(gram, self.target)  # hazard: unsupported-onnx-op


class MedianFilter(nn.Module):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.size = size

    def forward(self, signal: Tensor) -> Tensor:
        windows = torch.stack([signal.roll(shift, dims=-1) for shift in range(self.size)], dim=-1)
        return windows.median(dim=-1).values  # hazard: unsupported-onnx-op


class Histogram(nn.Module):
    def __init__(self, bins: int = 4) -> None:
        super().__init__()
        self.bins = bins
        self.fc = nn.Linear(bins, 2)

    def forward(self, x: Tensor) -> Tensor:
        counts = torch.histc(x, self.bins, min=-1.0, max=1.0)  # hazard: unsupported-onnx-op
        return self.fc(counts / counts.sum())


class BinnedDistance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(0.0, 4.0, 7))
        self.embed = nn.Embedding(8, 3)

    def forward(self, points: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(points[:, :, None] - points[:, None], dim=-1)
        return self.embed(torch.searchsorted(self.edges, distance))  # hazard: unsupported-onnx-op


class DirichletPrior(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.concentration = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        alpha = F.softplus(self.concentration(x)) + 1
        log_norm = alpha.lgamma().sum(-1)  # hazard: unsupported-onnx-op
        return log_norm - alpha.sum(-1).lgamma()  # hazard: unsupported-onnx-op


class CumulativeHazard(nn.Module):
    """Survival up to each interval, as in discrete-time survival models."""

    def __init__(self) -> None:
        super().__init__()
        self.rates = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.rates(x).sigmoid()).cumprod(dim=-1)  # hazard: unsupported-onnx-op


class BlockOfRotations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.skew = nn.Parameter(torch.randn(4, 4))

    @property
    def rotation(self) -> Tensor:
        return torch.matrix_exp(self.skew - self.skew.t())  # hazard: unsupported-onnx-op

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.rotation


class TopQuantile(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        bound = torch.quantile(scores, 0.75, dim=-1, keepdim=True)  # hazard: unsupported-onnx-op
        return torch.where(scores >= bound, scores, torch.zeros_like(scores))


class PairwiseSpread(nn.Module):
    """A lambda over the pairs of rows, as in a metric head."""

    def __init__(self) -> None:
        super().__init__()
        self.distance = lambda t: F.pdist(t, p=2.0)  # hazard: unsupported-onnx-op
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.distance(self.fc(x)).mean()  # hazard: unscriptable-helper


class VolumeSampler(nn.Module):
    def forward(self, volume: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(volume, grid, align_corners=False)  # hazard: unsupported-onnx-op


class ProjectedLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 5, proj_size=3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]  # hazard: unsupported-onnx-op


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def sized(
        module: nn.Module, **tails: tuple[int, ...]
    ) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        inputs = [{name: torch.randn(n, *tail) for name, tail in tails.items()} for n in (4, 3, 5)]
        return module.eval(), inputs[0], inputs[1:]

    return {
        "Whitening": sized(Whitening(), x=(3,)),
        "LowRank": sized(LowRank(), x=(4, 5)),
        "SpectralGate": sized(SpectralGate(), signal=(8,)),
        "ComplexRotary": sized(ComplexRotary(), tokens=(5, 4)),
        "RidgeReadout": sized(RidgeReadout(), x=(3,)),
        "MedianFilter": sized(MedianFilter(), signal=(7,)),
        "Histogram": sized(Histogram(), x=(6,)),
        "BinnedDistance": sized(BinnedDistance(), points=(5, 3)),
        "DirichletPrior": sized(DirichletPrior(), x=(4,)),
        "CumulativeHazard": sized(CumulativeHazard(), x=(4,)),
        "BlockOfRotations": sized(BlockOfRotations(), x=(4,)),
        "TopQuantile": sized(TopQuantile(), scores=(6,)),
        "PairwiseSpread": sized(PairwiseSpread(), x=(4,)),
        "VolumeSampler": sized(VolumeSampler(), volume=(2, 3, 4, 4), grid=(2, 3, 3, 3)),
        "ProjectedLstm": sized(ProjectedLstm(), x=(5, 4)),
    }
