"""Models whose Python branches and loops follow the values or the sizes of tensors."""

from collections.abc import Callable, Iterator
from functools import reduce, wraps

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.blind._helpers_limiter import limit
from tests.check.blind._helpers_rope import rotate


class EarlyExitEncoder(nn.Module):
    """Stops at the first layer whose head is confident for the whole batch."""

    def __init__(self, width: int = 8, depth: int = 3, classes: int = 4, confidence: float = 0.3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(depth))
        self.final = nn.Linear(width, classes)
        self.confidence = confidence

    def forward(self, tokens: Tensor) -> Tensor:
        for layer, head in zip(self.layers, self.heads):
            tokens = torch.relu(layer(tokens)) + tokens
            logits = head(tokens.mean(1))
            if logits.softmax(-1).amax(-1).min() > self.confidence:  # hazard: data-dependent-control-flow
                return logits
        return self.final(tokens.mean(1))


class SinkhornRouter(nn.Module):
    """Balances a routing matrix until its rows sum to one."""

    def __init__(self, width: int = 6, experts: int = 4, tolerance: float = 1e-3) -> None:
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.tolerance = tolerance

    def forward(self, tokens: Tensor) -> Tensor:
        plan = self.gate(tokens).exp()
        plan = plan / plan.sum(1, keepdim=True)
        while plan.sum(0).std() > self.tolerance:  # hazard: data-dependent-control-flow
            plan = plan / plan.sum(0, keepdim=True)
            plan = plan / plan.sum(1, keepdim=True)
        return plan


class SparseExperts(nn.Module):
    """Mixture of experts with top-1 routing; an expert without a token is not run."""

    def __init__(self, width: int = 6, experts: int = 4) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(experts))

    def forward(self, tokens: Tensor) -> Tensor:
        weight, choice = self.router(tokens).softmax(-1).max(-1)
        out = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            rows = (choice == index).nonzero().squeeze(1)
            if rows.numel() == 0:  # hazard: data-dependent-control-flow
                continue  # hazard: unsupported-python
            out = out.index_add(0, rows, expert(tokens[rows]) * weight[rows].unsqueeze(1))
        return out


class Vocoder(nn.Module):
    """Upsamples mel frames into a wave and limits its peak two files away."""

    def __init__(self, mels: int = 6, hop: int = 4) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(mels, 1, kernel_size=hop, stride=hop)

    def forward(self, mel: Tensor) -> Tensor:
        return limit(self.up(mel).squeeze(1))


class DepthFromDisparity(nn.Module):
    """Stereo: refuses a disparity that is not positive before it is inverted."""

    def __init__(self, baseline: float = 0.5) -> None:
        super().__init__()
        self.refine = nn.Conv2d(2, 2, 3, padding=1)
        self.baseline = baseline

    def forward(self, disparity: Tensor) -> Tensor:
        assert disparity.ndim == 4, "expected a batch of maps"
        assert (disparity > 0).all(), "disparity must be positive"  # hazard: data-dependent-control-flow
        return self.baseline / (F.softplus(self.refine(disparity)) + disparity)


