"""Language-model blocks: rotary with KV cache, ALiBi, T5 bias, trimming by length, MoE."""

import math
from typing import Optional

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import EncoderConfig, EncoderOutput, FeedForward, build, ri, rn


# ---------------------------------------------------------------- LLaMA-like
def precompute_freqs_cis(dim, end, theta=10000.0):
    freqs = 1.0 / (theta ** (torch.arange(0, dim, 2)[: dim // 2].float() / dim))
    f = torch.outer(torch.arange(end).float(), freqs)
    return torch.polar(torch.ones_like(f), f)


def apply_rotary_emb(xq, xk, freqs_cis):
    q = torch.view_as_complex(xq.float().reshape(*xq.shape[:-1], -1, 2))
    k = torch.view_as_complex(xk.float().reshape(*xk.shape[:-1], -1, 2))
    fc = freqs_cis.view(1, q.shape[1], 1, q.shape[-1])
    return (torch.view_as_real(q * fc).flatten(3).type_as(xq), torch.view_as_real(k * fc).flatten(3).type_as(xk))


class RotaryCacheDecoder(nn.Module):
    """Grouped-query decoder layer; the KV cache comes in and goes out."""

    def __init__(self, vocab=30, dim=16, heads=4, kv_heads=2, table=8):
        super().__init__()
        self.h, self.kv, self.d = heads, kv_heads, dim // heads
        self.emb = nn.Embedding(vocab, dim)
        self.wq = nn.Linear(dim, dim, bias=False)
        self.wk = nn.Linear(dim, kv_heads * self.d, bias=False)
        self.wv = nn.Linear(dim, kv_heads * self.d, bias=False)
        self.wo = nn.Linear(dim, dim, bias=False)
        self.g = nn.Parameter(torch.rand(dim) + 0.5)
        self.ffn = FeedForward(dim, 32)
        self.lm = nn.Linear(dim, vocab, bias=False)
        self.freqs_cis = precompute_freqs_cis(self.d, table)

    def rms(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.g

    def forward(self, tokens, past_k, past_v):
        B, S = tokens.shape
        start = past_k.shape[1]
        if start + S > self.freqs_cis.shape[0]:  # grow the table when needed
            self.freqs_cis = precompute_freqs_cis(self.d, 2 * (start + S))
        fc = self.freqs_cis[start : start + S]
        h = self.emb(tokens)
        mask = None
        if S > 1:
            mask = torch.full((S, S), float("-inf"))
            mask = torch.triu(mask, diagonal=1)
            mask = torch.hstack([torch.zeros((S, start)), mask])
        x = self.rms(h)
        q = self.wq(x).view(B, S, self.h, self.d)
        k = self.wk(x).view(B, S, self.kv, self.d)
        v = self.wv(x).view(B, S, self.kv, self.d)
        q, k = apply_rotary_emb(q, k, fc)
        k, v = torch.cat([past_k, k], 1), torch.cat([past_v, v], 1)
        rep = self.h // self.kv
        kk = k[:, :, :, None].expand(-1, -1, -1, rep, -1).reshape(B, -1, self.h, self.d)
        vv = v[:, :, :, None].expand(-1, -1, -1, rep, -1).reshape(B, -1, self.h, self.d)
        s = torch.einsum("bqhd,bkhd->bhqk", q, kk) / math.sqrt(self.d)
        if mask is not None:
            s = s + mask
        o = torch.einsum("bhqk,bkhd->bqhd", s.softmax(-1), vv).reshape(B, S, -1)
        h = h + self.wo(o)
        h = h + self.ffn(self.rms(h))
        return self.lm(h[:, -1]), k, v


# ---------------------------------------------------------------- ALiBi
class AlibiCachedLM(nn.Module):
    """MPT/BLOOM: slopes from Python maths, the bias kept and rebuilt for longer inputs."""

    def __init__(self, vocab=30, dim=24, heads=6):
        super().__init__()
        self.heads = heads
        self.emb = nn.Embedding(vocab, dim)
        self.qkv, self.o = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.norm, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, 32)
        self._bias: Optional[torch.Tensor] = None

    @staticmethod
    def slopes(n):
        def pow2(n):
            start = 2 ** (-(2 ** -(math.log2(n) - 3)))
            return [start * start**i for i in range(n)]

        if math.log2(n).is_integer():
            return pow2(n)
        c = 2 ** math.floor(math.log2(n))
        return pow2(c) + pow2(2 * c)[0::2][: n - c]

    def bias(self, T):
        if self._bias is None or self._bias.shape[-1] < T:
            pos = torch.arange(T)
            rel = (pos[None, :] - pos[:, None]).float()
            b = torch.tensor(self.slopes(self.heads))[:, None, None] * rel
            self._bias = b.masked_fill(rel > 0, float("-inf"))
        return self._bias[:, :T, :T]

    def forward(self, input_ids, attention_mask):
        B, T = input_ids.shape
        x = self.emb(input_ids)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + self.bias(T)
        if not bool(attention_mask.all()):
            s = s.masked_fill(attention_mask[:, None, None, :] == 0, torch.finfo(s.dtype).min)
        y = (s.softmax(-1) @ v).transpose(1, 2).reshape(B, T, -1)
        x = x + self.o(y)
        x = (x + self.ffn(self.norm2(x))) * attention_mask.unsqueeze(-1)
        return {"logits": x @ self.emb.weight.t(), "last": x[:, -1]}


# ---------------------------------------------------------------- T5
class T5BucketEncoder(nn.Module):
    """T5-like encoder: config object, cached buckets, HF ModelOutput with all hidden states."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.shared = nn.Embedding(config.vocab_size, d)
        self.rel = nn.Embedding(config.num_buckets, config.num_heads)
        self.qkv = nn.ModuleList(nn.Linear(d, 3 * d, bias=False) for _ in range(config.num_layers))
        self.ffn = nn.ModuleList(FeedForward(d, config.intermediate_size) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(d)
        self._buckets = {}

    def bucket(self, rel):
        n = self.config.num_buckets // 2
        out = (rel > 0).long() * n
        rel = rel.abs()
        exact = n // 2
        large = (
            exact
            + (
                torch.log(rel.float().clamp(min=1) / exact) / math.log(self.config.max_distance / exact) * (n - exact)
            ).long()
        )
        return out + torch.where(rel < exact, rel, large.clamp(max=n - 1))

    def position_bias(self, length):
        if length not in self._buckets:
            p = torch.arange(length)
            self._buckets[length] = self.bucket(p[None, :] - p[:, None])
        return self.rel(self._buckets[length]).permute(2, 0, 1).unsqueeze(0)

    def forward(
        self,
        input_ids,
        attention_mask,
        output_attentions: Optional[bool] = None,
        output_hidden_states: Optional[bool] = None,
        return_dict: Optional[bool] = None,
    ):
        cfg = self.config
        output_attentions = cfg.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = cfg.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = cfg.use_return_dict if return_dict is None else return_dict
        B, T = input_ids.size()
        x = self.shared(input_ids)
        bias = self.position_bias(int(T)) + (1.0 - attention_mask[:, None, None, :].float()) * -1e4
        hs = () if output_hidden_states else None
        at = () if output_attentions else None
        for qkv, ffn in zip(self.qkv, self.ffn):
            if output_hidden_states:
                hs = hs + (x,)
            q, k, v = qkv(self.norm(x)).view(B, T, 3, cfg.num_heads, -1).permute(2, 0, 3, 1, 4)
            w = (q @ k.transpose(-1, -2) + bias).softmax(-1)
            x = x + (w @ v).transpose(1, 2).reshape(B, T, -1)
            x = x + ffn(self.norm(x))
            if output_attentions:
                at = at + (w,)
        x = self.norm(x)
        m = attention_mask.unsqueeze(-1).float()
        pooled = (x * m).sum(1) / m.sum(1)
        if not return_dict:
            return tuple(v for v in (x, pooled, hs, at) if v is not None)
        return EncoderOutput(last_hidden_state=x, pooler_output=pooled, hidden_states=hs, attentions=at)


# ---------------------------------------------------------------- lengths
class LengthTrimEncoder(nn.Module):
    """Fairseq habits: sort by length, cut to the longest, undo both at the end."""

    def __init__(self, vocab=25, dim=16):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim, padding_idx=0)
        self.attn = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.conv = nn.Conv1d(dim, dim, 3, padding=1)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, 6)

    def forward(self, tokens, lengths):
        T = tokens.size(1)
        order = lengths.argsort(descending=True, stable=True)
        inverse = order.argsort()
        lens = lengths[order]
        max_len = lens[0].item()
        tok = tokens[order][:, :max_len]
        pad = torch.arange(max_len)[None, :] >= lens[:, None]
        x = self.emb(tok)
        if pad.any():
            x = x.masked_fill(pad.unsqueeze(-1), 0.0)
            y, _ = self.attn(x, x, x, key_padding_mask=pad, need_weights=False)
        else:
            y, _ = self.attn(x, x, x, need_weights=False)
        x = self.norm(x + y)
        # the convolution sees the end of the cut batch, so the cut is not a no-op
        x = x + F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        pooled = x.amax(1)
        logits = self.out(x)[inverse]
        if max_len < T:
            logits = F.pad(logits, (0, 0, 0, T - max_len), value=-1.0)
        return logits, pooled[inverse]


# ---------------------------------------------------------------- MoE
class Top1MoE(nn.Module):
    """Switch transformer FFN with expert capacity; unused experts are skipped."""

    def __init__(self, dim=12, experts=5, factor=1.25):
        super().__init__()
        self.factor = factor
        self.gate = nn.Linear(dim, experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(dim, 16) for _ in range(experts))
        self.norm = nn.LayerNorm(dim)
        with torch.no_grad():
            self.gate.weight.mul_(4)

    def forward(self, hidden):
        B, S, D = hidden.shape
        x = self.norm(hidden).view(-1, D)
        prob, choice = self.gate(x).softmax(-1).max(-1)
        capacity = math.ceil(x.shape[0] / len(self.experts) * self.factor)
        out = torch.zeros_like(x)
        load = []
        for e, expert in enumerate(self.experts):
            idx = torch.nonzero(choice == e).squeeze(-1)
            load.append(idx.numel())
            if idx.numel() == 0:
                continue
            if idx.numel() > capacity:  # overflowing tokens pass through
                keep = prob[idx].topk(capacity).indices
                idx = idx[keep]
            out.index_add_(0, idx, expert(x[idx]) * prob[idx].unsqueeze(-1))
        return hidden + out.view(B, S, D), torch.tensor(load, dtype=torch.float32) / x.shape[0]


def cases():
    def kv(seed, b, s, past):
        return {
            "tokens": ri(seed, 0, 30, b, s),
            "past_k": rn(seed + 1, b, past, 2, 4),
            "past_v": rn(seed + 2, b, past, 2, 4),
        }

    def lm(seed, lens, T, left=True):
        lens = torch.tensor(lens)
        m = (torch.arange(T)[None] >= T - lens[:, None]) if left else torch.arange(T)[None] < lens[:, None]
        return {"input_ids": ri(seed, 1, 30, len(lens), T), "attention_mask": m.long()}

    def tl(seed, lens, T):
        return {"tokens": ri(seed, 1, 25, len(lens), T), "lengths": torch.tensor(lens)}

    def moe(seed, b, s, shift=0.0):
        x = rn(seed, b, s, 12)
        return {"hidden": x + shift * rn(77, 12)}

    cfg = EncoderConfig(output_attentions=True, output_hidden_states=True)
    return {
        "RotaryCacheDecoder": (
            build(RotaryCacheDecoder, seed=31),
            kv(1, 2, 5, 3),
            [kv(2, 1, 1, 6), kv(3, 3, 4, 2), kv(4, 2, 1, 9), kv(5, 2, 7, 5)],
            [kv(6, 3, 6, 4), kv(7, 2, 1, 11), kv(8, 1, 3, 7), kv(9, 4, 8, 2), kv(10, 3, 1, 5)],
        ),
        "AlibiCachedLM": (
            build(AlibiCachedLM, seed=32),
            lm(1, [7, 7], 7),
            [lm(2, [4, 9, 6], 9), lm(3, [5], 5), lm(4, [12, 3], 12)],
            [lm(5, [8, 8, 8], 8), lm(6, [10, 6], 10), lm(7, [4, 4, 4, 4], 4), lm(8, [2, 14, 9], 14), lm(9, [11], 11)],
        ),
        "T5BucketEncoder": (
            build(T5BucketEncoder, cfg, seed=33),
            lm(1, [9, 6], 9, False),
            [lm(2, [4, 12, 7], 12, False), lm(3, [18], 18, False)],
            [
                lm(4, [10, 10], 10, False),
                lm(5, [7, 15, 3], 15, False),
                lm(6, [22, 13], 22, False),
                lm(7, [5, 2, 6, 4], 6, False),
            ],
        ),
        "LengthTrimEncoder": (
            build(LengthTrimEncoder, seed=34),
            tl(1, [5, 8, 3], 10),
            [tl(2, [7, 7], 7), tl(3, [4, 9, 6, 2], 9), tl(4, [5], 12)],
            [tl(5, [6, 11], 11), tl(6, [3, 8, 4], 13), tl(7, [9, 9, 9], 9), tl(8, [10, 2, 5, 7, 3], 14), tl(9, [6], 8)],
        ),
        "Top1MoE": (
            build(Top1MoE, seed=35),
            moe(1, 2, 7),
            [moe(2, 1, 5, 1.5), moe(3, 3, 4), moe(4, 2, 11, -1.0)],
            [moe(5, 1, 9), moe(6, 4, 6, 1.0), moe(7, 2, 3, -1.5), moe(8, 3, 8, 0.5), moe(9, 1, 13, -0.5)],
        ),
    }
