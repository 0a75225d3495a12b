import math

import torch
from torch import nn
import torch.nn.functional as F

from tests.torchscript.blind.operators._helpers import assemble, lengths_to_mask, randint, randn


class MaskedEncoder(nn.Module):
    """Pre-norm transformer block, hand-written attention with a padding mask."""

    def __init__(self, vocab=50, dim=16, heads=2):
        super().__init__()
        self.heads = heads
        self.emb = nn.Embedding(vocab, dim)
        self.n1, self.n2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.ff = nn.Sequential(nn.Linear(dim, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, dim))

    def forward(self, tokens):
        pad = tokens == 0
        x = self.emb(tokens)
        b, t, d = x.shape
        q, k, v = self.qkv(self.n1(x)).view(b, t, 3, self.heads, 8).permute(2, 0, 3, 1, 4).unbind(0)
        a = q @ k.transpose(-2, -1) / math.sqrt(8)
        a = a.masked_fill(pad[:, None, None, :], -1e4).softmax(-1)
        x = x + self.proj((a @ v).transpose(1, 2).reshape(b, t, d))
        return x + self.ff(self.n2(x))


class GruForecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 12, num_layers=2, batch_first=True)
        self.mu = nn.Linear(12, 1)
        self.sigma = nn.Linear(12, 1)

    def forward(self, series):
        y, h = self.gru(series)
        return self.mu(y).squeeze(-1), F.softplus(self.sigma(h[-1]))


class CausalTcn(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv1d(4 if i == 0 else 8, 8, 3, dilation=2**i) for i in range(3)])
        self.out = nn.Conv1d(8, 2, 1)

    def forward(self, signal):
        x = signal
        for i, conv in enumerate(self.convs):
            y = torch.tanh(conv(F.pad(x, (2 * 2**i, 0))))
            x = y if i == 0 else x + y
        return self.out(x)


class LastStepGather(nn.Module):
    """Reads the state at the last valid step and a running mean by cumsum."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(5, 8)
        self.g = nn.Linear(16, 4)

    def forward(self, x, lengths):
        keep = lengths_to_mask(lengths, x.size(1)).unsqueeze(-1).to(x.dtype)
        h = torch.relu(self.f(x)) * keep
        mean = h.cumsum(1) / keep.cumsum(1)
        idx = (lengths - 1)[:, None, None].expand(-1, 1, 8)
        last = torch.cat([h.gather(1, idx), mean.gather(1, idx)], dim=-1).squeeze(1)
        return self.g(last)


class BilinearQa(nn.Module):
    """Passage-question attention through einsum and scaled_dot_product_attention."""

    def __init__(self, dim=8):
        super().__init__()
        self.w = nn.Parameter(0.3 * torch.randn(dim, dim))
        self.span = nn.Linear(2 * dim, 2)

    def forward(self, passage, question):
        sim = torch.einsum("bpd,de,bqe->bpq", passage, self.w, question)
        ctx = sim.softmax(-1) @ question
        ctx = ctx + F.scaled_dot_product_attention(passage, question, question)
        start, end = self.span(torch.cat([passage, ctx], dim=-1)).unbind(-1)
        return start.log_softmax(-1), end.log_softmax(-1)


def _tok(s, b, t):
    n = randint(s, 2, t + 1, (b,))
    return {"tokens": randint(s + 1, 1, 50, (b, t)) * lengths_to_mask(n, t)}


def cases():
    return {
        "MaskedEncoder": assemble(
            MaskedEncoder, _tok, (2, 9), [(3, 12), (1, 6)], [(4, 10), (2, 15), (5, 7), (1, 11)], 901
        ),
        "GruForecaster": assemble(
            GruForecaster,
            lambda s, b, t: {"series": randn(s, b, t, 3)},
            (2, 9),
            [(3, 14), (1, 6)],
            [(4, 11), (2, 17), (5, 8), (1, 12)],
            902,
        ),
        "CausalTcn": assemble(
            CausalTcn,
            lambda s, b, t: {"signal": randn(s, b, 4, t)},
            (2, 20),
            [(3, 31), (1, 16)],
            [(4, 25), (2, 40), (5, 18), (1, 28)],
            903,
        ),
        "LastStepGather": assemble(
            LastStepGather,
            lambda s, b, t: {"x": randn(s, b, t, 5), "lengths": randint(s + 1, 1, t + 1, (b,))},
            (2, 8),
            [(3, 12), (4, 6)],
            [(5, 9), (2, 14), (3, 7), (6, 10)],
            904,
        ),
        "BilinearQa": assemble(
            BilinearQa,
            lambda s, b, p, q: {"passage": randn(s, b, p, 8), "question": randn(s + 1, b, q, 8)},
            (2, 9, 5),
            [(3, 14, 4), (1, 7, 8)],
            [(4, 11, 6), (2, 16, 3), (5, 8, 7), (1, 12, 5)],
            905,
        ),
    }
