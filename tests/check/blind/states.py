"""Modules in the wrong state: training mode, randomness, written inputs, double precision, several devices."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.utils import parametrize

from tests.check.blind._helpers_inplace import remove_offset
from tests.check.blind._helpers_latents import reparametrise

# ------------------------------------------------------------------- training-mode


class ForgottenFlagDropout(nn.Module):
    """The functional dropout trains unless told not to; the second one is told."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.second = nn.Linear(12, 3)

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.dropout(torch.relu(self.first(features)), p=0.3)  # hazard: training-mode
        hidden = F.dropout(hidden, p=0.2, training=self.training)
        return self.second(hidden)


class FlashAttention(nn.Module):
    """The dropout of the attention does not ask for the mode of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.p = 0.15
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(query, key, value, dropout_p=self.p)  # hazard: training-mode


class MonteCarloHead(nn.Module):
    """Dropout goes on after eval, on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.uncertain = nn.Dropout(0.25)
        self.score = nn.Linear(6, 2)

    def train(self, mode: bool = True) -> "MonteCarloHead":
        super().train(mode)
        self.uncertain.train()  # hazard: training-mode
        return self

    def forward(self, pooled: Tensor) -> Tensor:
        return self.score(self.uncertain(pooled))


class AdaptiveNormBlock(nn.Module):
    """Test-time adaptation takes the statistics of the batch at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def normalise(self, maps: Tensor) -> Tensor:
        norm = self.norm
        return F.batch_norm(maps, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)  # hazard: training-mode

    def forward(self, image: Tensor) -> Tensor:
        return torch.relu(self.normalise(self.conv(image)))


class FrozenBackboneNet(nn.Module):
    """`cases` calls eval on the whole and train on the stochastic layer afterwards, as a fine-tuning script did."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"fc": nn.Linear(5, 5), "drop": nn.AlphaDropout(0.2)})

    def forward(self, rows: Tensor) -> Tensor:
        hidden = torch.selu(self.body["fc"](rows))
        return self.body["drop"](hidden)  # hazard: training-mode


class LeakyEncoder(nn.Module):
    """A randomised leak in a function that the constructor made."""

    def __init__(self) -> None:
        super().__init__()

        def activate(x: Tensor) -> Tensor:
            return F.rrelu(x, 0.1, 0.3, training=True)  # hazard: training-mode

        self.activate = activate
        self.conv = nn.Conv1d(2, 4, 3, padding=1)

    def forward(self, signal: Tensor) -> Tensor:
        return self.activate(self.conv(signal))


# ---------------------------------------------------------------------- randomness


class ReparamEncoder(nn.Module):
    """The draw is two files away."""

    def __init__(self) -> None:
        super().__init__()
        self.stats = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.stats(x).chunk(2, dim=-1)
        return reparametrise(mean, log_variance)


class TokenSampler(nn.Module):
    """Samples the next token of a small language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.lm_head = nn.Linear(8, 16, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits = self.lm_head(self.embed(input_ids)[:, -1]) / 0.7
        share = logits.softmax(-1)
        drawn = torch.multinomial(share, 2, replacement=True)  # hazard: randomness, unsupported-engine-op
        return torch.cat([input_ids, drawn], dim=1)


class GumbelRouter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 4)
        self.experts = nn.Parameter(torch.randn(4, 6, 6))

    @property
    def tau(self) -> float:
        return 0.5

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.router(tokens)
        choice = F.gumbel_softmax(logits, tau=self.tau, hard=True)  # hazard: randomness, unsupported-onnx-op
        return torch.einsum("bte,eij,btj->bti", choice, self.experts, tokens)


class StochasticDepth(nn.Module):
    """One of the layers of the stack; it never looks at `training`."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, branch: Tensor) -> Tensor:
        kept = torch.empty_like(branch[:, :1]).bernoulli_(self.keep)  # hazard: randomness [StochasticStack]
        return branch * kept / self.keep


class StochasticStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), StochasticDepth(0.9)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class MaskedPatches(nn.Module):
    """A masked autoencoder that shuffles its patches also when it only encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Linear(6, 8)

    def forward(self, patches: Tensor) -> Tensor:
        hidden = self.patch(patches)
        order = torch.rand(hidden.shape[0], hidden.shape[1]).argsort(dim=1)  # hazard: randomness
        kept = order[:, : hidden.shape[1] // 2].unsqueeze(-1).expand(-1, -1, 8)
        return hidden.gather(1, kept)


class ActorPolicy(nn.Module):
    """A policy that explores when it should exploit."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(5, 2)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, observation: Tensor) -> Tensor:
        policy = Normal(self.mean(observation), self.log_std.exp(), validate_args=False)  # hazard: unscriptable-helper
        return policy.rsample().tanh()  # hazard: randomness


# ---------------------------------------------------------------- inplace-on-input


class OffsetFreeEncoder(nn.Module):
    """A view of the input is written in a helper."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(8, 4)

    def forward(self, wave: Tensor) -> Tensor:
        return self.encode(remove_offset(wave, 8))


class ImagePreprocessor(nn.Module):
    """`contiguous` gives back the tensor itself where there is nothing to copy."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        image = image.contiguous()
        image -= self.mean  # hazard: inplace-on-input
        out = self.stem(image)
        out += 1.0
        return out


class SpecialTokenMasker(nn.Module):
    """Writes the mask token over the padding; the copy below is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 6)

    def forward(self, token_ids: Tensor, padding: Tensor) -> Tensor:
        token_ids[:, 0] = 11  # hazard: inplace-on-input
        visible = token_ids.clone()
        visible[:, -1] = 3
        return self.embed(visible) * (1 - padding).unsqueeze(-1)


class PreActivation(nn.Module):
    """The in-place activation is the first layer, so it meets the input; the later one does not."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.conv = nn.Conv1d(3, 3, 3, padding=1)
        self.out = nn.Sequential(nn.Conv1d(3, 2, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        activated = self.act(x)  # hazard: inplace-on-input
        return self.out(self.conv(activated))


def clip_coordinates(module: nn.Module, args: tuple[Tensor]) -> None:
    args[0].clamp_(-1.0, 1.0)  # hazard: inplace-on-input [KeypointHead]


class KeypointHead(nn.Module):
    """A pre-hook on the first layer clips what the caller gave."""

    def __init__(self) -> None:
        super().__init__()
        self.refine = nn.Linear(2, 2)
        self.refine.register_forward_pre_hook(clip_coordinates)

    def forward(self, keypoints: Tensor) -> Tensor:
        return keypoints + self.refine(keypoints)


class CouplingLayer(nn.Module):
    """Half of the input is shifted where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, latent: Tensor) -> Tensor:
        first, second = latent.split(4, dim=-1)
        torch.add(second, self.shift(first), out=second)  # hazard: inplace-on-input
        return latent.flip(-1)


# ------------------------------------------------------------------------- float64


class StableSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.score(x), dim=-1, dtype=torch.float64).type_as(x)  # hazard: float64


class HannWindowed(nn.Module):
    """NumPy makes doubles."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.register_buffer("window", torch.from_numpy(np.hanning(size)))  # hazard: float64
        self.power = nn.Parameter(torch.ones(size))

    def forward(self, frames: Tensor) -> Tensor:
        return (frames * self.window).square() * self.power


class SurvivalCurve(nn.Module):
    """The integral of the hazard is summed up in double precision by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Linear(5, 7)

    @classmethod
    def integrate(cls, rate: Tensor) -> Tensor:
        return rate.cumsum(dim=-1, dtype=torch.double)  # hazard: float64

    def forward(self, covariates: Tensor) -> Tensor:
        return torch.exp(-self.integrate(F.softplus(self.rate(covariates))))


class PreciseNorm(nn.Module):
    """A layer of GraphNet; the caller never knows of the doubles within."""

    def forward(self, nodes: Tensor) -> Tensor:
        wide = nodes.double()  # hazard: float64 [GraphNet]
        wide = (wide - wide.mean(dim=1, keepdim=True)) / (wide.std(dim=1, keepdim=True) + 1e-6)
        return wide.float()


class GraphNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.ModuleList([nn.Linear(4, 4), PreciseNorm(), nn.Linear(4, 2)])

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        for step in self.steps:
            nodes = step(adjacency @ nodes)
        return nodes


class TimestepEmbedding(nn.Module):
    """The frequencies of a diffusion model are made anew on every call."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8)

    def forward(self, timestep: Tensor) -> Tensor:
        exponents = torch.linspace(0.0, 1.0, 4, dtype=torch.float64)  # hazard: float64
        angles = timestep.unsqueeze(-1) * torch.pow(10.0, -exponents)
        return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.mlp.weight.dtype))


