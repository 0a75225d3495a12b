"""Models which are not functions of their inputs: a capture should be refused."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from tests.torchscript.blind.control._helpers import FeedForward, build, randint, randn

IMPOSSIBLE = {"LatentSampler", "WarmupBlend", "SaltedVocabulary", "StreamingCarry"}


class LatentSampler(nn.Module):
    """Variational autoencoder that samples even at inference."""

    def __init__(self, dim=10, latent=4):
        super().__init__()
        self.encode = nn.Linear(dim, 2 * latent)
        self.decode = FeedForward(latent, 16, dim)

    def forward(self, x):
        mean, logvar = self.encode(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.decode(z), mean


class WarmupBlend(nn.Module):
    """Blends a new controller in over its first calls."""

    def __init__(self, dim=6, warmup=10):
        super().__init__()
        self.old, self.new = nn.Linear(dim, 3), FeedForward(dim, 12, 3)
        self.warmup, self.calls = warmup, 0

    def forward(self, state):
        self.calls += 1
        share = min(1.0, self.calls / self.warmup)
        return (1 - share) * self.old(state) + share * self.new(state)


class SaltedVocabulary(nn.Module):
    """Hashing trick with Python's own salted hash of each bigram's text."""

    def __init__(self, buckets=32, dim=8):
        super().__init__()
        self.buckets = buckets
        self.table = nn.Embedding(buckets, dim)
        self.out = nn.Linear(dim, 3)

    def forward(self, tokens):
        rows = [[hash(f"{a}_{b}") % self.buckets for a, b in zip(row, row[1:])] for row in tokens.tolist()]
        return self.out(self.table(torch.tensor(rows)).mean(1))


class StreamingCarry(nn.Module):
    """Speech enhancement by blocks: keeps the last block's state and tail between calls."""

    def __init__(self, dim=8):
        super().__init__()
        self.cell = nn.GRU(4, dim, batch_first=True)
        self.out = nn.Linear(dim, 4)
        self.state = None

    def forward(self, block):
        h, self.state = self.cell(block, self.state)
        self.state = self.state.detach()
        return self.out(h)


def cases():
    x = lambda s, b: {"x": randn(s, b, 10)}
    st = lambda s, b: {"state": randn(s, b, 6)}
    tk = lambda s, b, n: {"tokens": randint(s, 0, 100, b, n)}
    bl = lambda s, b, n: {"block": randn(s, b, n, 4)}
    return {
        "LatentSampler": (build(LatentSampler, 51), x(1, 3), [x(2, 1), x(3, 5)], [x(4, 2), x(5, 4), x(6, 3), x(7, 5)]),
        "WarmupBlend": (
            build(WarmupBlend, 52),
            st(1, 2),
            [st(2, 4), st(3, 1)],
            [st(4, 3), st(5, 2), st(6, 4), st(7, 1)],
        ),
        "SaltedVocabulary": (
            build(SaltedVocabulary, 53),
            tk(1, 2, 6),
            [tk(2, 3, 9), tk(3, 1, 4)],
            [tk(4, 2, 7), tk(5, 3, 5), tk(6, 1, 8), tk(7, 2, 9)],
        ),
        "StreamingCarry": (
            build(StreamingCarry, 54),
            bl(1, 2, 6),
            [bl(2, 2, 9), bl(3, 2, 4), bl(4, 2, 7)],
            [bl(5, 2, 8), bl(6, 2, 5), bl(7, 2, 10), bl(8, 2, 3)],
        ),
    }
