"""Good models of text: masks and positions that follow the length, recurrent nets, routing kept in tensors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


class RotaryAttention(nn.Module):
    def __init__(self, dim: int = 8, heads: int = 2, base: float = 10_000.0) -> None:
        super().__init__()
        self.dim, self.heads, self.head_dim = dim, heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        inv_freq = base ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def angles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at = torch.arange(x.size(1), device=x.device, dtype=self.inv_freq.dtype)
        freqs = torch.outer(at, self.inv_freq)
        emb = torch.cat((freqs, freqs), dim=-1)
        return emb.cos(), emb.sin()

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        cos, sin = self.angles(x)
        q, k, v = (p.view(b, t, self.heads, self.head_dim).transpose(1, 2) for p in self.qkv(x).split(self.dim, -1))
        q, k = (p * cos + rotate_half(p) * sin for p in (q, k))
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
        return (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, t, self.dim)


class CausalBlock(nn.Module):
    """GPT's block, with positions and a triangle that are sliced to the length."""

    def __init__(self, vocab: int = 17, dim: int = 8, context: int = 16) -> None:
        super().__init__()
        self.tok = nn.Embedding(vocab, dim)
        self.pos = nn.Parameter(0.02 * torch.randn(1, context, dim))
        self.register_buffer("tril", torch.tril(torch.ones(context, context, dtype=torch.bool)))
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.ln = nn.LayerNorm(dim)
        self.drop = nn.Dropout(0.1)

    def forward(self, idx: Tensor) -> Tensor:
        t = idx.size(1)
        x = self.drop(self.tok(idx) + self.pos[:, :t])
        h = self.ln(x)
        att = self.q(h) @ self.k(h).transpose(-2, -1) / math.sqrt(self.ln.normalized_shape[0])
        att = att.masked_fill(~self.tril[:t, :t], float("-inf"))
        return x + self.drop(F.softmax(att, dim=-1)) @ self.v(h)


class RelativeBuckets(nn.Module):
    """T5's bias: the buckets of small and large distances are chosen with torch.where."""

    def __init__(self, buckets: int = 8, max_distance: int = 20, heads: int = 2) -> None:
        super().__init__()
        self.exact, self.log_buckets = buckets // 2, buckets - buckets // 2
        self.log_ratio = math.log(max_distance / self.exact)
        self.table = nn.Embedding(buckets, heads)

    def bucket(self, distance: Tensor) -> Tensor:
        far = torch.log(distance.clamp(min=1).float() / self.exact) / self.log_ratio * self.log_buckets
        far = (self.exact + far.long()).clamp(max=self.exact + self.log_buckets - 1)
        return torch.where(distance < self.exact, distance, far)

    def forward(self, scores: Tensor) -> Tensor:
        queries = torch.arange(scores.size(-2), device=scores.device)
        keys = torch.arange(scores.size(-1), device=scores.device)
        bias = self.table(self.bucket((keys[None, :] - queries[:, None]).abs()))
        return (scores + bias.permute(2, 0, 1).unsqueeze(0)).softmax(dim=-1)


class SentenceEncoder(nn.Module):
    """RoBERTa's positions (a running sum over the mask) and the mean over the tokens that are there."""

    def __init__(self, vocab: int = 19, dim: int = 6, positions: int = 20, pad: int = 1) -> None:
        super().__init__()
        self.pad = pad
        self.words = nn.Embedding(vocab, dim, padding_idx=pad)
        self.places = nn.Embedding(positions, dim, padding_idx=pad)

    def forward(self, input_ids: Tensor) -> Tensor:
        mask = input_ids.ne(self.pad).long()
        places = torch.cumsum(mask, dim=1) * mask + self.pad
        hidden = torch.tanh(self.words(input_ids) + self.places(places))
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-9)
        return F.normalize(mean, p=2.0, dim=1)


