"""LoRA with unpadding and checkpointing, dynamic fake quantisation, a Kalman filter."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.torchscript.blind.ported._helpers import ConvBNAct, EncoderConfig, FeedForward, build, ri, rn, ru


class LoRALinear(nn.Module):
    def __init__(self, base: nn.Linear, r, alpha):
        super().__init__()
        self.base, self.scaling, self.disable = base, alpha / r, False
        self.lora_A = nn.ParameterDict({"default": nn.Parameter(torch.randn(r, base.in_features) * 0.3)})
        self.lora_B = nn.ParameterDict({"default": nn.Parameter(torch.randn(base.out_features, r) * 0.3)})
        self.active = ["default"]

    def forward(self, x, *args, **kwargs):
        y = self.base(x, *args, **kwargs)
        if not self.disable:
            for name in self.active:
                if name not in self.lora_A:
                    continue
                y = y + F.linear(F.linear(x, self.lora_A[name]), self.lora_B[name]) * self.scaling
        return y


class UnpadLoraEncoder(nn.Module):
    """ModernBERT-like: padded batches are packed for the FFN; LoRA on q and v; checkpointed."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        d = config.hidden_size
        self.emb = nn.Embedding(config.vocab_size, d)
        self.q = LoRALinear(nn.Linear(d, d), config.lora_r, config.lora_alpha)
        self.k = nn.Linear(d, d)
        self.v = LoRALinear(nn.Linear(d, d), config.lora_r, config.lora_alpha)
        self.ffn, self.norm = FeedForward(d, config.intermediate_size), nn.LayerNorm(d)
        self.head = nn.Linear(d, 3)

    def attend(self, x, bias):
        B, T, D = x.shape
        q, k, v = (f(x).view(B, T, self.config.num_heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(B, T, D)

    def forward(self, input_ids, attention_mask):
        x = self.emb(input_ids)
        B, T, D = x.shape
        padded = bool((attention_mask == 0).any())
        bias = None
        if padded:
            bias = attention_mask[:, None, None, :].bool().expand(B, 1, T, T)
        if self.config.gradient_checkpointing:
            x = x + checkpoint(self.attend, self.norm(x), bias, use_reentrant=False)
        else:
            x = x + self.attend(self.norm(x), bias)
        if padded:
            indices = torch.nonzero(attention_mask.flatten(), as_tuple=False).flatten()
            packed = x.reshape(-1, D)[indices]
            packed = packed + self.ffn(self.norm(packed))
            cu = F.pad(attention_mask.sum(1).cumsum(0), (1, 0))
            pooled = torch.stack([packed[s:e].mean(0) for s, e in zip(cu[:-1], cu[1:])])
            full = torch.zeros(B * T, D)
            full[indices] = packed
            x = full.view(B, T, D)
        else:
            x = x + self.ffn(self.norm(x))
            pooled = x.mean(1)
        return {"hidden": x, "logits": self.head(pooled)}


class FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale, zero_point, qmin, qmax):
        q = torch.clamp(torch.round(x / scale) + zero_point, qmin, qmax)
        ctx.save_for_backward((q > qmin) & (q < qmax))
        return (q - zero_point) * scale

    @staticmethod
    def backward(ctx, g):
        (inside,) = ctx.saved_tensors
        return g * inside, None, None, None, None


class DynamicQuantNet(nn.Module):
    """Quantisation-aware convnet: per-tensor ranges read as Python floats at run time."""

    def __init__(self, bits=8):
        super().__init__()
        self.bits = bits
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.fc = nn.Linear(8, 4)

    def quant(self, x):
        lo, hi = x.min().item(), x.max().item()
        if lo >= 0:  # unsigned, no zero point
            return FakeQuantize.apply(x, max(hi, 1e-8) / (2**self.bits - 1), 0, 0, 2**self.bits - 1)
        scale = max(abs(lo), abs(hi)) / (2 ** (self.bits - 1) - 1)
        return FakeQuantize.apply(x, scale, 0, -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)

    def forward(self, x):
        x = self.quant(x)
        w = self.quant(self.c1.weight)
        x = F.relu(F.conv2d(x, w, self.c1.bias, padding=1))
        x = self.quant(x)
        x = F.hardswish(self.c2(x))
        return self.fc(x.mean((2, 3)))


class FilterState(NamedTuple):
    means: torch.Tensor
    covariances: torch.Tensor
    loglik: torch.Tensor


class KalmanFilter(nn.Module):
    """Constant-velocity tracking; missing observations only predict, outliers are gated."""

    def __init__(self, dt=0.1, gate=25.0):
        super().__init__()
        self.gate = gate
        F_ = torch.eye(4)
        F_[0, 2] = F_[1, 3] = dt
        self.register_buffer("A", F_)
        self.register_buffer("H", torch.eye(2, 4))
        self.log_q = nn.Parameter(torch.tensor([-4.0, -4.0, -2.0, -2.0]))
        self.log_r = nn.Parameter(torch.tensor([-2.5, -2.0]))

    def forward(self, observations, observed):
        m, P = torch.zeros(4), torch.eye(4)
        Q, R = torch.diag(self.log_q.exp()), torch.diag(self.log_r.exp())
        ms, Ps, ll = [], [], torch.zeros(())
        for t in range(observations.shape[0]):
            m, P = self.A @ m, self.A @ P @ self.A.T + Q
            if observed[t]:
                r = observations[t] - self.H @ m
                S = self.H @ P @ self.H.T + R
                Si = torch.linalg.inv(S)
                d2 = r @ Si @ r
                if d2 < self.gate:
                    K = P @ self.H.T @ Si
                    m = m + K @ r
                    P = (torch.eye(4) - K @ self.H) @ P
                    ll = ll - 0.5 * (d2 + torch.logdet(S) + 2 * math.log(2 * math.pi))
            ms.append(m)
            Ps.append(P)
        return FilterState(torch.stack(ms), torch.stack(Ps), ll)


def cases():
    def enc(seed, lens, T):
        m = torch.arange(T)[None] < torch.tensor(lens)[:, None]
        return {"input_ids": ri(seed, 0, 40, len(lens), T), "attention_mask": m.long()}

    def q(seed, b, h, w, pos=False, s=1.0):
        return {"x": ru(seed, b, 3, h, w) * s if pos else rn(seed, b, 3, h, w, scale=s)}

    def k(seed, t, outlier=None):
        path = torch.stack([torch.linspace(0.0, 0.1 * t, t), torch.linspace(0.0, 0.2 * t, t).sin()], 1)
        z = path + rn(seed, t, 2, scale=0.1)
        if outlier is not None:
            z[outlier] += 40.0
        return {"observations": z, "observed": ru(seed + 1, t) > 0.3}

    def ko(seed, t, outlier):
        d = k(seed, t, outlier)
        d["observed"][outlier] = True
        return d

    return {
        "UnpadLoraEncoder": (
            build(UnpadLoraEncoder, EncoderConfig(gradient_checkpointing=True), seed=91),
            enc(1, [6, 6], 6),
            [enc(2, [4, 9, 5], 9), enc(3, [7], 7), enc(4, [3, 8], 8)],
            [enc(5, [10, 7], 10), enc(6, [5, 5, 5], 5), enc(7, [2, 11, 6, 9], 11), enc(8, [12], 12)],
        ),
        "DynamicQuantNet": (
            build(DynamicQuantNet, seed=92),
            q(1, 2, 8, 10),
            [q(2, 1, 12, 9, True), q(3, 3, 7, 14, False, 3.0)],
            [q(4, 2, 11, 8, True, 2.0), q(5, 1, 9, 13, False, 0.5), q(6, 4, 10, 12), q(7, 3, 14, 7, True, 0.3)],
        ),
        "KalmanFilter": (
            build(KalmanFilter, seed=93),
            k(1, 8),
            [ko(2, 12, 5), k(3, 5), ko(4, 15, 9)],
            [k(5, 10), ko(6, 14, 3), ko(7, 7, 4), k(8, 18)],
        ),
    }
