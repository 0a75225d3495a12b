"""Global variables, missing type hints and changing types."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.blind import _helpers_speech_consts as speech_consts
from tests.check.blind._helpers_speech import FrontEndBase, pcen

MAX_CONTEXT = 6
ANCHOR_SCALES = [0.5, 1.0, 2.0]
PIXEL_MEAN = torch.tensor([0.485, 0.456, 0.406])
LEVELS = {"p3": 8, "p4": 16, "p5": 32}
BASE_GAIN = 0.7
COMPUTE_DTYPE = torch.float32


@dataclass
class RuntimeSettings:
    temperature: float = 0.8
    top: int = 3


SETTINGS = RuntimeSettings()


# ---------------------------------------------------------------- global-variable


class ContextWindowLM(nn.Module):
    """Keeps only the last tokens, as a sliding-window language model does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(32, 8)
        self.mix = nn.Linear(8, 8)

    def forward(self, input_ids: Tensor) -> Tensor:
        recent = input_ids[:, -MAX_CONTEXT:]  # hazard: global-variable
        return self.mix(self.embed(recent).to(COMPUTE_DTYPE))


def rescale_boxes(boxes: Tensor, image_size: float) -> Tensor:
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    sizes = boxes[..., 2:] - boxes[..., :2]
    grown = torch.cat([sizes * scale for scale in ANCHOR_SCALES], dim=-1)  # hazard: global-variable [ProposalRescaler]
    return torch.cat([centres, grown], dim=-1) / image_size


class ProposalRescaler(nn.Module):
    def __init__(self, image_size: float = 64.0) -> None:
        super().__init__()
        self.image_size = image_size
        self.score = nn.Linear(8, 1)

    def forward(self, boxes: Tensor) -> Tensor:
        return self.score(rescale_boxes(boxes, self.image_size)).squeeze(-1)


class PixelNormaliser(nn.Module):
    """Subtracts the mean that stands at the top of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]))
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        centred = pixels - PIXEL_MEAN[None, :, None, None]  # hazard: global-variable
        return self.stem(centred / self.std[None, :, None, None])


class LogMelSubsampler(FrontEndBase):
    """The constant is read two files away, the module attribute below is fine for script."""

    def __init__(self) -> None:
        super().__init__(gain=1.5)
        self.proj = nn.Linear(speech_consts.NUM_BINS, 6)

    def forward(self, wave: Tensor) -> Tensor:
        frames = self.features(wave).unflatten(1, (-1, speech_consts.NUM_BINS))
        return self.proj(pcen(frames.exp()))


class GatedResidual(nn.Module):
    """A property takes part in the computation."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.inner = nn.Linear(8, 8)

    @property
    def gain(self) -> float:
        return BASE_GAIN / (1.0 + self.depth)  # hazard: global-variable

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.gain * torch.tanh(self.inner(hidden))


class ResidualTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)

    def calibrate(self, logits: Tensor) -> Tensor:
        return logits / SETTINGS.temperature  # hazard: global-variable

    def forward(self, table: Tensor) -> Tensor:
        return self.calibrate(self.head(self.norm(table))).softmax(-1)


# --------------------------------------------------------------- missing-type-hint


def window_partition(x, size):  # hazard: missing-type-hint [SwinStage]
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, channels)


class SwinStage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, tokens: Tensor) -> Tensor:
        windows = window_partition(tokens, 4)
        query, key, value = self.qkv(windows).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(query, key, value)


class MaskedPooling(nn.Module):
    """Script takes the mask of `forward` for an optional tensor by itself, the flag of `pool` for a tensor."""

    def __init__(self, squared: bool = False) -> None:
        super().__init__()
        self.squared = squared
        self.proj = nn.Linear(6, 6)

    def pool(self, h, weight, squared) -> Tensor:  # hazard: missing-type-hint
        if squared:
            h = h.square()
        return (h * weight).sum(1) / weight.sum(1).clamp(min=0.5)

    def forward(self, x, mask=None):
        h = self.proj(x)
        if mask is None:
            return h.mean(1)
        return self.pool(h, mask.unsqueeze(-1), self.squared)


