"""Models in which a Python value that came from a tensor, or Python state, goes into the computation."""

import itertools
from collections import deque
from collections.abc import Callable
from functools import lru_cache, wraps

import torch
from torch import Tensor, nn

from tests.check.corpus import _helpers_memo


class PeakNormalise(nn.Module):
    def forward(self, wave: Tensor) -> Tensor:
        peak = wave.abs().max().item()  # hazard: captured-constant
        return 0.9 * wave / (peak + 1e-6)


class TrimToLongest(nn.Module):
    """Cuts the padding that no sequence of the batch needs, as pack_padded_sequence does."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        longest = int(lengths.max())  # hazard: captured-constant
        output, _ = self.gru(x[:, :longest])
        return output


class TokenPruning(nn.Module):
    """Keeps a share of the tokens (EViT); the number is worked out in Python."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def forward(self, tokens: Tensor) -> Tensor:
        keep = int(tokens.shape[1] * self.share)  # hazard: captured-constant
        order = tokens.norm(dim=-1).topk(keep, dim=1).indices
        return tokens.gather(1, order.unsqueeze(-1).expand(-1, -1, tokens.size(2)))


class ChannelReweighting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(0, 2)).tolist()  # hazard: captured-constant
        weights = torch.tensor([1.0 / (1.0 + mean * mean) for mean in means])
        return x * weights.to(x).view(-1, 1)


class SpreadNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(_helpers_memo.rescale(x))


class LazyInputNorm(nn.Module):
    """Takes the statistics of the first batch and keeps them on self."""

    def __init__(self) -> None:
        super().__init__()
        self._stats: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._stats is None:
            self._stats = (x.mean(dim=0), x.std(dim=0))  # hazard: captured-constant
        mean, std = self._stats
        return (x - mean) / (std + 1e-5)


class FirstBatchScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) / _helpers_memo.calibrated_scale("fc", x)


class AnnealedMixing(nn.Module):
    """Blends by how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.old, self.new = nn.Linear(3, 3), nn.Linear(3, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # hazard: captured-constant
        alpha = 0.5**self.calls
        return alpha * self.old(x) + (1.0 - alpha) * self.new(x)


def make_smoother(momentum: float) -> Callable[[Tensor], Tensor]:
    running: Tensor | None = None

    def smooth(x: Tensor) -> Tensor:
        nonlocal running
        kept = momentum * running if running is not None else x * momentum
        running = kept + (1.0 - momentum) * x  # hazard: captured-constant [TemporalSmoothing]
        return running

    return smooth


class TemporalSmoothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pose = nn.Linear(4, 3)
        self.smooth = make_smoother(0.8)

    def forward(self, frame: Tensor) -> Tensor:
        return self.smooth(self.pose(frame))


class RunningOffset(nn.Module):
    """A mutable default argument outlives the call."""

    def _offset(self, x: Tensor, seen: list[Tensor] = []) -> Tensor:
        seen.append(x.mean())  # hazard: captured-constant
        return torch.stack(seen).mean()

    def forward(self, x: Tensor) -> Tensor:
        return x - self._offset(x)


class StepEncoding(nn.Module):
    """Numbers its calls, for a streaming decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 4)
        self._steps = itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table.weight[next(self._steps) % 64]  # hazard: captured-constant


class StatsHook:
    """Remembers the mean activation of the layer it is registered on."""

    def __init__(self) -> None:
        self.stats: dict[str, float] = {}

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        self.stats["mean"] = out.mean().item()  # hazard: captured-constant [CenteredByHook]


class CenteredByHook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.hook = StatsHook()
        self.proj.register_forward_hook(self.hook)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x) - self.hook.stats["mean"]


class RangeLimited(nn.Module):
    """Keeps the prediction within the range of the observation."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        bounds = {"min": float(x.amin()), "max": float(x.amax())}  # hazard: captured-constant
        return self.predict(3.0 * x).clamp(**bounds)


@lru_cache(maxsize=8)
def decay_table(steps: int) -> Tensor:
    return torch.tensor([0.7**step for step in range(steps)])


class DecayedHistory(nn.Module):
    """The table is cached by a number that was read from the positions."""

    def forward(self, values: Tensor, positions: Tensor) -> Tensor:
        table = decay_table(positions.max().item() + 1)  # hazard: captured-constant
        return values * table.to(values)[positions]


class QualityPreset(nn.Module):
    GAINS = (0.25, 0.5, 1.0)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        return torch.tanh(x * self.GAINS[int(quality)])  # hazard: captured-constant


def unit_range(method: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Runs a method on the input brought to 0..1 and brings its result back."""

    @wraps(method)
    def wrapper(self: nn.Module, depth: Tensor) -> Tensor:
        low, high = torch.stack([depth.min(), depth.max()]).tolist()  # hazard: captured-constant [DepthRefiner]
        width = max(high - low, 1e-6)
        return method(self, (depth - low) / width) * width + low

    return wrapper


class DepthRefiner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    @unit_range
    def forward(self, depth: Tensor) -> Tensor:
        return depth + torch.sigmoid(self.conv(depth))


class PaddedBatch:
    """A padded batch with the lengths of its rows."""

    def __init__(self, data: Tensor, lengths: Tensor) -> None:
        self.data, self.lengths = data, lengths

    @property
    def shortest(self) -> int:
        return int(torch.min(self.lengths))  # hazard: captured-constant [CommonPrefixPool]


