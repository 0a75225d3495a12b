import math

import torch
from torch import nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.torchscript.blind.operators._helpers import assemble, lengths_to_mask, randint, randn, sinusoid_table
from tests.torchscript.blind.operators._nputil import bucket_of

PAD = 0
VOCAB = 60


class PackedTagger(nn.Module):
    """BiLSTM tagger on packed sequences; in-place zeroing of what is past the end."""

    def __init__(self, dim=12, hidden=10, tags=6):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim, padding_idx=PAD)
        self.lstm = nn.LSTM(dim, hidden, bidirectional=True, batch_first=True)
        self.out = nn.Linear(2 * hidden, tags)

    def forward(self, tokens, lengths):
        x = self.emb(tokens)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, (h, _) = self.lstm(packed)
        y, n = pad_packed_sequence(y, batch_first=True, total_length=tokens.size(1))
        logits = self.out(y)
        for i, k in enumerate(n.tolist()):
            logits[i, k:] = 0
        return logits, torch.cat([h[0], h[1]], dim=-1)


class NestedEncoder(nn.Module):
    """nn.TransformerEncoder with a padding mask (nested-tensor fast path), masked mean."""

    def __init__(self, dim=16):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim)
        layer = nn.TransformerEncoderLayer(dim, 4, 32, dropout=0.1, batch_first=True)
        self.enc = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(dim, 3)
        self.requires_grad_(False)

    def forward(self, tokens):
        pad = tokens == PAD
        h = self.enc(self.emb(tokens), src_key_padding_mask=pad)
        keep = (~pad[:, : h.size(1)]).unsqueeze(-1)
        pooled = (h * keep).sum(1) / keep.sum(1)
        return self.head(pooled)


