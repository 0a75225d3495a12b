"""Models in which Python decides by the size of a tensor what runs next."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.check.corpus import _helpers_lengths


class CropLong(nn.Module):
    """Keeps the first positions of sequences that are too long."""

    def __init__(self, max_len: int = 8) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 3)
        self.max_len = max_len

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.max_len:  # hazard: shape-dependent-control-flow
            x = x[:, : self.max_len]
        return self.proj(x)


class StepwiseGRU(nn.Module):
    def __init__(self, dim: int = 3, hidden: int = 4) -> None:
        super().__init__()
        self.cell = nn.GRUCell(dim, hidden)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.size(0), self.hidden)
        outputs = []
        for t in range(x.size(1)):  # hazard: shape-dependent-control-flow
            state = self.cell(x[:, t], state)
            outputs.append(state)
        return torch.stack(outputs, dim=1)


class PerSampleWhitening(nn.Module):
    def forward(self, batch: Tensor) -> Tensor:
        whitened = []
        for sample in batch:  # hazard: shape-dependent-control-flow
            whitened.append((sample - sample.mean()) / (sample.std() + 1e-5))
        return torch.stack(whitened)


class PadToMultiple(nn.Module):
    """A strided encoder whose input must be a multiple of the stride."""

    def __init__(self, stride: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, stride, stride=stride)
        self.stride = stride

    def forward(self, wave: Tensor) -> Tensor:
        while wave.size(-1) % self.stride:  # hazard: shape-dependent-control-flow
            wave = F.pad(wave, (0, 1))
        return self.conv(wave)


class SlidingWindowPool(nn.Module):
    def __init__(self, window: int = 3, hop: int = 2) -> None:
        super().__init__()
        self.score = nn.Linear(4, 1)
        self.window, self.hop = window, hop

    def forward(self, x: Tensor) -> Tensor:
        _, length, _ = x.shape
        pooled = []
        for start in range(0, length - self.window + 1, self.hop):  # hazard: shape-dependent-control-flow
            frame = x[:, start : start + self.window]
            pooled.append((frame * self.score(frame).softmax(dim=1)).sum(dim=1))
        return torch.stack(pooled, dim=1)


def at_least(minimum: int) -> Callable:
    """Repeats the input until it has `minimum` frames."""

    def decorate(method: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
        @functools.wraps(method)
        def wrapper(self: nn.Module, frames: Tensor) -> Tensor:
            if frames.size(2) < minimum:  # hazard: shape-dependent-control-flow [SpeakerEmbedding]
                frames = torch.cat([frames, frames.flip(2)], dim=2)
            return method(self, frames)

        return wrapper

    return decorate


class SpeakerEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tdnn = nn.Conv1d(4, 5, 3)

    @at_least(6)
    def forward(self, frames: Tensor) -> Tensor:
        return self.tdnn(frames).cumsum(dim=-1).amax(dim=-1)


def limit_context(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (tokens,) = args
    if tokens.size(1) <= module.context:  # hazard: shape-dependent-control-flow [ContextWindowLM]
        return args
    return (tokens[:, -module.context :],)


class ContextWindowLM(nn.Module):
    """A pre-forward hook keeps the newest tokens only."""

    def __init__(self, context: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.embed.context = context
        self.embed.register_forward_pre_hook(limit_context)
        self.head = nn.Linear(4, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).cumsum(dim=1))


class TreeSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leaf = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return _helpers_lengths.reduce_tokens(self.leaf(x))


class ProposalFilter(nn.Module):
    """Keeps the best boxes if there are more of them than wanted."""

    def __init__(self, keep: int = 5) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        if len(scores) > self.keep:  # hazard: shape-dependent-control-flow
            scores, order = scores.topk(self.keep)
            boxes = boxes[order]
        return boxes.clamp(0.0, 1.0), scores


class SmallInputGain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        gain = 0.5 if x.numel() > 24 else 1.0  # hazard: shape-dependent-control-flow
        return gain * self.fc(x)


class LengthTemperature(nn.Module):
    """Attention that is sharpened for short sequences; the size goes to a helper."""

    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.qk = nn.Linear(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, dim=-1)
        temperature = _helpers_lengths.temperature(x.size(1))
        return (q @ k.transpose(1, 2) / temperature).softmax(dim=-1) @ x


class ChunkedFeedForward(nn.Module):
    """Runs the wide layer piece by piece, to spare memory (Reformer)."""

    def __init__(self, chunk: int = 4) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 12), nn.Linear(12, 3)
        self.chunk = chunk

    def forward(self, x: Tensor) -> Tensor:
        pieces = x.split(self.chunk, dim=1)
        return torch.cat([self.down(F.gelu(self.up(p))) for p in pieces], dim=1)  # hazard: shape-dependent-control-flow


class PoolingBase(nn.Module):
    """What the poolings below share."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    def _pool(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height < self.kernel or width < self.kernel:  # hazard: shape-dependent-control-flow [AdaptiveStem]
            return x
        return F.avg_pool2d(x, self.kernel)


