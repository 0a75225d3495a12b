"""Operators that the exporter does not translate, and operators that an engine's parser refuses."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.blind._helpers_few_shot import fit_and_score

# ------------------------------------------------------------- unsupported-onnx-op


class FourierMixer(nn.Module):
    """A layer of FNet."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, hidden: Tensor) -> Tensor:
        mixed = torch.fft.fft2(hidden, dim=(-2, -1)).real  # hazard: unsupported-onnx-op
        return hidden + self.mlp(self.norm(hidden + mixed))


class RobustScaler(nn.Module):
    """Scales every channel of a series by its median before it is forecast."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(10, 4)

    @staticmethod
    def centre(series: Tensor) -> tuple[Tensor, Tensor]:
        level = series.median(dim=-1, keepdim=True).values  # hazard: unsupported-onnx-op
        spread = (series - level).abs().mean(dim=-1, keepdim=True) + 1e-3
        return level, spread

    def forward(self, series: Tensor) -> Tensor:
        level, spread = self.centre(series)
        return self.head((series - level) / spread) * spread + level


class PatchDecoder(nn.Module):
    """Folds overlapping patches back to an image; unfolding them is no trouble."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = nn.Linear(3 * 16, 3 * 16)

    def forward(self, image: Tensor) -> Tensor:
        patches = F.unfold(image, kernel_size=4, stride=2, padding=1)
        patches = self.decode(patches.transpose(1, 2)).transpose(1, 2)
        size = (image.shape[-2], image.shape[-1])
        return F.fold(patches, size, kernel_size=4, stride=2, padding=1)  # hazard: unsupported-onnx-op


class PyramidPooling(nn.Module):
    """Three does not divide the side of the map; two does."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(bins), nn.Conv2d(4, 2, 1)) for bins in (2, 3))

    def forward(self, maps: Tensor) -> Tensor:
        outputs = [stage(maps).flatten(1) for stage in self.stages]  # hazard: unsupported-onnx-op
        return torch.cat(outputs, dim=1)


class FewShotRidge(nn.Module):
    """The solver stands two files away."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 5)

    def forward(self, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        return fit_and_score(self.embed(support), labels, self.embed(query))


def keep_low_bits(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    return output & 15  # hazard: unsupported-onnx-op [HashedEmbedding]


class Hasher(nn.Module):
    """Mixes an identifier as a feature hash does."""

    def forward(self, ids: Tensor) -> Tensor:
        return ids * 31 + 7


class HashedEmbedding(nn.Module):
    """A hook on the hasher folds its numbers into the table."""

    def __init__(self) -> None:
        super().__init__()
        self.hasher = Hasher()
        self.hasher.register_forward_hook(keep_low_bits)
        self.table = nn.Embedding(16, 4)

    def forward(self, item_ids: Tensor) -> Tensor:
        return self.table(self.hasher(item_ids)).sum(dim=1)


# ----------------------------------------------------------- unsupported-engine-op


class AffineFlow(nn.Module):
    """One step of a flow with the determinant of its Jacobian."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(3, 9)

    def forward(self, point: Tensor) -> Tensor:
        matrix = self.maker(point).unflatten(-1, (3, 3))
        moved = (matrix @ point.unsqueeze(-1)).squeeze(-1)
        volume = torch.linalg.det(matrix)  # hazard: unsupported-engine-op
        return torch.cat([moved, volume.abs().log1p().unsqueeze(-1)], dim=-1)


class VoxelScatter(nn.Module):
    """Averages the points of a cloud that fall into the same cell."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Linear(3, 4)

    def forward(self, cloud: Tensor) -> Tensor:
        cell = torch.floor(cloud * 2.0).sum(dim=-1)
        owner = torch.unique(cell, return_inverse=True)[1]  # hazard: unsupported-engine-op
        features = self.point(cloud)
        same = (owner.unsqueeze(0) == owner.unsqueeze(1)).to(features.dtype)
        return same @ features / same.sum(dim=1, keepdim=True)


class TaggerWithLoss(nn.Module):
    """Gives the loss beside the logits, as a training wrapper would."""

    def __init__(self, criterion: Callable[..., Tensor] = F.cross_entropy) -> None:
        super().__init__()
        self.criterion = criterion
        self.embed = nn.Embedding(20, 8)
        self.tag = nn.Linear(8, 5)

    def forward(self, words: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.tag(self.embed(words))
        loss = self.criterion(logits.flatten(0, 1), tags.flatten())  # hazard: unsupported-engine-op
        return logits, loss


class NibbleWeights(nn.Module):
    """Two four-bit weights stand in each byte."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("packed", torch.randint(0, 256, (6, 4), dtype=torch.uint8))
        self.register_buffer("scale", torch.full((4,), 0.05))

    def unpack(self) -> Tensor:
        high = self.packed >> 4  # hazard: unsupported-engine-op
        return (high.to(self.scale.dtype) - 7.5) * self.scale

    def forward(self, activations: Tensor) -> Tensor:
        return activations @ self.unpack()


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def reals(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {name: torch.randn(*shape) for name, shape in shapes.items()}

    def whole(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {name: torch.randint(0, 5, shape) for name, shape in shapes.items()}

    def episode(shots: int, queries: int) -> dict[str, Tensor]:
        labels = F.one_hot(torch.arange(shots) % 3, 3).float().expand(2, -1, -1).contiguous()
        return {**reals(support=(2, shots, 6)), "labels": labels, **reals(query=(2, queries, 6))}

    table = {
        "FourierMixer": (
            FourierMixer(),
            reals(hidden=(2, 6, 8)),
            [reals(hidden=(2, 6, 8)), reals(hidden=(3, 9, 8))],
        ),
        "RobustScaler": (
            RobustScaler(),
            reals(series=(2, 3, 10)),
            [reals(series=(2, 3, 10)), reals(series=(4, 2, 10))],
        ),
        "PatchDecoder": (
            PatchDecoder(),
            reals(image=(2, 3, 8, 8)),
            [reals(image=(2, 3, 8, 8)), reals(image=(3, 3, 12, 8))],
        ),
        "PyramidPooling": (
            PyramidPooling(),
            reals(maps=(2, 4, 8, 8)),
            [reals(maps=(2, 4, 8, 8)), reals(maps=(3, 4, 10, 8))],
        ),
        "FewShotRidge": (FewShotRidge(), episode(6, 4), [episode(6, 4), episode(9, 5)]),
        "HashedEmbedding": (
            HashedEmbedding(),
            whole(item_ids=(2, 4)),
            [whole(item_ids=(2, 4)), whole(item_ids=(3, 7))],
        ),
        "AffineFlow": (AffineFlow(), reals(point=(4, 3)), [reals(point=(4, 3)), reals(point=(7, 3))]),
        "VoxelScatter": (VoxelScatter(), reals(cloud=(12, 3)), [reals(cloud=(12, 3)), reals(cloud=(20, 3))]),
        "TaggerWithLoss": (
            TaggerWithLoss(),
            whole(words=(2, 6), tags=(2, 6)),
            [whole(words=(2, 6), tags=(2, 6)), whole(words=(3, 8), tags=(3, 8))],
        ),
        "NibbleWeights": (
            NibbleWeights(),
            reals(activations=(3, 6)),
            [reals(activations=(3, 6)), reals(activations=(5, 6))],
        ),
    }
    return {name: (module.eval(), example, probes) for name, (module, example, probes) in table.items()}
