"""Sequence models that plain tracing captures."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import FeedForward, build, ri, rn


class PaddedTransformer(nn.Module):
    """Encoder whose mask is made from lengths; masked mean pooling."""

    def __init__(self, vocab=30, dim=16, heads=2, max_pos=64):
        super().__init__()
        self.heads = heads
        self.tok, self.pos = nn.Embedding(vocab, dim), nn.Embedding(max_pos, dim)
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.n1, self.n2, self.ffn = nn.LayerNorm(dim), nn.LayerNorm(dim), FeedForward(dim, 32)
        self.head = nn.Linear(dim, 4)

    def split(self, x):
        return x.view(x.size(0), x.size(1), self.heads, -1).transpose(1, 2)

    def forward(self, tokens, lengths):
        pos = torch.arange(tokens.size(1))
        mask = pos.unsqueeze(0) < lengths.unsqueeze(1)
        x = self.tok(tokens) + self.pos(pos)
        y = self.n1(x)
        s = self.split(self.q(y)) @ self.split(self.k(y)).transpose(-1, -2) / math.sqrt(8)
        s = s.masked_fill(~mask[:, None, None, :], -1e9)
        y = (s.softmax(-1) @ self.split(self.v(y))).transpose(1, 2)
        x = x + self.o(y.reshape(y.size(0), y.size(1), -1))
        x = x + self.ffn(self.n2(x))
        m = mask.unsqueeze(-1).to(x.dtype)
        return self.head((x * m).sum(1) / m.sum(1))


class RealRotaryLM(nn.Module):
    """Causal LM, rotate-half RoPE, SwiGLU; positions after a cache of any length."""

    def __init__(self, vocab=30, dim=16, heads=2):
        super().__init__()
        self.heads, self.d = heads, dim // heads
        self.emb, self.qkv, self.o = nn.Embedding(vocab, dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.gate, self.up, self.down = nn.Linear(dim, 24), nn.Linear(dim, 24), nn.Linear(24, dim)
        self.norm = nn.LayerNorm(dim)
        self.register_buffer("inv", 1.0 / 1000 ** (torch.arange(0, self.d, 2).float() / self.d))

    def rope(self, x, pos):
        f = pos.to(x.dtype).unsqueeze(-1) * self.inv
        f = torch.cat([f, f], -1)
        a, b = x.chunk(2, -1)
        return x * f.cos() + torch.cat([-b, a], -1) * f.sin()

    def forward(self, ids, past_key, past_value):
        B, S, P = ids.size(0), ids.size(1), past_key.size(2)
        pos = torch.arange(P, P + S)
        x = self.emb(ids)
        q, k, v = self.qkv(self.norm(x)).view(B, S, 3, self.heads, self.d).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.rope(q, pos), self.rope(k, pos)
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
        hidden = torch.arange(k.size(2)).unsqueeze(0) > pos.unsqueeze(1)
        s = (q @ k.transpose(-1, -2) / math.sqrt(self.d)).masked_fill(hidden, -1e9)
        x = x + self.o((s.softmax(-1) @ v).transpose(1, 2).reshape(B, S, -1))
        y = self.norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return x @ self.emb.weight.t(), k, v


class BiGRUAttention(nn.Module):
    """GRU over time and additive attention pooling."""

    def __init__(self, fin=6, dim=8):
        super().__init__()
        self.rnn = nn.GRU(fin, dim, num_layers=2, bidirectional=True, batch_first=True)
        self.score, self.ctx = nn.Linear(2 * dim, 8), nn.Linear(8, 1, bias=False)
        self.fc = nn.Linear(2 * dim, 3)

    def forward(self, x):
        y, _ = self.rnn(x)
        a = self.ctx(torch.tanh(self.score(y))).softmax(1)
        return self.fc((a * y).sum(1)), a.squeeze(-1)


class ConvMelNet(nn.Module):
    """STFT as a strided convolution with a DFT basis, mel, log with a floor, CMVN."""

    def __init__(self, n_fft=16, hop=4, mels=6):
        super().__init__()
        n, k = torch.arange(n_fft), torch.arange(n_fft // 2 + 1)
        ang = 2 * math.pi * k[:, None] * n[None] / n_fft
        win = torch.hann_window(n_fft)
        self.register_buffer("basis", torch.cat([ang.cos(), -ang.sin()]).mul(win).unsqueeze(1))
        self.register_buffer("mel", torch.rand(mels, n_fft // 2 + 1))
        self.hop, self.n_fft = hop, n_fft
        self.conv = nn.Conv1d(mels, 8, 3, padding=1)

    def forward(self, wave):
        x = F.pad(wave.unsqueeze(1), (self.n_fft // 2, self.n_fft // 2), mode="reflect")
        re, im = F.conv1d(x, self.basis, stride=self.hop).chunk(2, 1)
        lm = torch.log(torch.clamp(self.mel @ (re**2 + im**2), min=1e-5))
        lm = lm - lm.mean(2, keepdim=True)
        lm = lm / (lm.pow(2).mean(2, keepdim=True).sqrt() + 1e-3)
        return F.gelu(self.conv(lm)), lm


class KeyValueMemory(nn.Module):
    """End-to-end memory network, three hops over any number of slots of any length."""

    def __init__(self, vocab=25, dim=12, hops=3):
        super().__init__()
        self.hops = hops
        self.A, self.C, self.B = (nn.Embedding(vocab, dim, padding_idx=0) for _ in range(3))
        self.H, self.out = nn.Linear(dim, dim), nn.Linear(dim, vocab)

    def forward(self, story, query):
        pad = (story == 0).all(-1)
        m, c = self.A(story).sum(2), self.C(story).sum(2)
        u = self.B(query).sum(1)
        for _ in range(self.hops):
            p = (m @ u.unsqueeze(-1)).squeeze(-1).masked_fill(pad, -1e9).softmax(1)
            u = self.H(u) + (p.unsqueeze(-1) * c).sum(1)
        return self.out(u).log_softmax(-1)


def cases():
    def pt(seed, lens, T):
        return {"tokens": ri(seed, 0, 30, len(lens), T), "lengths": torch.tensor(lens)}

    def rl(seed, b, s, p):
        return {
            "ids": ri(seed, 0, 30, b, s),
            "past_key": rn(seed + 1, b, 2, p, 8),
            "past_value": rn(seed + 2, b, 2, p, 8),
        }

    def st(seed, b, n, L, q, pad=True):
        s = ri(seed, 1, 25, b, n, L)
        if pad:
            s[0, -1] = 0
        return {"story": s, "query": ri(seed + 1, 1, 25, b, q)}

    def x(name, seed, *shape):
        return {name: rn(seed, *shape)}

    return {
        "PaddedTransformer": (
            build(PaddedTransformer, seed=211),
            pt(1, [5, 8], 8),
            [pt(2, [3, 11, 7], 11), pt(3, [6], 9)],
            [pt(4, [10, 4], 10), pt(5, [2, 6, 9, 5], 12), pt(6, [7], 7), pt(7, [13, 8, 4], 14)],
        ),
        "RealRotaryLM": (
            build(RealRotaryLM, seed=212),
            rl(1, 2, 5, 3),
            [rl(2, 1, 8, 6), rl(3, 3, 4, 2)],
            [rl(4, 2, 7, 8), rl(5, 4, 3, 5), rl(6, 1, 10, 4), rl(7, 3, 6, 7)],
        ),
        "BiGRUAttention": (
            build(BiGRUAttention, seed=213),
            x("x", 1, 2, 7, 6),
            [x("x", 2, 1, 12, 6), x("x", 3, 4, 5, 6)],
            [x("x", 4, 3, 9, 6), x("x", 5, 1, 15, 6), x("x", 6, 5, 4, 6), x("x", 7, 2, 11, 6)],
        ),
        "ConvMelNet": (
            build(ConvMelNet, seed=215),
            x("wave", 1, 2, 80),
            [x("wave", 2, 1, 121), x("wave", 3, 3, 57)],
            [x("wave", 4, 2, 99), x("wave", 5, 4, 140), x("wave", 6, 1, 64), x("wave", 7, 3, 75)],
        ),
        "KeyValueMemory": (
            build(KeyValueMemory, seed=216),
            st(1, 2, 5, 4, 3),
            [st(2, 1, 8, 6, 5, False), st(3, 3, 4, 3, 6)],
            [st(4, 2, 7, 5, 4), st(5, 4, 3, 6, 7, False), st(6, 1, 10, 4, 3), st(7, 3, 6, 7, 5)],
        ),
    }
