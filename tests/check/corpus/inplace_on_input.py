"""Models that write into their input tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.corpus import _helpers_inplace


class AugmentedAdd(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        residual += self.fc(x)  # hazard: inplace-on-input
        return residual.relu()


class ScaledInput(nn.Module):
    def __init__(self, scale: float = 1 / 255) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.scale = scale

    def forward(self, image: Tensor) -> Tensor:
        image.mul_(self.scale)  # hazard: inplace-on-input
        return self.conv(image)


class DropChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x[..., 0] = 0.0  # hazard: inplace-on-input
        return self.fc(x)


class OutIsInput(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        torch.maximum(a, b, out=a)  # hazard: inplace-on-input, unsupported-onnx-op
        return a.sum(dim=-1)


class ClampedLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, logits: Tensor) -> Tensor:
        logits = logits.clamp_(min=-1.0, max=1.0) / self.temperature  # hazard: inplace-on-input
        return logits.softmax(-1)


class ThroughView(nn.Module):
    """The view shares the storage of the boxes."""

    def forward(self, boxes: Tensor, offset: Tensor) -> Tensor:
        corners = boxes.view(-1, 2, 2)
        corners[:, 1] -= corners[:, 0]  # hazard: inplace-on-input
        return corners + offset


class ThroughUnbind(nn.Module):
    def forward(self, points: Tensor) -> Tensor:
        x, y, z = points.unbind(-1)
        y.neg_()  # hazard: inplace-on-input
        return torch.stack([x, z], dim=-1) + points[..., 1:2]


class NormalizedImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(_helpers_inplace.normalize_(image, 0.45, 0.22))


class ForcedBos(nn.Module):
    def __init__(self, vocab: int = 12, dim: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)

    def forward(self, ids: Tensor) -> Tensor:
        return self.embed(_helpers_inplace.add_special(ids, 1)).mean(dim=1)


class CallableClip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.clip = _helpers_inplace.ClipOutliers(0.5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.clip(x))


class InplaceActivation(nn.Module):
    """The pre-activation of a residual block overwrites the input of the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.act(x))  # hazard: inplace-on-input


class FunctionalInplace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.leaky_relu(x, 0.1, inplace=True))  # hazard: inplace-on-input


class MaskedScores(nn.Module):
    def forward(self, scores: Tensor, padding: Tensor) -> Tensor:
        scores.masked_fill_(padding, float("-inf"))  # hazard: inplace-on-input
        return scores.softmax(-1)


class CacheUpdate(nn.Module):
    """The new key is written into the cache that the caller hands over."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.key = nn.Linear(dim, dim)

    def forward(self, x: Tensor, cache: Tensor, position: Tensor) -> Tensor:
        cache.index_copy_(1, position, self.key(x))  # hazard: inplace-on-input
        return x @ cache.transpose(1, 2)


class _PreNorm(nn.Module):
    def preprocess(self, x: Tensor) -> Tensor:
        x -= x.mean(dim=-1, keepdim=True)  # hazard: inplace-on-input [InheritedPreprocess]
        return x


class InheritedPreprocess(_PreNorm):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.preprocess(x))


class WrittenThroughDetach(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        clean = x.detach().contiguous()
        clean[clean < 0] = 0.0  # hazard: inplace-on-input
        return self.fc(x)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def sized(
        module: nn.Module, **tails: tuple[int, ...]
    ) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        inputs = [{name: torch.randn(n, *tail) for name, tail in tails.items()} for n in (4, 3, 5)]
        return module.eval(), inputs[0], inputs[1:]

    def scores(rows: int, size: int) -> dict[str, Tensor]:
        return {"scores": torch.randn(rows, size), "padding": torch.arange(size).expand(rows, size) >= size - 2}

    def cache(batch: int, at: int) -> dict[str, Tensor]:
        x, past = torch.randn(batch, 1, 4), torch.randn(batch, 6, 4)
        return {"x": x, "cache": past, "position": torch.tensor([at])}

    return {
        "AugmentedAdd": sized(AugmentedAdd(), x=(6,), residual=(6,)),
        "ScaledInput": sized(ScaledInput(), image=(3, 6, 6)),
        "DropChannel": sized(DropChannel(), x=(3, 4)),
        "OutIsInput": sized(OutIsInput(), a=(4,), b=(4,)),
        "ClampedLogits": sized(ClampedLogits(), logits=(7,)),
        "ThroughView": sized(ThroughView(), boxes=(4,), offset=(2, 2)),
        "ThroughUnbind": sized(ThroughUnbind(), points=(5, 3)),
        "NormalizedImage": sized(NormalizedImage(), image=(3, 5, 5)),
        "ForcedBos": (
            ForcedBos().eval(),
            {"ids": torch.randint(2, 12, (2, 5))},
            [{"ids": torch.randint(2, 12, (3, 4))}, {"ids": torch.randint(2, 12, (2, 6))}],
        ),
        "CallableClip": sized(CallableClip(), x=(5,)),
        "InplaceActivation": sized(InplaceActivation(), x=(3, 6)),
        "FunctionalInplace": sized(FunctionalInplace(), x=(6,)),
        "MaskedScores": (MaskedScores().eval(), scores(2, 5), [scores(3, 6), scores(4, 4)]),
        "CacheUpdate": (CacheUpdate().eval(), cache(2, 0), [cache(3, 2), cache(2, 5)]),
        "InheritedPreprocess": sized(InheritedPreprocess(), x=(4,)),
        "WrittenThroughDetach": sized(WrittenThroughDetach(), x=(4,)),
    }
