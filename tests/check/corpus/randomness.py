"""Models in eval mode whose output depends on a random draw."""

import random
from collections.abc import Callable
from functools import wraps

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.check.corpus import _helpers_noise


class Reparameterize(nn.Module):
    def __init__(self, dim: int = 6, latent: int = 3) -> None:
        super().__init__()
        self.mean, self.logvar = nn.Linear(dim, latent), nn.Linear(dim, latent)
        self.decoder = nn.Linear(latent, dim)

    def forward(self, x: Tensor) -> Tensor:
        std = (0.5 * self.logvar(x)).exp()
        z = self.mean(x) + std * torch.randn_like(std)  # hazard: randomness
        return self.decoder(z)


class ForgottenFlag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc1(x))
        x = F.dropout(x, p=0.5)  # hazard: randomness, unsupported-engine-op
        return self.fc2(x)


class GumbelRouter(nn.Module):
    def __init__(self, dim: int = 6, experts: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, experts)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.gate(x)
        return (logits + _helpers_noise.gumbel_like(logits)).softmax(-1)


class HardGumbel(nn.Module):
    def __init__(self, dim: int = 6, codes: int = 4) -> None:
        super().__init__()
        self.to_codes = nn.Linear(dim, codes)
        self.codebook = nn.Parameter(torch.randn(codes, dim))

    def forward(self, x: Tensor) -> Tensor:
        one_hot = F.gumbel_softmax(self.to_codes(x), tau=1.0, hard=True)  # hazard: randomness, unsupported-onnx-op
        return one_hot @ self.codebook


class StochasticDepth(nn.Module):
    def __init__(self, dim: int = 6, p: float = 0.2) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return _helpers_noise.stochastic_depth(x, self.fc(x), self.p)


class JitterAtInference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.augment = _helpers_noise.RandomJitter(0.9, 1.1)
        self.conv = nn.Conv1d(2, 3, 3, padding=1)

    def forward(self, signal: Tensor) -> Tensor:
        return self.conv(self.augment(signal))  # hazard: unscriptable-helper


class LayerDrop(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if random.random() < 0.1:  # hazard: randomness, unscriptable-helper
                continue
            x = torch.relu(layer(x))
        return x


class NumpyNoise(nn.Module):
    def __init__(self, sigma: float = 0.1) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        noise = np.random.normal(0.0, self.sigma, size=x.shape)  # hazard: randomness, unscriptable-helper
        return x + torch.from_numpy(noise.astype(np.float32))


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.generator = torch.Generator().manual_seed(7)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h + 0.05 * torch.randn(h.shape, generator=self.generator)  # hazard: randomness


class NextToken(nn.Module):
    def __init__(self, vocab: int = 12, dim: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.lm_head = nn.Linear(dim, vocab)

    def forward(self, ids: Tensor) -> Tensor:
        probs = self.lm_head(self.embed(ids)[:, -1]).softmax(-1)
        return torch.multinomial(probs, num_samples=1)  # hazard: randomness, unsupported-engine-op


class FunctionalMlp(nn.Module):
    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(dim, dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return _helpers_noise.mlp(x, self.weight, self.bias)


def noisy(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(fn)
    def wrapper(self: nn.Module, x: Tensor) -> Tensor:
        return fn(self, x + 0.01 * torch.rand(x.shape[-1]))  # hazard: randomness [DecoratedForward]

    return wrapper


class DecoratedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 3)

    @noisy
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class HookNoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 5)
        self.fc.register_forward_hook(self._perturb)
        self.head = nn.Linear(5, 2)

    @staticmethod
    def _perturb(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.normal(output, 0.01)  # hazard: randomness

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc(x))


class RandomMasking(nn.Module):
    """As in masked autoencoders: a random subset of the patches is kept."""

    def forward(self, patches: Tensor) -> Tensor:
        order = torch.randperm(patches.shape[1])  # hazard: randomness, unsupported-onnx-op
        return patches[:, order[: patches.shape[1] // 2]]


class AttentionDropout(nn.Module):
    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)  # hazard: randomness


class DistributionSample(nn.Module):
    def __init__(self, dim: int = 4) -> None:
        super().__init__()
        self.policy = nn.Linear(dim, 2)

    def forward(self, state: Tensor) -> Tensor:
        loc, scale = self.policy(state).chunk(2, dim=-1)
        dist = torch.distributions.Normal(loc, F.softplus(scale) + 1e-3)  # hazard: unscriptable-helper
        return dist.rsample()  # hazard: randomness


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def rows(module: nn.Module, name: str, *tail: int) -> tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]:
        return module.eval(), {name: torch.randn(4, *tail)}, [{name: torch.randn(n, *tail)} for n in (3, 5)]

    return {
        "Reparameterize": rows(Reparameterize(), "x", 6),
        "ForgottenFlag": rows(ForgottenFlag(), "x", 6),
        "GumbelRouter": rows(GumbelRouter(), "x", 6),
        "HardGumbel": rows(HardGumbel(), "x", 6),
        "StochasticDepth": rows(StochasticDepth(), "x", 6),
        "JitterAtInference": rows(JitterAtInference(), "signal", 2, 7),
        "LayerDrop": rows(LayerDrop(), "x", 6),
        "NumpyNoise": rows(NumpyNoise(), "x", 6),
        "OwnGenerator": rows(OwnGenerator(), "x", 4),
        "NextToken": (
            NextToken().eval(),
            {"ids": torch.randint(0, 12, (2, 5))},
            [{"ids": torch.randint(0, 12, (3, 4))}, {"ids": torch.randint(0, 12, (2, 6))}],
        ),
        "FunctionalMlp": rows(FunctionalMlp(), "x", 6),
        "DecoratedForward": rows(DecoratedForward(), "x", 5),
        "HookNoise": rows(HookNoise(), "x", 5),
        "RandomMasking": rows(RandomMasking(), "patches", 6, 4),
        "AttentionDropout": rows(AttentionDropout(), "tokens", 5, 8),
        "DistributionSample": rows(DistributionSample(), "state", 4),
    }