class CachedPositionLM(nn.Module):
    """Causal LM: lazily grown position table, and a stashed attention map used by a copy head."""

    def __init__(self, dim=16):
        super().__init__()
        self.device = torch.device("cpu")
        self.emb = nn.Embedding(VOCAB, dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, VOCAB)
        self.gate = nn.Linear(dim, 1)
        self.pe = None
        self.attn = None

    def _positions(self, t):
        if self.pe is None or self.pe.size(0) < t:
            size = max(16, 2 ** math.ceil(math.log2(t)))
            self.pe = sinusoid_table(size, self.emb.embedding_dim).to(self.device)
        return self.pe[:t]

    def _attend(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        t = x.shape[1]
        future = torch.triu(torch.ones(t, t, dtype=torch.bool, device=self.device), 1)
        score = (q @ k.transpose(1, 2)) / x.shape[-1] ** 0.5
        self.attn = score.masked_fill(future, float("-inf")).softmax(-1)
        return x + self.attn @ v

    def forward(self, tokens):
        x = self.emb(tokens) + self._positions(tokens.shape[1])
        x = self._attend(x)
        p = self.out(x).softmax(-1)
        g = torch.sigmoid(self.gate(x))
        copy = torch.zeros_like(p)
        copy.scatter_add_(2, tokens[:, None, :].expand(-1, tokens.shape[1], -1), self.attn)
        return torch.log(g * p + (1 - g) * copy)


class RotaryComplexAttention(nn.Module):
    """Rotary embedding by complex multiplication, SDPA under a causal and padding mask."""

    def __init__(self, dim=24, heads=3):
        super().__init__()
        self.heads = heads
        self.wq, self.wk = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.wv, self.wo = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def rotate(self, x):
        t, d = x.shape[-2], x.shape[-1]
        freq = 1.0 / 10000 ** (torch.arange(0, d, 2) / d)
        angle = torch.outer(torch.arange(t), freq)
        z = torch.view_as_complex(x.reshape(*x.shape[:-1], d // 2, 2))
        z = z * torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(z).flatten(-2)

    def forward(self, x, lengths):
        b, t, d = x.shape
        q, k, v = (f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.wq, self.wk, self.wv))
        live = lengths_to_mask(lengths, t)
        mask = torch.ones(t, t, dtype=torch.bool).tril() & live[:, None, None, :]
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, attn_mask=mask)
        y = self.wo(y.transpose(1, 2).reshape(b, t, d))
        return y * live.unsqueeze(-1)


class TextDropout(nn.Module):
    """Text classifier; F.dropout defaults to training=True, so eval mode still drops."""

    def __init__(self, dim=16):
        super().__init__()
        self.emb = nn.Embedding(VOCAB, dim)
        self.fc1 = nn.Linear(dim, 32)
        self.fc2 = nn.Linear(32, 4)

    def forward(self, tokens):
        x = self.emb(tokens)
        keep = (tokens != PAD).unsqueeze(-1).float()
        x = (x * keep).sum(1) / keep.sum(1)
        return self.fc2(F.dropout(F.relu(self.fc1(x)), p=0.2))


class HashedNgramTagger(nn.Module):
    """Decodes bytes, hashes character trigrams with MD5 and sums their embeddings."""

    def __init__(self, buckets=64, dim=8):
        super().__init__()
        self.buckets = buckets
        self.emb = nn.Embedding(buckets, dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, chars):
        rows = []
        for row in chars:
            text = bytes(row.tolist()).decode("latin-1").lower()
            ids = [bucket_of(text[i : i + 3], self.buckets) for i in range(len(text) - 2)]
            rows.append(self.emb(torch.tensor(ids)).mean(0))
        return self.head(torch.stack(rows))


IMPOSSIBLE = {"TextDropout", "HashedNgramTagger"}


def _lens(s, b, t, full=True):
    n = randint(s, 2, t + 1, (b,))
    if full:
        n[int(randint(s + 1, 0, b, (1,)))] = t
    else:
        n = n.clamp(max=t - 2)
    return n


def _tagged(s, b, t, full=True):
    n = _lens(s, b, t, full)
    tok = randint(s + 2, 1, VOCAB, (b, t)) * lengths_to_mask(n, t)
    return {"tokens": tok, "lengths": n}


def _padded(s, b, t, full=True):
    return {"tokens": _tagged(s, b, t, full)["tokens"]}


def _tokens(s, b, t):
    return {"tokens": randint(s, 1, VOCAB, (b, t))}


def _rot(s, b, t):
    return {"x": randn(s, b, t, 24), "lengths": _lens(s + 1, b, t)}


def cases():
    return {
        "PackedTagger": assemble(
            PackedTagger,
            _tagged,
            (3, 8),
            [(2, 11), (5, 6, False), (4, 9)],
            [(6, 7), (2, 12, False), (3, 10), (4, 5), (7, 9, False)],
            301,
        ),
        "NestedEncoder": assemble(
            NestedEncoder,
            _padded,
            (3, 9),
            [(2, 12, False), (5, 7), (4, 10, False)],
            [(6, 8), (3, 13, False), (2, 6), (4, 11), (7, 9, False)],
            302,
        ),
        "CachedPositionLM": assemble(
            CachedPositionLM,
            _tokens,
            (2, 9),
            [(3, 14), (1, 6), (4, 21)],
            [(5, 17), (2, 8), (3, 12), (1, 20), (4, 7)],
            303,
        ),
        "RotaryComplexAttention": assemble(
            RotaryComplexAttention, _rot, (2, 7), [(3, 10), (1, 5), (4, 12)], [(5, 9), (2, 13), (3, 6), (1, 11)], 304
        ),
        "TextDropout": assemble(
            TextDropout, _padded, (2, 8), [(3, 11), (1, 6)], [(4, 9), (2, 12), (5, 7), (3, 10)], 305
        ),
        "HashedNgramTagger": assemble(
            HashedNgramTagger,
            lambda s, b, t: {"chars": randint(s, 97, 123, (b, t), torch.uint8)},
            (2, 9),
            [(3, 12), (1, 7)],
            [(4, 10), (2, 15), (5, 8), (3, 11)],
            306,
        ),
    }
