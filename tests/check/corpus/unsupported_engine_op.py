"""Models that export to ONNX (opset 17), but whose operators the parser of TensorRT-RTX refuses."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.corpus import _helpers_pool


class FlowLogDet(nn.Module):
    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, dim))
        self.jacobian = nn.Linear(4, dim * dim)

    def forward(self, x: Tensor) -> Tensor:
        jacobian = self.jacobian(x).view(-1, 3, 3) + self.weight
        return torch.linalg.det(jacobian).abs().log()  # hazard: unsupported-engine-op


class GaussianEntropy(nn.Module):
    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.factor = nn.Linear(4, dim * dim)

    def forward(self, x: Tensor) -> Tensor:
        factor = self.factor(x).view(-1, 3, 3)
        return 0.5 * torch.logdet(factor @ factor.transpose(1, 2) + torch.eye(3))  # hazard: unsupported-engine-op


class VocabularyUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        used = torch.unique(ids)  # hazard: unsupported-engine-op
        return self.embed(used).mean(dim=0)


class KeypointPeaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = _helpers_pool.local_maxima(self.conv(image))
        return values, indices


class DilatedPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.pool = nn.MaxPool2d(2, stride=1, dilation=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.pool(self.conv(image))  # hazard: unsupported-engine-op


class GraphMaxPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, nodes: Tensor, graph: Tensor) -> Tensor:
        return _helpers_pool.scatter_max(self.fc(nodes), graph, 3)


class ByteArithmetic(nn.Module):
    """Quantizes to bytes and back, as an image writer does."""

    def forward(self, image: Tensor) -> Tensor:
        levels = (image.sigmoid() * 255).to(torch.uint8)  # hazard: unsupported-engine-op
        return (levels // 16).float() / 15


class ShortAudio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3)

    def forward(self, signal: Tensor) -> Tensor:
        pcm = (signal.tanh() * 32767).to(torch.int16)  # hazard: unsupported-engine-op
        return self.conv(pcm.float() / 32767)


class PerplexityHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lm_head = nn.Linear(4, 6)

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.lm_head(hidden), labels).exp()  # hazard: unsupported-engine-op


class StochasticBinarize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bernoulli(self.fc(x).sigmoid()) * 2 - 1  # hazard: randomness, unsupported-engine-op


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def sized(
        module: nn.Module, **tails: tuple[int, ...]
    ) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        inputs = [{name: torch.randn(n, *tail) for name, tail in tails.items()} for n in (4, 3, 5)]
        return module.eval(), inputs[0], inputs[1:]

    def nodes(count: int) -> dict[str, Tensor]:
        return {"nodes": torch.randn(count, 4), "graph": torch.randint(0, 3, (count,))}

    def labelled(count: int) -> dict[str, Tensor]:
        return {"hidden": torch.randn(count, 4), "labels": torch.randint(0, 6, (count,))}

    return {
        "FlowLogDet": sized(FlowLogDet(), x=(4,)),
        "GaussianEntropy": sized(GaussianEntropy(), x=(4,)),
        "VocabularyUsed": (
            VocabularyUsed().eval(),
            {"ids": torch.randint(0, 10, (2, 5))},
            [{"ids": torch.randint(0, 10, (3, 4))}, {"ids": torch.randint(0, 10, (2, 6))}],
        ),
        "KeypointPeaks": sized(KeypointPeaks(), image=(3, 6, 6)),
        "DilatedPool": sized(DilatedPool(), image=(3, 7, 7)),
        "GraphMaxPool": (GraphMaxPool().eval(), nodes(6), [nodes(5), nodes(8)]),
        "ByteArithmetic": sized(ByteArithmetic(), image=(3, 4)),
        "ShortAudio": sized(ShortAudio(), signal=(2, 6)),
        "PerplexityHead": (PerplexityHead().eval(), labelled(4), [labelled(3), labelled(5)]),
        "StochasticBinarize": sized(StochasticBinarize(), x=(4,)),
    }