class PyramidFusion(nn.Module):
    """A list of maps goes through a method of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(3, 4, 1)
        self.deep = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def fuse(self, maps):  # hazard: missing-type-hint
        top = F.interpolate(maps[1], scale_factor=2.0, mode="nearest")
        return maps[0] + top

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.lateral(image)
        return self.fuse([shallow, self.deep(shallow)])


class CrossAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(8, 8)

    def forward(
        self,
        query: Tensor,
        memory,  # hazard: missing-type-hint [TwoStreamDecoder]
        scale: float = 0.35,
    ) -> Tensor:
        key, value = memory
        weight = torch.softmax(self.to_q(query) @ key.transpose(-1, -2) * scale, dim=-1)
        return query + weight @ value


class TwoStreamDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kv = nn.Linear(8, 16)
        self.layers = nn.ModuleList([CrossAttention(), CrossAttention()])

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        key, value = self.kv(source).chunk(2, dim=-1)
        for layer in self.layers:
            target = layer(target, (key, value))
        return target


class ReadoutByName(nn.Module):
    """A graph readout whose kind is a string."""

    def __init__(self, kind: str = "mean") -> None:
        super().__init__()
        self.kind = kind
        self.update = nn.Linear(5, 5)

    @staticmethod
    def readout(nodes: Tensor, kind) -> Tensor:  # hazard: missing-type-hint
        if kind == "max":
            return nodes.amax(dim=1)
        return nodes.mean(dim=1)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        return self.readout(torch.relu(self.update(adjacency @ nodes)), self.kind)


class DilatedForecaster(nn.Module):
    """The type comment of `shift` is enough; the step of `difference` has nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 3, padding=2, dilation=2)

    def shift(self, x, by):
        # type: (Tensor, int) -> Tensor
        return torch.roll(x, by, dims=-1)

    def difference(self, x, lag=1):  # hazard: missing-type-hint
        return x[..., lag:] - x[..., :-lag]

    def forward(self, series: Tensor) -> Tensor:
        return self.conv(self.difference(self.shift(series, 2), lag=3))


# -------------------------------------------------------------------- dynamic-type


class AttentionWithWeights(nn.Module):
    """Returns one value or two, as its configuration says."""

    def __init__(self, need_weights: bool = False) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor):
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        weights = torch.softmax(query @ key.transpose(-1, -2), dim=-1)
        if self.need_weights:
            return weights @ value, weights
        return weights @ value  # hazard: dynamic-type


class BiasedScorer(nn.Module):
    """Adds an optional bias that nobody has checked against None."""

    def __init__(self, relative: bool = True) -> None:
        super().__init__()
        self.relative = relative
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, scores: Tensor, bias: Tensor | None = None) -> Tensor:
        scores = scores * self.scale
        if self.relative:
            scores = scores + bias  # hazard: dynamic-type
        return scores.softmax(-1)


class MixtureOfExperts(nn.Module):
    """The state is None before the first expert, a tensor after it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        for expert in self.experts:
            tokens = tokens + torch.relu(expert(tokens))
        weight = self.gate(tokens).softmax(-1)
        mixed = None
        for i in range(3):
            part = tokens * weight[..., i : i + 1]
            if mixed is None:
                mixed = part  # hazard: dynamic-type
            else:
                mixed = torch.maximum(mixed, part)
        return mixed


class CtrTower(nn.Module):
    """A dict of features holds tensors and one number."""

    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(20, 4)
        self.item = nn.Embedding(20, 4)

    def forward(self, user_id: Tensor, item_id: Tensor) -> Tensor:
        batch = {"user": self.user(user_id), "item": self.item(item_id), "margin": 0.25}  # hazard: dynamic-type
        return (batch["user"] * batch["item"]).sum(-1) - batch["margin"]


class SegmentLengths(nn.Module):
    """Script takes an empty list for one of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv1d(2, 2, k) for k in (2, 3))

    def forward(self, signal: Tensor) -> Tensor:
        lengths = []
        outputs = []
        for branch in self.branches:
            out = branch(signal)
            outputs.append(out)
            lengths.append(out.shape[-1])  # hazard: missing-type-hint
        joined = torch.cat(outputs, dim=-1)
        return joined[..., : lengths[0]] - joined[..., -lengths[0] :]


