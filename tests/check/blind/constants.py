"""Models that freeze Python values, Python state or devices when they are traced."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.blind._helpers_positions import token_positions
from tests.check.blind._helpers_trim import trim


class DynamicQuantLinear(nn.Module):
    """Activations rounded to eight bits at a scale taken from the batch."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        scale = hidden.abs().max().item() / 127.0  # hazard: captured-constant
        return self.linear(torch.round(hidden / scale) * scale)


class BagOfEvents(nn.Module):
    """Clickstream: bags of varying sizes, their offsets summed up in Python."""

    def __init__(self, events: int = 30, width: int = 6) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(events, width, mode="sum")

    @staticmethod
    def starts(counts: list[int]) -> list[int]:
        return [sum(counts[:index]) for index in range(len(counts))]

    def forward(self, events: Tensor, counts: Tensor) -> Tensor:
        offsets = torch.tensor(self.starts(counts.tolist()))  # hazard: captured-constant
        return self.bag(events, offsets)


class FirstBatchNormaliser(nn.Module):
    """Tabular: the statistics of the first batch seen are kept for every later one."""

    def __init__(self, columns: int = 5) -> None:
        super().__init__()
        self.head = nn.Linear(columns, 2)
        self.centre: Tensor | None = None

    def forward(self, table: Tensor) -> Tensor:
        if self.centre is None:
            self.centre = table.mean(0)  # hazard: captured-constant
        return self.head(table - self.centre)


class DitheredCodec(nn.Module):
    """Audio codec whose dither alternates its sign from call to call."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.encode = nn.Conv1d(1, channels, 4, stride=4)
        self.signs = cycle((0.25, -0.25))

    def forward(self, wave: Tensor) -> Tensor:
        code = self.encode(wave.unsqueeze(1)) * 4.0
        return torch.round(code + next(self.signs)) / 4.0  # hazard: captured-constant, unscriptable-helper


def _karras_scalings(sigma: float, data: float = 0.5) -> tuple[float, float]:
    total = sigma * sigma + data * data
    return data * data / total, sigma * data / total**0.5


class PreconditionedDenoiser(nn.Module):
    """Diffusion: the scalings of the skip and of the output from the noise level."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, channels, 3, padding=1))

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        skip, out = _karras_scalings(float(sigma.mean()))  # hazard: captured-constant
        return skip * noisy + out * self.net(noisy)


class _DistanceBias:
    """Biases by distance, the matrix of the greatest length met so far is kept."""

    def __init__(self, slope: float) -> None:
        self.slope = slope
        self.kept = torch.zeros(0, 0)

    def __call__(self, scores: Tensor) -> Tensor:
        length = scores.size(-1)
        if self.kept.size(0) < length:  # hazard: shape-dependent-control-flow [LinearBiasAttention]
            steps = torch.ones_like(scores[0]).cumsum(-1)
            self.kept = -self.slope * (steps - steps.mT).abs()  # hazard: captured-constant [LinearBiasAttention]
        return scores + self.kept[:length, :length]