def _rescue_overflow(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    if output.abs().max() > 3.0:  # hazard: data-dependent-control-flow [HalfSafeDecoder]
        output = output.clamp(-2.5, 2.5)
    return output


class HalfSafeDecoder(nn.Module):
    """Feed-forward stack prepared for half precision, guarded by hooks on its blocks."""

    def __init__(self, width: int = 6, depth: int = 2) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for block in self.blocks:
            block.register_forward_hook(_rescue_overflow)

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return hidden


class ScriptRouter(nn.Module):
    """OCR recogniser with one decoder for each script, picked by the flag given along."""

    def __init__(self, width: int = 6, symbols: int = 5) -> None:
        super().__init__()
        self.latin = nn.Linear(width, symbols)
        self.cyrillic = nn.Linear(width, symbols)
        self.fallback = nn.Linear(width, symbols)

    def forward(self, columns: Tensor, script: Tensor) -> Tensor:
        match script.sum().item():  # hazard: data-dependent-control-flow, unsupported-python
            case 0:
                return self.latin(columns)
            case 2:
                return self.cyrillic(columns)
        return self.fallback(columns)


class _Propagation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.update = nn.Linear(width, width)

    def propagate(self, state: Tensor, adjacency: Tensor) -> Tensor:
        for _ in range(int(adjacency.sum(1).max())):  # hazard: data-dependent-control-flow [MoleculeNet]
            state = torch.tanh(self.update(adjacency @ state)) + state
        return state


class MoleculeNet(_Propagation):
    """As many rounds of inherited message passing as the largest degree."""

    def __init__(self, atoms: int = 5, width: int = 6) -> None:
        super().__init__(width)
        self.embed = nn.Linear(atoms, width)
        self.skip_readout = False

    def forward(self, atoms: Tensor, adjacency: Tensor) -> Tensor:
        state = self.propagate(self.embed(atoms), adjacency)
        return state if self.skip_readout else state.mean(0)


class WindowedAttention(nn.Module):
    """Vision block that pads its map to whole windows."""

    def __init__(self, channels: int = 4, window: int = 4) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(channels, channels, 1)
        self.pool = nn.AvgPool2d(window)
        self.window = window

    def forward(self, feature: Tensor) -> Tensor:
        height, width = feature.shape[-2:]
        if height % self.window or width % self.window:  # hazard: shape-dependent-control-flow
            feature = F.pad(feature, (0, -width % self.window, 0, -height % self.window))
        return self.pool(self.qkv(feature))


class LeakyIntegrator(nn.Module):
    """Spiking layer written out over the time axis."""

    def __init__(self, channels: int = 5, decay: float = 0.8) -> None:
        super().__init__()
        self.drive = nn.Linear(channels, channels)
        self.decay = decay

    def forward(self, events: Tensor) -> Tensor:
        potential = torch.zeros_like(events[:, 0])
        for step in range(events.size(1)):  # hazard: shape-dependent-control-flow
            potential = self.decay * potential + self.drive(events[:, step])
        return potential


def _windows(signal: Tensor, size: int) -> Iterator[Tensor]:
    for start in range(0, signal.size(-1), size):  # hazard: shape-dependent-control-flow [HeartbeatEnsemble]
        yield signal[..., start : start + size]


class HeartbeatEnsemble(nn.Module):
    """ECG classifier, averaged over the windows that a generator cuts."""

    def __init__(self, size: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.classify = nn.Sequential(nn.Linear(size, 12), nn.ReLU(), nn.Linear(12, classes))
        self.size = size

    def forward(self, signal: Tensor) -> Tensor:
        votes = torch.zeros_like(signal[:, :3])
        for window in _windows(signal, self.size):  # hazard: unscriptable-helper
            votes = votes + self.classify(window).softmax(-1)
        return votes / votes.sum(-1, keepdim=True)


class PyramidPooling(nn.Module):
    """Halves the series until it is short, whatever its length was."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.smooth = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, series: Tensor) -> Tensor:
        while series.shape[-1] > 6:  # hazard: shape-dependent-control-flow
            series = F.avg_pool1d(torch.relu(self.smooth(series)), 2)
        return series.amax(-1)


class ClipCaptioner(nn.Module):
    """Video encoder run on one frame after the other."""

    def __init__(self, channels: int = 3, width: int = 6) -> None:
        super().__init__()
        self.frame = nn.Sequential(nn.Conv2d(channels, width, 3, stride=2), nn.AdaptiveAvgPool2d(2), nn.Flatten())

    def forward(self, clip: Tensor) -> Tensor:
        encoded = [self.frame(image) for image in clip.unbind(1)]  # hazard: shape-dependent-control-flow
        return torch.stack(encoded, dim=1).mean(1)


def aligned(merge: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Resize the deeper map to its skip connection where they differ."""

    @wraps(merge)
    def wrapper(module: nn.Module, deep: Tensor, skip: Tensor) -> Tensor:
        if deep.shape[-2:] != skip.shape[-2:]:  # hazard: shape-dependent-control-flow [MiniUNet]
            deep = F.interpolate(deep, size=skip.shape[-2:])
        return merge(module, deep, skip)

    return wrapper


class MiniUNet(nn.Module):
    """Segmentation net of a single level, for maps of odd sizes too."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.out = nn.Conv2d(2 * channels, 2, 1)

    @aligned
    def merge(self, deep: Tensor, skip: Tensor) -> Tensor:
        return self.out(torch.cat([deep, skip], dim=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.merge(self.up(torch.relu(self.down(image))), image)  # hazard: unscriptable-helper


class LongContextAttention(nn.Module):
    """LLM block whose rotary angles are stretched beyond the trained length."""

    table: Tensor

    def __init__(self, width: int = 8, trained: int = 6, longest: int = 32) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        frequency = 100.0 ** -(torch.arange(width // 2) * 2.0 / width)
        self.register_buffer("table", torch.arange(longest).unsqueeze(1) * frequency)
        self.trained = trained

    def forward(self, hidden: Tensor) -> Tensor:
        query = rotate(self.query(hidden), self.table, self.trained)
        key = rotate(self.key(hidden), self.table, self.trained)
        return (query @ key.mT).softmax(-1) @ hidden


class BasketFolder(nn.Module):
    """Recommender that folds the items of a session pairwise into one interest."""

    def __init__(self, items: int = 20, width: int = 6) -> None:
        super().__init__()
        self.items = nn.Embedding(items, width)
        self.blend = nn.Bilinear(width, width, width)

    def _merge(self, interest: Tensor, item: Tensor) -> Tensor:
        return torch.tanh(self.blend(interest, item)) + item

    def forward(self, session: Tensor) -> Tensor:
        steps = self.items(session).unbind(1)
        return reduce(self._merge, steps)  # hazard: shape-dependent-control-flow, unscriptable-helper


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)
    r = torch.randn
    ring = torch.eye(5).roll(1, 0) + torch.eye(5).roll(-1, 0)
    return {
        "EarlyExitEncoder": (
            EarlyExitEncoder().eval(),
            {"tokens": r(2, 5, 8)},
            [{"tokens": r(2, 5, 8) * 6}, {"tokens": r(3, 7, 8) * 0.1}],
        ),
        "SinkhornRouter": (
            SinkhornRouter().eval(),
            {"tokens": r(4, 6) * 0.1},
            [{"tokens": r(4, 6) * 2}, {"tokens": r(6, 6)}],
        ),
        "SparseExperts": (
            SparseExperts().eval(),
            {"tokens": r(2, 6)},
            [{"tokens": r(2, 6) * 3}, {"tokens": r(9, 6) * 3}],
        ),
        "Vocoder": (Vocoder().eval(), {"mel": r(2, 6, 5) * 3}, [{"mel": r(2, 6, 5) * 0.01}, {"mel": r(3, 6, 9) * 4}]),
        "DepthFromDisparity": (
            DepthFromDisparity().eval(),
            {"disparity": torch.rand(2, 2, 6, 6) + 0.1},
            [{"disparity": torch.rand(2, 2, 6, 6) + 0.5}, {"disparity": torch.rand(3, 2, 5, 8) + 0.2}],
        ),
        "HalfSafeDecoder": (
            HalfSafeDecoder().eval(),
            {"hidden": r(3, 6)},
            [{"hidden": r(3, 6) * 20}, {"hidden": r(5, 6) * 9}],
        ),
        "ScriptRouter": (
            ScriptRouter().eval(),
            {"columns": r(2, 7, 6), "script": torch.zeros(2, dtype=torch.long)},
            [
                {"columns": r(2, 7, 6), "script": torch.tensor([2, 0])},
                {"columns": r(3, 4, 6), "script": torch.tensor([1, 0, 0])},
            ],
        ),
        "MoleculeNet": (
            MoleculeNet().eval(),
            {"atoms": r(5, 5), "adjacency": ring},
            [
                {"atoms": r(5, 5), "adjacency": torch.ones(5, 5) - torch.eye(5)},
                {"atoms": r(7, 5), "adjacency": torch.eye(7).roll(1, 0)},
            ],
        ),
        "WindowedAttention": (
            WindowedAttention().eval(),
            {"feature": r(2, 4, 8, 8)},
            [{"feature": r(2, 4, 10, 9)}, {"feature": r(3, 4, 12, 8)}],
        ),
        "LeakyIntegrator": (
            LeakyIntegrator().eval(),
            {"events": r(2, 6, 5)},
            [{"events": r(2, 9, 5)}, {"events": r(3, 6, 5)}],
        ),
        "HeartbeatEnsemble": (
            HeartbeatEnsemble().eval(),
            {"signal": r(2, 24)},
            [{"signal": r(2, 40)}, {"signal": r(3, 32)}],
        ),
        "PyramidPooling": (
            PyramidPooling().eval(),
            {"series": r(2, 4, 16)},
            [{"series": r(2, 4, 50)}, {"series": r(3, 4, 6)}],
        ),
        "ClipCaptioner": (
            ClipCaptioner().eval(),
            {"clip": r(2, 3, 3, 9, 9)},
            [{"clip": r(2, 5, 3, 9, 9)}, {"clip": r(3, 4, 3, 12, 10)}],
        ),
        "MiniUNet": (
            MiniUNet().eval(),
            {"image": r(2, 4, 8, 8)},
            [{"image": r(2, 4, 9, 7)}, {"image": r(3, 4, 12, 10)}],
        ),
        "LongContextAttention": (
            LongContextAttention().eval(),
            {"hidden": r(2, 5, 8)},
            [{"hidden": r(2, 12, 8)}, {"hidden": r(3, 4, 8)}],
        ),
        "BasketFolder": (
            BasketFolder().eval(),
            {"session": torch.randint(0, 20, (3, 4))},
            [{"session": torch.randint(0, 20, (3, 7))}, {"session": torch.randint(0, 20, (5, 3))}],
        ),
    }