class NoiseSchedule(nn.Module):
    """A float or a tensor, chosen in a ternary."""

    def __init__(self, learned: bool = True) -> None:
        super().__init__()
        self.learned = learned
        self.log_sigma = nn.Parameter(torch.zeros(4))
        self.net = nn.Linear(4, 4)

    def forward(self, latent: Tensor) -> Tensor:
        sigma = self.log_sigma.exp() if self.learned else 1.0  # hazard: dynamic-type
        return self.net(latent / sigma) * sigma


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    rand = torch.randn

    def ids(*shape: int, high: int = 20) -> Tensor:
        return torch.randint(0, high, shape)

    def boxes(*shape: int) -> Tensor:
        corner = torch.rand(*shape, 2) * 20
        return torch.cat([corner, corner + torch.rand(*shape, 2) * 20], dim=-1)

    table = {
        "ContextWindowLM": (
            ContextWindowLM(),
            {"input_ids": ids(2, 8)},
            [{"input_ids": ids(2, 8)}, {"input_ids": ids(3, 11)}],
        ),
        "ProposalRescaler": (
            ProposalRescaler(),
            {"boxes": boxes(2, 5)},
            [{"boxes": boxes(2, 5)}, {"boxes": boxes(3, 7)}],
        ),
        "PixelNormaliser": (
            PixelNormaliser(),
            {"pixels": rand(2, 3, 16, 16)},
            [{"pixels": rand(2, 3, 16, 16)}, {"pixels": rand(3, 3, 24, 20)}],
        ),
        "LogMelSubsampler": (
            LogMelSubsampler(),
            {"wave": rand(2, 48)},
            [{"wave": rand(2, 48)}, {"wave": rand(3, 72)}],
        ),
        "GatedResidual": (
            GatedResidual(2),
            {"hidden": rand(2, 5, 8)},
            [{"hidden": rand(2, 5, 8)}, {"hidden": rand(3, 4, 8)}],
        ),
        "ResidualTower": (
            ResidualTower(),
            {"table": rand(4, 8)},
            [{"table": rand(4, 8)}, {"table": rand(6, 8)}],
        ),
        "SwinStage": (
            SwinStage(),
            {"tokens": rand(2, 8, 8, 8)},
            [{"tokens": rand(2, 8, 8, 8)}, {"tokens": rand(3, 12, 8, 8)}],
        ),
        "MaskedPooling": (
            MaskedPooling(),
            {"x": rand(2, 5, 6), "mask": torch.ones(2, 5)},
            [{"x": rand(2, 5, 6), "mask": ids(2, 5, high=2).float()}, {"x": rand(3, 4, 6), "mask": torch.ones(3, 4)}],
        ),
        "PyramidFusion": (
            PyramidFusion(),
            {"image": rand(2, 3, 8, 8)},
            [{"image": rand(2, 3, 8, 8)}, {"image": rand(3, 3, 12, 16)}],
        ),
        "TwoStreamDecoder": (
            TwoStreamDecoder(),
            {"target": rand(2, 4, 8), "source": rand(2, 6, 8)},
            [
                {"target": rand(2, 4, 8), "source": rand(2, 6, 8)},
                {"target": rand(3, 5, 8), "source": rand(3, 7, 8)},
            ],
        ),
        "ReadoutByName": (
            ReadoutByName(),
            {"nodes": rand(2, 4, 5), "adjacency": ids(2, 4, 4, high=2).float()},
            [
                {"nodes": rand(2, 4, 5), "adjacency": ids(2, 4, 4, high=2).float()},
                {"nodes": rand(3, 6, 5), "adjacency": ids(3, 6, 6, high=2).float()},
            ],
        ),
        "DilatedForecaster": (
            DilatedForecaster(),
            {"series": rand(2, 3, 12)},
            [{"series": rand(2, 3, 12)}, {"series": rand(3, 3, 18)}],
        ),
        "AttentionWithWeights": (
            AttentionWithWeights(),
            {"x": rand(2, 4, 8)},
            [{"x": rand(2, 4, 8)}, {"x": rand(3, 6, 8)}],
        ),
        "BiasedScorer": (
            BiasedScorer(),
            {"scores": rand(2, 6), "bias": rand(2, 6)},
            [{"scores": rand(2, 6), "bias": rand(2, 6)}, {"scores": rand(4, 6), "bias": rand(4, 6)}],
        ),
        "MixtureOfExperts": (
            MixtureOfExperts(),
            {"tokens": rand(2, 4, 6)},
            [{"tokens": rand(2, 4, 6)}, {"tokens": rand(3, 5, 6)}],
        ),
        "CtrTower": (
            CtrTower(),
            {"user_id": ids(4), "item_id": ids(4)},
            [{"user_id": ids(4), "item_id": ids(4)}, {"user_id": ids(6), "item_id": ids(6)}],
        ),
        "SegmentLengths": (
            SegmentLengths(),
            {"signal": rand(2, 2, 10)},
            [{"signal": rand(2, 2, 10)}, {"signal": rand(3, 2, 14)}],
        ),
        "NoiseSchedule": (
            NoiseSchedule(),
            {"latent": rand(3, 4)},
            [{"latent": rand(3, 4)}, {"latent": rand(5, 4)}],
        ),
    }
    return {name: (module.eval(), example, probes) for name, (module, example, probes) in table.items()}