class LinearBiasAttention(nn.Module):
    """Attention with linear biases out of a cache."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.bias = _DistanceBias(slope=0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.bias(self.query(tokens) @ tokens.mT)
        return scores.softmax(-1) @ tokens


def make_loudness_tracker(momentum: float) -> Callable[[Tensor], float]:
    level = 1.0

    def track(wave: Tensor) -> float:
        nonlocal level
        level += momentum * (float(wave.abs().mean()) - level)  # hazard: captured-constant [StreamingGain]
        return level

    return track


class StreamingGain(nn.Module):
    """Streaming speech: automatic gain over a level that a closure remembers."""

    def __init__(self, taps: int = 3) -> None:
        super().__init__()
        self.filter = nn.Conv1d(1, 1, taps, padding=taps // 2)
        self.track = make_loudness_tracker(momentum=0.1)

    def forward(self, wave: Tensor) -> Tensor:
        filtered = self.filter(wave.unsqueeze(1))
        return filtered / self.track(wave)  # hazard: unscriptable-helper


class PaddedTranscriber(nn.Module):
    """ASR: the padding beyond the longest utterance of the batch is cut off first."""

    def __init__(self, mels: int = 5, symbols: int = 7) -> None:
        super().__init__()
        self.acoustic = nn.GRU(mels, 8, batch_first=True)
        self.symbols = nn.Linear(8, symbols)

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.acoustic(trim(frames, lengths))
        return self.symbols(states).log_softmax(-1)


@dataclass(frozen=True)
class DepthRange:
    near: float
    far: float

    @classmethod
    def of(cls, depth: Tensor) -> "DepthRange":
        near, far = torch.aminmax(depth)
        return cls(near.item(), far.item())  # hazard: captured-constant [DepthColouriser]


class DepthColouriser(nn.Module):
    """Monocular depth, mapped to the range of its batch by way of a dataclass."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.depth = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        depth = self.depth(image)
        span = DepthRange.of(depth)  # hazard: unscriptable-helper
        return (depth - span.near) / (span.far - span.near)


class TokenEmbedder(nn.Module):
    """LLM stem: learned positions, counted by a helper on the device of the identities."""

    def __init__(self, vocabulary: int = 40, longest: int = 32, width: int = 8) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.positions(token_positions(ids))