class DoubleCalibration(nn.Module):
    """The last layer was fitted by SciPy and kept as it came."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(6, 6)
        self.platt = nn.Linear(6, 3, dtype=torch.float64)  # hazard: float64

    def forward(self, rows: Tensor) -> Tensor:
        hidden = torch.relu(self.backbone(rows))
        return self.platt(hidden.to(self.platt.weight.dtype)).to(rows.dtype)


# -------------------------------------------------------------------- multi-device


class ParallelWrapped(nn.Module):
    """The wrapper of the training run was never taken off."""

    def __init__(self) -> None:
        super().__init__()
        encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.encoder = nn.DataParallel(encoder)  # hazard: multi-device
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class TwoStagePipeline(nn.Module):
    """The second stage lives elsewhere, and forward carries the activations over."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 4).to("meta")  # hazard: multi-device

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return self.second(hidden.to("meta"))  # hazard: captured-device


@contextmanager
def init_empty() -> Iterator[None]:
    """Builds modules without storage, as loaders of large checkpoints do."""
    with torch.device("meta"):
        yield


class HalfLoaded(nn.Module):
    """The checkpoint had no weights for the new head, so it stayed empty."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        with init_empty():
            self.head = nn.Linear(6, 3)  # hazard: multi-device

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embed(words).mean(dim=1))


class UnmaterialisedTable(nn.Module):
    """Only the shape of the empty table is read, so nothing fails before the export."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.empty(16, 6, device="meta"))  # hazard: multi-device
        self.proj = nn.Linear(6, 6)

    def forward(self, frames: Tensor) -> Tensor:
        return self.proj(frames) / self.positions.shape[-1]


class Doubled(nn.Module):
    """A parametrization of the weight below."""

    def __init__(self) -> None:
        super().__init__()
        self.ghost = nn.Parameter(torch.ones(4, device="meta"))  # hazard: multi-device [OffloadedAdapter]

    def forward(self, weight: Tensor) -> Tensor:
        return weight * float(self.ghost.numel())