class CommonPrefixPool(nn.Module):
    """Pools the steps that all rows have."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        batch = PaddedBatch(self.fc(x), lengths)
        return batch.data.narrow(1, 0, batch.shortest).sum(dim=1)


class FrameStack(nn.Module):
    """Averages over the latest frames, which are kept in a deque."""

    def __init__(self) -> None:
        super().__init__()
        self.window = 3
        self.history: deque[Tensor] = deque(maxlen=self.window)

    def forward(self, frame: Tensor) -> Tensor:
        self.history.append(frame)  # hazard: captured-constant
        return torch.stack(list(self.history)).sum(dim=0) / self.window


class CropToPatch(nn.Module):
    """Cuts the patch that a predicted box names."""

    def forward(self, image: Tensor, box: Tensor) -> Tensor:
        top, left, height, width = box.tolist()  # hazard: captured-constant
        return image[:, :, top : top + height, left : left + width]


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    built: dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]] = {
        "PeakNormalise": (
            PeakNormalise(),
            {"wave": torch.randn(2, 5)},
            [{"wave": torch.randn(3, 7)}, {"wave": 4.0 * torch.randn(2, 5)}],
        ),
        "TrimToLongest": (
            TrimToLongest(),
            {"x": torch.randn(2, 6, 3), "lengths": torch.tensor([4, 3])},
            [
                {"x": torch.randn(3, 6, 3), "lengths": torch.tensor([2, 4, 3])},
                {"x": torch.randn(2, 7, 3), "lengths": torch.tensor([6, 2])},
            ],
        ),
        "TokenPruning": (
            TokenPruning(),
            {"tokens": torch.randn(2, 6, 3)},
            [{"tokens": torch.randn(3, 6, 3)}, {"tokens": torch.randn(2, 10, 3)}],
        ),
        "ChannelReweighting": (
            ChannelReweighting(),
            {"x": torch.randn(2, 3, 4)},
            [{"x": 2.0 + torch.randn(3, 3, 5)}, {"x": torch.randn(2, 3, 4)}],
        ),
        "SpreadNorm": (
            SpreadNorm(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 5.0 * torch.randn(2, 4)}],
        ),
        "LazyInputNorm": (
            LazyInputNorm(),
            {"x": torch.randn(3, 4)},
            [{"x": torch.randn(5, 4)}, {"x": 2.0 + 3.0 * torch.randn(3, 4)}],
        ),
        "FirstBatchScale": (
            FirstBatchScale(),
            {"x": torch.randn(2, 4)},
            [{"x": 2.0 * torch.randn(3, 4)}, {"x": 5.0 * torch.randn(2, 4)}],
        ),
        "AnnealedMixing": (
            AnnealedMixing(),
            {"x": torch.randn(2, 3)},
            [{"x": torch.randn(3, 3)}, {"x": torch.randn(2, 3)}],
        ),
        "TemporalSmoothing": (
            TemporalSmoothing(),
            {"frame": torch.randn(2, 4)},
            [{"frame": torch.randn(2, 4)}, {"frame": 3.0 * torch.randn(2, 4)}],
        ),
        "RunningOffset": (
            RunningOffset(),
            {"x": torch.randn(2, 4)},
            [{"x": 1.0 + torch.randn(3, 5)}, {"x": torch.randn(2, 4)}],
        ),
        "StepEncoding": (
            StepEncoding(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": torch.randn(2, 4)}],
        ),
        "CenteredByHook": (
            CenteredByHook(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 4.0 + torch.randn(2, 4)}],
        ),
        "RangeLimited": (
            RangeLimited(),
            {"x": torch.randn(2, 4)},
            [{"x": torch.randn(3, 4)}, {"x": 0.1 * torch.randn(2, 4)}],
        ),
        "DecayedHistory": (
            DecayedHistory(),
            {"values": torch.randn(2, 3), "positions": torch.tensor([0, 2, 1])},
            [
                {"values": torch.randn(3, 2), "positions": torch.tensor([1, 0])},
                {"values": torch.randn(2, 3), "positions": torch.tensor([5, 2, 3])},
            ],
        ),
        "QualityPreset": (
            QualityPreset(),
            {"x": torch.randn(2, 4), "quality": torch.tensor(1)},
            [
                {"x": torch.randn(3, 5), "quality": torch.tensor(1)},
                {"x": torch.randn(2, 4), "quality": torch.tensor(2)},
            ],
        ),
        "DepthRefiner": (
            DepthRefiner(),
            {"depth": torch.rand(2, 1, 4, 4)},
            [{"depth": torch.rand(3, 1, 5, 4)}, {"depth": 10.0 * torch.rand(2, 1, 4, 4)}],
        ),
        "CommonPrefixPool": (
            CommonPrefixPool(),
            {"x": torch.randn(2, 5, 3), "lengths": torch.tensor([3, 5])},
            [
                {"x": torch.randn(3, 5, 3), "lengths": torch.tensor([4, 3, 5])},
                {"x": torch.randn(2, 6, 3), "lengths": torch.tensor([6, 2])},
            ],
        ),
        "FrameStack": (
            FrameStack(),
            {"frame": torch.randn(2, 4)},
            [{"frame": torch.randn(2, 4)}, {"frame": 2.0 * torch.randn(2, 4)}],
        ),
        "CropToPatch": (
            CropToPatch(),
            {"image": torch.randn(2, 3, 8, 8), "box": torch.tensor([1, 2, 3, 4])},
            [
                {"image": torch.randn(3, 3, 8, 8), "box": torch.tensor([0, 0, 3, 4])},
                {"image": torch.randn(2, 3, 9, 8), "box": torch.tensor([4, 1, 5, 6])},
            ],
        ),
    }
    return {name: (model.eval(), example, probes) for name, (model, example, probes) in built.items()}