class _Offload(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits.to("cpu", torch.float32).type_as(logits)  # hazard: captured-device [KeypointHead]


class KeypointHead(nn.Sequential):
    """Pose: the last stage hands its coordinates to the host."""

    def __init__(self, channels: int = 3, joints: int = 4) -> None:
        super().__init__(
            nn.Conv2d(channels, 8, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 2 * joints),
            _Offload(),
        )


class StatefulMemory(nn.Module):
    """Recommender session: the initial memory is made on the device of the parameters."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, width)
        self.width = width

    @property
    def home(self) -> torch.device:
        return self.cell.weight_ih.device

    def forward(self, item: Tensor) -> Tensor:
        memory = torch.zeros(item.size(0), self.width, device=self.home)  # hazard: captured-device
        return self.cell(item, memory)


def _to_accelerator(x: Tensor, fallback: str) -> Tensor:
    return x.to("cuda" if torch.cuda.is_available() else fallback)  # hazard: captured-device [SatelliteClassifier]


class SatelliteClassifier(nn.Module):
    """Remote sensing: every input is moved to the accelerator, where there is one."""

    def __init__(self, bands: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(bands, 6, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(24, classes)
        self.place = partial(_to_accelerator, fallback="cpu")

    def forward(self, tile: Tensor) -> Tensor:
        return self.head(self.net(self.place(tile)))  # hazard: unscriptable-helper


class AnchorDecoder(nn.Module):
    """Detector: the grid of the anchors is laid out under a device context."""

    def __init__(self, channels: int = 4, stride: int = 8) -> None:
        super().__init__()
        self.regress = nn.Conv2d(channels, 2, 1)
        self.stride = stride

    def forward(self, feature: Tensor) -> Tensor:
        with torch.device("cpu"):  # hazard: captured-device, unsupported-python
            rows = torch.arange(feature.size(-2)).unsqueeze(1) * self.stride
            columns = torch.arange(feature.size(-1)).unsqueeze(0) * self.stride
        shift_y, shift_x = self.regress(feature).unbind(1)
        return torch.stack([rows + shift_y, columns + shift_x], dim=1)


def _follow_weight(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(module.weight.device),)  # hazard: captured-device [MultimodalProjector]


class MultimodalProjector(nn.Module):
    """Vision-language bridge: a pre-hook moves the patches next to the weight of the projection."""

    def __init__(self, vision: int = 6, text: int = 8) -> None:
        super().__init__()
        self.project = nn.Linear(vision, text)
        self.project.register_forward_pre_hook(_follow_weight)

    def forward(self, patches: Tensor) -> Tensor:
        return F.gelu(self.project(patches)).type_as(patches)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    r = torch.randn
    counts = torch.tensor([2, 3, 4])
    return {
        "DynamicQuantLinear": (
            DynamicQuantLinear().eval(),
            {"hidden": r(3, 6)},
            [{"hidden": r(3, 6) * 10}, {"hidden": r(5, 6)}],
        ),
        "BagOfEvents": (
            BagOfEvents().eval(),
            {"events": torch.randint(0, 30, (9,)), "counts": counts},
            [
                {"events": torch.randint(0, 30, (9,)), "counts": counts.flip(0)},
                {"events": torch.randint(0, 30, (12,)), "counts": torch.tensor([3, 3, 2, 4])},
            ],
        ),
        "FirstBatchNormaliser": (
            FirstBatchNormaliser().eval(),
            {"table": r(4, 5)},
            [{"table": r(4, 5) + 3}, {"table": r(7, 5)}],
        ),
        "DitheredCodec": (
            DitheredCodec().eval(),
            {"wave": r(2, 32)},
            [{"wave": r(2, 32) * 2}, {"wave": r(3, 48)}],
        ),
        "PreconditionedDenoiser": (
            PreconditionedDenoiser().eval(),
            {"noisy": r(2, 3, 6, 6), "sigma": torch.tensor([0.5, 0.7])},
            [
                {"noisy": r(2, 3, 6, 6), "sigma": torch.tensor([4.0, 5.0])},
                {"noisy": r(3, 3, 8, 6), "sigma": torch.tensor([0.1, 0.2, 0.3])},
            ],
        ),
        "LinearBiasAttention": (
            LinearBiasAttention().eval(),
            {"tokens": r(2, 5, 8)},
            [{"tokens": r(3, 4, 8)}, {"tokens": r(2, 9, 8)}],
        ),
        "StreamingGain": (
            StreamingGain().eval(),
            {"wave": r(2, 20)},
            [{"wave": r(2, 20) * 8}, {"wave": r(3, 30) * 0.1}],
        ),
        "PaddedTranscriber": (
            PaddedTranscriber().eval(),
            {"frames": r(2, 9, 5), "lengths": torch.tensor([4, 6])},
            [
                {"frames": r(2, 9, 5), "lengths": torch.tensor([9, 3])},
                {"frames": r(3, 12, 5), "lengths": torch.tensor([5, 11, 2])},
            ],
        ),
        "DepthColouriser": (
            DepthColouriser().eval(),
            {"image": torch.rand(2, 3, 8, 8)},
            [{"image": torch.rand(2, 3, 8, 8) * 5}, {"image": torch.rand(3, 3, 6, 9)}],
        ),
        "TokenEmbedder": (
            TokenEmbedder().eval(),
            {"ids": torch.randint(0, 40, (2, 6))},
            [{"ids": torch.randint(0, 40, (2, 6))}, {"ids": torch.randint(0, 40, (3, 11))}],
        ),
        "KeypointHead": (
            KeypointHead().eval(),
            {"input": r(2, 3, 9, 9)},
            [{"input": r(2, 3, 9, 9) * 3}, {"input": r(3, 3, 12, 10)}],
        ),
        "StatefulMemory": (StatefulMemory().eval(), {"item": r(3, 6)}, [{"item": r(3, 6) * 2}, {"item": r(5, 6)}]),
        "SatelliteClassifier": (
            SatelliteClassifier().eval(),
            {"tile": r(2, 4, 8, 8)},
            [{"tile": r(2, 4, 8, 8)}, {"tile": r(3, 4, 10, 7)}],
        ),
        "AnchorDecoder": (
            AnchorDecoder().eval(),
            {"feature": r(2, 4, 6, 6)},
            [{"feature": r(2, 4, 6, 6)}, {"feature": r(3, 4, 5, 8)}],
        ),
        "MultimodalProjector": (
            MultimodalProjector().eval(),
            {"patches": r(2, 5, 6)},
            [{"patches": r(2, 5, 6)}, {"patches": r(3, 8, 6)}],
        ),
    }