class OffloadedAdapter(nn.Module):
    """The adapter of a parametrized layer was offloaded and never came back."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(4, 4)
        parametrize.register_parametrization(self.base, "weight", Doubled())

    def forward(self, rows: Tensor) -> Tensor:
        return self.base(rows).tanh()


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def pack(
        module: nn.Module, first: dict[str, tuple[int, ...]], second: dict[str, tuple[int, ...]], high: int = 0
    ) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
            if high:
                return {name: torch.randint(0, high, shape) for name, shape in shapes.items()}
            return {name: torch.randn(*shape) for name, shape in shapes.items()}

        return module.eval(), draw(first), [draw(first), draw(second)]

    table = {
        "ForgottenFlagDropout": pack(ForgottenFlagDropout(), {"features": (4, 6)}, {"features": (7, 6)}),
        "FlashAttention": pack(FlashAttention(), {"x": (2, 5, 8)}, {"x": (3, 7, 8)}),
        "MonteCarloHead": pack(MonteCarloHead(), {"pooled": (3, 6)}, {"pooled": (5, 6)}),
        "AdaptiveNormBlock": pack(AdaptiveNormBlock(), {"image": (2, 3, 6, 6)}, {"image": (3, 3, 8, 6)}),
        "FrozenBackboneNet": pack(FrozenBackboneNet(), {"rows": (3, 5)}, {"rows": (6, 5)}),
        "LeakyEncoder": pack(LeakyEncoder(), {"signal": (2, 2, 9)}, {"signal": (3, 2, 12)}),
        "ReparamEncoder": pack(ReparamEncoder(), {"x": (3, 6)}, {"x": (5, 6)}),
        "TokenSampler": pack(TokenSampler(), {"input_ids": (2, 5)}, {"input_ids": (3, 7)}, high=16),
        "GumbelRouter": pack(GumbelRouter(), {"tokens": (2, 4, 6)}, {"tokens": (3, 5, 6)}),
        "StochasticStack": pack(StochasticStack(), {"x": (4, 6)}, {"x": (6, 6)}),
        "MaskedPatches": pack(MaskedPatches(), {"patches": (2, 8, 6)}, {"patches": (3, 12, 6)}),
        "ActorPolicy": pack(ActorPolicy(), {"observation": (3, 5)}, {"observation": (4, 5)}),
        "OffsetFreeEncoder": pack(OffsetFreeEncoder(), {"wave": (2, 24)}, {"wave": (3, 40)}),
        "ImagePreprocessor": pack(ImagePreprocessor(), {"image": (2, 3, 6, 6)}, {"image": (3, 3, 8, 7)}),
        "SpecialTokenMasker": pack(
            SpecialTokenMasker(),
            {"token_ids": (2, 5), "padding": (2, 5)},
            {"token_ids": (3, 6), "padding": (3, 6)},
            high=2,
        ),
        "PreActivation": pack(PreActivation(), {"x": (2, 3, 8)}, {"x": (3, 3, 10)}),
        "KeypointHead": pack(KeypointHead(), {"keypoints": (2, 17, 2)}, {"keypoints": (3, 17, 2)}),
        "CouplingLayer": pack(CouplingLayer(), {"latent": (3, 8)}, {"latent": (5, 8)}),
        "StableSoftmax": pack(StableSoftmax(), {"x": (3, 6)}, {"x": (5, 6)}),
        "HannWindowed": pack(HannWindowed(), {"frames": (2, 5, 8)}, {"frames": (3, 4, 8)}),
        "SurvivalCurve": pack(SurvivalCurve(), {"covariates": (4, 5)}, {"covariates": (6, 5)}),
        "GraphNet": pack(
            GraphNet(), {"nodes": (2, 5, 4), "adjacency": (2, 5, 5)}, {"nodes": (3, 6, 4), "adjacency": (3, 6, 6)}
        ),
        "TimestepEmbedding": pack(TimestepEmbedding(), {"timestep": (3,)}, {"timestep": (5,)}),
        "DoubleCalibration": pack(DoubleCalibration(), {"rows": (3, 6)}, {"rows": (5, 6)}),
        "ParallelWrapped": pack(ParallelWrapped(), {"x": (3, 6)}, {"x": (5, 6)}),
        "TwoStagePipeline": pack(TwoStagePipeline(), {"x": (3, 6)}, {"x": (5, 6)}),
        "HalfLoaded": pack(HalfLoaded(), {"words": (2, 4)}, {"words": (3, 6)}, high=10),
        "UnmaterialisedTable": pack(UnmaterialisedTable(), {"frames": (2, 5, 6)}, {"frames": (3, 4, 6)}),
        "OffloadedAdapter": pack(OffloadedAdapter(), {"rows": (3, 4)}, {"rows": (5, 4)}),
    }
    table["FrozenBackboneNet"][0].get_submodule("body.drop").train()
    return table