class LastTokenClassifier(nn.Module):
    """The hidden state at each sequence's own end, without a loop over the batch."""

    def __init__(self, dim: int = 5, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv1d(dim, dim, 3, padding=2)
        self.score = nn.Linear(dim, classes)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        causal = self.body(hidden.transpose(1, 2))[..., :-2].transpose(1, 2)
        last = attention_mask.sum(dim=1) - 1
        rows = torch.arange(hidden.size(0), device=hidden.device)
        return self.score(F.gelu(causal)[rows, last])


class GruTagger(nn.Module):
    def __init__(self, dim: int = 4, hidden: int = 3, layers: int = 2, tags: int = 5) -> None:
        super().__init__()
        self.hidden, self.layers = hidden, layers
        self.gru = nn.GRU(dim, hidden, num_layers=layers, batch_first=True, bidirectional=True, dropout=0.2)
        self.tags = nn.Linear(2 * hidden, tags)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        start = x.new_zeros(2 * self.layers, x.size(0), self.hidden)
        states, _ = self.gru(x, start)
        logits = self.tags(states)
        return logits, logits.argmax(dim=-1)


class TiedLstm(nn.Module):
    """A language model whose embedding and output layer are one matrix; the state comes in and goes out."""

    def __init__(self, vocab: int = 13, dim: int = 6) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, dim)
        self.lstm = nn.LSTM(dim, dim)
        self.out = nn.Linear(dim, vocab, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, (h, c) = self.lstm(self.embed(tokens), (h, c))
        return self.out(states).log_softmax(dim=-1), (h, c)


class TopKExperts(nn.Module):
    """A mixture of experts that runs every expert, and weighs those that the router has not taken with zero."""

    def __init__(self, dim: int = 4, experts: int = 5, k: int = 2) -> None:
        super().__init__()
        self.k = k
        self.router = nn.Linear(dim, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, dim, 2 * dim) * 0.3)
        self.down = nn.Parameter(torch.randn(experts, 2 * dim, dim) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.router(x)
        top, chosen = torch.topk(logits, self.k, dim=-1)
        gates = torch.zeros_like(logits).scatter(-1, chosen, top.softmax(dim=-1))
        hidden = F.silu(torch.einsum("btd,edf->btef", x, self.up))
        return torch.einsum("btef,efd,bte->btd", hidden, self.down, gates)


def alibi_slopes(heads: int) -> list[float]:
    if math.log2(heads).is_integer():
        start = 2.0 ** -(2.0 ** -(math.log2(heads) - 3))
        return [start ** (i + 1) for i in range(heads)]
    closest = 2 ** math.floor(math.log2(heads))
    return alibi_slopes(closest) + alibi_slopes(2 * closest)[::2][: heads - closest]


class AlibiAttention(nn.Module):
    """Causal attention with linear biases, both made from the length by arange."""

    def __init__(self, heads: int = 3) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(alibi_slopes(heads)).view(1, heads, 1, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        at = torch.arange(q.size(2), device=q.device)
        apart = at[None, :] - at[:, None]
        scores = torch.matmul(q, k.transpose(2, 3)) / q.shape[-1] ** 0.5 + self.slopes * apart
        scores = torch.where(apart > 0, torch.finfo(torch.float32).min, scores)
        return torch.matmul(scores.softmax(-1), v)


class GreedyDecoder(nn.Module):
    """A fixed number of greedy steps; a sequence that has ended goes on with the end token, by torch.where."""

    def __init__(self, vocab: int = 7, dim: int = 6, steps: int = 4, eos: int = 2) -> None:
        super().__init__()
        self.steps, self.eos = steps, eos
        self.embed = nn.Embedding(vocab, dim)
        self.cell = nn.GRUCell(dim, dim)
        self.out = nn.Linear(dim, vocab)

    def forward(self, first: Tensor, state: Tensor) -> Tensor:
        token, done, tokens = first, first == self.eos, []
        for _ in range(self.steps):
            state = self.cell(self.embed(token), state)
            token = torch.where(done, self.eos, self.out(state).argmax(dim=-1))
            done = done | (token == self.eos)
            tokens.append(token)
        return torch.stack(tokens, dim=1)


def cases() -> dict[str, tuple[nn.Module, dict[str, Tensor], list[dict[str, Tensor]]]]:
    torch.manual_seed(0)

    def normal(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {name: torch.randn(shape) for name, shape in shapes.items()}

    def padded(vocab: int, length: int, *ends: int) -> Tensor:
        ids = torch.randint(2, vocab, (len(ends), length))
        return ids.masked_fill(torch.arange(length) >= torch.tensor(ends)[:, None], 1)

    def ended(length: int, *ends: int) -> dict[str, Tensor]:
        mask = (torch.arange(length) < torch.tensor(ends)[:, None]).long()
        return {"hidden": torch.randn(len(ends), length, 5), "attention_mask": mask}

    def song(length: int, batch: int) -> dict[str, Tensor]:
        state = normal(h=(1, batch, 6), c=(1, batch, 6))
        return {"tokens": torch.randint(0, 13, (length, batch)), **state}

    def heads(batch: int, length: int) -> dict[str, Tensor]:
        return normal(**dict.fromkeys("qkv", (batch, 3, length, 4)))

    def start(batch: int) -> dict[str, Tensor]:
        return {"first": torch.randint(0, 7, (batch,)), "state": torch.randn(batch, 6)}

    found = {
        "RotaryAttention": (RotaryAttention(), normal(x=(2, 5, 8)), [normal(x=(3, 7, 8)), normal(x=(2, 3, 8))]),
        "CausalBlock": (
            CausalBlock(),
            {"idx": torch.randint(0, 17, (2, 6))},
            [{"idx": torch.randint(0, 17, (3, 9))}, {"idx": torch.randint(0, 17, (2, 4))}],
        ),
        "RelativeBuckets": (
            RelativeBuckets(),
            normal(scores=(2, 2, 5, 6)),
            [normal(scores=(3, 2, 12, 20)), normal(scores=(2, 2, 4, 3))],
        ),
        "SentenceEncoder": (
            SentenceEncoder(),
            {"input_ids": padded(19, 6, 4, 6)},
            [{"input_ids": padded(19, 8, 2, 8, 5)}, {"input_ids": padded(19, 5, 5, 3)}],
        ),
        "LastTokenClassifier": (LastTokenClassifier(), ended(5, 3, 5), [ended(7, 2, 7, 4), ended(4, 4, 2)]),
        "GruTagger": (GruTagger(), normal(x=(2, 5, 4)), [normal(x=(3, 7, 4)), normal(x=(4, 3, 4))]),
        "TiedLstm": (TiedLstm(), song(5, 2), [song(7, 3), song(3, 4)]),
        "TopKExperts": (TopKExperts(), normal(x=(2, 3, 4)), [normal(x=(3, 5, 4)), normal(x=(4, 2, 4))]),
        "AlibiAttention": (AlibiAttention(), heads(2, 5), [heads(3, 7), heads(2, 4)]),
        "GreedyDecoder": (GreedyDecoder(), start(3), [start(2), start(6)]),
    }
    for model, _, _ in found.values():
        model.eval()
    return found