class AdaptiveStem(PoolingBase):
    def __init__(self) -> None:
        super().__init__(kernel=4)
        self.conv = nn.Conv2d(2, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self._pool(self.conv(image))


class Tiler:
    """Applies a function to horizontal stripes of an image and joins the results."""

    def __init__(self, rows: int, fn: Callable[[Tensor], Tensor]) -> None:
        self.rows, self.fn = rows, fn

    def __call__(self, image: Tensor) -> Tensor:
        stripes = []
        top = 0
        while top < image.shape[2]:  # hazard: shape-dependent-control-flow [TiledUpscaler]
            stripes.append(self.fn(image[:, :, top : top + self.rows]))
            top += self.rows
        return torch.cat(stripes, dim=2)


class TiledUpscaler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 1)
        self.shuffle = nn.PixelShuffle(2)
        self.tiler = Tiler(4, lambda stripe: self.shuffle(self.conv(stripe)))

    def forward(self, image: Tensor) -> Tensor:
        return self.tiler(image)


class PairwiseMatcher(nn.Module):
    """Walks over two lists of descriptors at once."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        sides = {"left": self.embed(left), "right": self.embed(right)}
        scores = []
        for index, (a, b) in enumerate(zip(*sides.values(), strict=True)):  # hazard: shape-dependent-control-flow
            scores.append((a * b).sum() * 0.9**index)
        return torch.stack(scores)


class TopKReadout(nn.Module):
    """Averages the k best positions, or all of them if there are fewer."""

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        self.score = nn.Linear(3, 1)
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        k = min(self.k, x.size(1))  # hazard: shape-dependent-control-flow
        best = self.score(x).squeeze(-1).topk(k, dim=1).indices
        return x.gather(1, best.unsqueeze(-1).expand(-1, -1, x.size(2))).mean(dim=1)


class SqueezeLong(nn.Module):
    """Halves the time axis until it fits."""

    def __init__(self, longest: int = 4) -> None:
        super().__init__()
        self.longest = longest

    @staticmethod
    def _halve(x: Tensor) -> Tensor:
        return F.avg_pool1d(x, kernel_size=2, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        while x.size(-1) > self.longest:  # hazard: shape-dependent-control-flow
            x = self._halve(x)
        return x


class BatchRouter(nn.Module):
    """Serves large batches by the cheap branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"exact": nn.Linear(4, 2), "cheap": nn.Linear(4, 2, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        name = (x.shape[0] > 3 and "cheap") or "exact"  # hazard: shape-dependent-control-flow
        return self.branches[name](x)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    built: dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]] = {
        "CropLong": (
            CropLong(),
            {"x": torch.randn(2, 6, 4)},
            [{"x": torch.randn(3, 7, 4)}, {"x": torch.randn(2, 12, 4)}],
        ),
        "StepwiseGRU": (
            StepwiseGRU(),
            {"x": torch.randn(2, 4, 3)},
            [{"x": torch.randn(3, 4, 3)}, {"x": torch.randn(2, 6, 3)}],
        ),
        "PerSampleWhitening": (
            PerSampleWhitening(),
            {"batch": torch.randn(2, 2, 3)},
            [{"batch": torch.randn(2, 2, 4)}, {"batch": torch.randn(3, 2, 3)}],
        ),
        "PadToMultiple": (
            PadToMultiple(),
            {"wave": torch.randn(2, 2, 10)},
            [{"wave": torch.randn(3, 2, 14)}, {"wave": torch.randn(2, 2, 9)}, {"wave": torch.randn(2, 2, 8)}],
        ),
        "SlidingWindowPool": (
            SlidingWindowPool(),
            {"x": torch.randn(2, 7, 4)},
            [{"x": torch.randn(3, 9, 4)}, {"x": torch.randn(2, 5, 4)}],
        ),
        "SpeakerEmbedding": (
            SpeakerEmbedding(),
            {"frames": torch.randn(2, 4, 8)},
            [{"frames": torch.randn(3, 4, 10)}, {"frames": torch.randn(2, 4, 4)}],
        ),
        "ContextWindowLM": (
            ContextWindowLM(),
            {"tokens": torch.randint(10, (2, 4))},
            [{"tokens": torch.randint(10, (3, 5))}, {"tokens": torch.randint(10, (2, 8))}],
        ),
        "TreeSum": (
            TreeSum(),
            {"x": torch.randn(2, 5, 4)},
            [{"x": torch.randn(3, 5, 4)}, {"x": torch.randn(2, 8, 4)}, {"x": torch.randn(2, 3, 4)}],
        ),
        "ProposalFilter": (
            ProposalFilter(),
            {"boxes": torch.randn(4, 4), "scores": torch.rand(4)},
            [
                {"boxes": torch.randn(3, 4), "scores": torch.rand(3)},
                {"boxes": torch.randn(7, 4), "scores": torch.rand(7)},
            ],
        ),
        "SmallInputGain": (
            SmallInputGain(),
            {"x": torch.randn(3, 4)},
            [{"x": torch.randn(2, 4)}, {"x": torch.randn(9, 4)}],
        ),
        "LengthTemperature": (
            LengthTemperature(),
            {"x": torch.randn(2, 5, 4)},
            [{"x": torch.randn(3, 4, 4)}, {"x": torch.randn(2, 9, 4)}],
        ),
        "ChunkedFeedForward": (
            ChunkedFeedForward(),
            {"x": torch.randn(2, 8, 3)},
            [{"x": torch.randn(3, 8, 3)}, {"x": torch.randn(2, 11, 3)}],
        ),
        "AdaptiveStem": (
            AdaptiveStem(),
            {"image": torch.randn(2, 2, 8, 8)},
            [{"image": torch.randn(3, 2, 6, 9)}, {"image": torch.randn(2, 2, 3, 8)}],
        ),
        "TiledUpscaler": (
            TiledUpscaler(),
            {"image": torch.randn(2, 2, 8, 5)},
            [{"image": torch.randn(2, 2, 6, 4)}, {"image": torch.randn(2, 2, 13, 5)}],
        ),
        "PairwiseMatcher": (
            PairwiseMatcher(),
            {"left": torch.randn(3, 3), "right": torch.randn(3, 3)},
            [
                {"left": torch.randn(3, 3), "right": torch.randn(3, 3)},
                {"left": torch.randn(5, 3), "right": torch.randn(5, 3)},
            ],
        ),
        "TopKReadout": (
            TopKReadout(),
            {"x": torch.randn(2, 8, 3)},
            [{"x": torch.randn(3, 6, 3)}, {"x": torch.randn(2, 4, 3)}],
        ),
        "SqueezeLong": (
            SqueezeLong(),
            {"x": torch.randn(2, 3, 7)},
            [{"x": torch.randn(3, 3, 6)}, {"x": torch.randn(2, 3, 12)}, {"x": torch.randn(2, 3, 4)}],
        ),
        "BatchRouter": (
            BatchRouter(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": torch.randn(5, 4)}],
        ),
    }
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
