"""Text models with dynamic batch and length."""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from tests.torchscript.blind.control._helpers import FeedForward, build, randint, randn


class SentenceCNN(nn.Module):
    """Kim's sentence classifier: several kernel widths, max over time."""

    def __init__(self, vocab=40, dim=10, kernels=(2, 3, 4)):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.convs = nn.ModuleList(nn.Conv1d(dim, 8, k) for k in kernels)
        self.out = nn.Linear(8 * len(kernels), 3)

    def forward(self, tokens):
        x = self.embed(tokens).transpose(1, 2)
        pooled = [F.relu(conv(x)).amax(dim=2) for conv in self.convs]
        return self.out(torch.cat(pooled, dim=1))


class CausalDecoder(nn.Module):
    """One decoder layer with learned positions, a mask and position ids made by size."""

    def __init__(self, vocab=30, dim=16, heads=4, longest=32):
        super().__init__()
        self.heads = heads
        self.embed = nn.Embedding(vocab, dim)
        self.position = nn.Embedding(longest, dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.mix = nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ff = FeedForward(dim, 24)

    def forward(self, ids):
        b, n = ids.shape
        x = self.embed(ids) + self.position(torch.arange(n, device=ids.device))
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        q, k, v = (t.reshape(b, n, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        future = torch.ones(n, n, dtype=torch.float32, device=ids.device).triu(1) > 0
        scores = (q @ k.transpose(-1, -2)) / math.sqrt(x.shape[-1] // self.heads)
        scores = scores.masked_fill(future, float("-inf"))
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1)
        x = x + self.mix(y)
        x = x + self.ff(self.norm2(x))
        return x @ self.embed.weight.t()


class MaskedPairEncoder(nn.Module):
    """Two masked sentences to unit vectors and their cosine table."""

    def __init__(self, vocab=30, dim=12):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.gate = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, 8)

    def encode(self, tokens, mask):
        x = self.embed(tokens)
        x = x * torch.sigmoid(self.gate(x))
        m = mask.unsqueeze(-1).to(x.dtype)
        return F.normalize(self.proj((x * m).sum(1) / m.sum(1).clamp(min=1.0)), dim=-1)

    def forward(self, left, left_mask, right, right_mask):
        a, b = self.encode(left, left_mask), self.encode(right, right_mask)
        return a, b, a @ b.t()


class GRUTagger(nn.Module):
    """Bidirectional tagger with a final projection per token."""

    def __init__(self, vocab=25, dim=10, tags=5):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.rnn = nn.GRU(dim, dim, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * dim, tags)

    def forward(self, words):
        h, last = self.rnn(self.embed(words))
        return self.out(h).log_softmax(-1), last.transpose(0, 1).flatten(1)


def cases():
    t = lambda name, s, b, n, v: {name: randint(s, 0, v, b, n)}
    out = {}
    k = lambda s, b, n: t("tokens", s, b, n, 40)
    out["SentenceCNN"] = (
        build(SentenceCNN, 61),
        k(1, 2, 9),
        [k(2, 3, 14), k(3, 4, 6)],
        [k(4, 2, 7), k(5, 3, 12), k(6, 4, 10), k(7, 2, 13)],
    )
    d = lambda s, b, n: t("ids", s, b, n, 30)
    out["CausalDecoder"] = (
        build(CausalDecoder, 62),
        d(1, 2, 8),
        [d(2, 3, 13), d(3, 1, 5)],
        [d(4, 2, 6), d(5, 1, 11), d(6, 3, 9), d(7, 4, 12)],
    )

    def pair(s, b, n, c, m):
        mask = lambda q, r, w: torch.arange(w)[None] < randint(q, 1, w + 1, r, 1)
        return {
            "left": randint(s, 0, 30, b, n),
            "left_mask": mask(s + 1, b, n),
            "right": randint(s + 2, 0, 30, c, m),
            "right_mask": mask(s + 3, c, m),
        }

    out["MaskedPairEncoder"] = (
        build(MaskedPairEncoder, 63),
        pair(1, 3, 7, 2, 9),
        [pair(11, 2, 10, 4, 6), pair(21, 5, 5, 3, 8)],
        [pair(31, 4, 6, 2, 7), pair(41, 2, 9, 3, 10), pair(51, 3, 8, 4, 5), pair(61, 5, 7, 2, 6)],
    )
    g = lambda s, b, n: t("words", s, b, n, 25)
    out["GRUTagger"] = (
        build(GRUTagger, 64),
        g(1, 2, 8),
        [g(2, 3, 12), g(3, 4, 5)],
        [g(4, 3, 7), g(5, 2, 10), g(6, 4, 6), g(7, 2, 11)],
    )
    return out
