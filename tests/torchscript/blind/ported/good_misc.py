"""Graphs, points, tables and flows that plain tracing captures."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import build, ri, rn


class MessagePassingNet(nn.Module):
    """Edge-conditioned convolution with scatter_add and degree norm, any nodes and edges."""

    def __init__(self, fin=4, fe=3, dim=10):
        super().__init__()
        self.inp = nn.Linear(fin, dim)
        self.msg = nn.Sequential(nn.Linear(2 * dim + fe, 16), nn.ReLU(), nn.Linear(16, dim))
        self.out = nn.Linear(dim, 2)

    def forward(self, x, edge_index, edge_attr):
        src, dst = edge_index[0], edge_index[1]
        h = torch.tanh(self.inp(x))
        at = dst.unsqueeze(-1).expand(-1, h.size(-1))
        deg = torch.zeros_like(h[:, 0]).scatter_add(0, dst, torch.ones_like(edge_attr[:, 0])).clamp(min=1)
        for _ in range(2):
            m = self.msg(torch.cat([h[src], h[dst], edge_attr], -1))
            h = torch.tanh(self.inp(x)) + F.silu(torch.zeros_like(h).scatter_add(0, at, m) / deg.unsqueeze(-1))
        return self.out(h), h.sum(0)


class EdgeConvCloud(nn.Module):
    """DGCNN: kNN graph by pairwise distances and top-k, edge convolution, global max."""

    def __init__(self, k=4):
        super().__init__()
        self.k = k
        self.e1 = nn.Sequential(nn.Linear(6, 12), nn.LeakyReLU(0.2))
        self.e2 = nn.Sequential(nn.Linear(24, 16), nn.LeakyReLU(0.2))
        self.fc = nn.Linear(28, 5)

    def edge(self, x, idx):
        B, N, K = idx.size(0), idx.size(1), self.k
        flat = idx.reshape(B, -1, 1).expand(-1, -1, x.size(-1))
        nb = x.gather(1, flat).view(B, N, K, x.size(-1))
        c = x.unsqueeze(2)
        return torch.cat([nb - c, c.expand_as(nb)], -1)

    def forward(self, points):
        d = (points.unsqueeze(2) - points.unsqueeze(1)).pow(2).sum(-1)
        idx = d.topk(self.k, dim=-1, largest=False).indices
        a = self.e1(self.edge(points, idx)).amax(2)
        b = self.e2(self.edge(a, idx)).amax(2)
        f = torch.cat([a, b], -1)
        return self.fc(f.amax(1)), f


class SparsemaxTabNet(nn.Module):
    """TabNet decision steps with sparsemax masks by sort and cumsum, GLU, prior scales."""

    def __init__(self, feats=7, dim=8, steps=3, gamma=1.3):
        super().__init__()
        self.gamma = gamma
        self.bn = nn.BatchNorm1d(feats)
        self.init = nn.Linear(feats, 2 * dim)
        self.att = nn.ModuleList(nn.Linear(dim, feats) for _ in range(steps))
        self.ft = nn.ModuleList(nn.Linear(feats, 4 * dim) for _ in range(steps))
        self.fc = nn.Linear(dim, 3)

    @staticmethod
    def sparsemax(z):
        s = z.sort(-1, descending=True).values
        k = torch.arange(1, z.size(-1) + 1, dtype=z.dtype)
        cs = s.cumsum(-1)
        support = (1 + k * s > cs).to(z.dtype)
        n = support.sum(-1, keepdim=True)
        tau = (cs.gather(-1, n.long() - 1) - 1) / n
        return (z - tau).clamp(min=0)

    def forward(self, rows):
        x = self.bn(rows)
        a, prior, out, masks = F.glu(self.init(x), -1), torch.ones_like(x), 0, 0
        for att, ft in zip(self.att, self.ft):
            m = self.sparsemax(att(a) * 2 * prior)
            prior = prior * (self.gamma - m)
            d, a = F.glu(ft(m * x), -1).chunk(2, -1)
            out = out + F.relu(d)
            masks = masks + m
        return self.fc(out), masks


class PiecewiseLinearBins(nn.Module):
    """Tabular embeddings (Gorishniy): piecewise-linear encoding, bucketize, hashed categories."""

    def __init__(self, feats=4, bins=5, dim=6, buckets=23):
        super().__init__()
        self.buckets = buckets
        self.register_buffer("edges", torch.linspace(-2.03, 2.07, bins + 1))
        self.bin_emb, self.cat = nn.Embedding(bins + 2, dim), nn.Embedding(buckets, dim)
        self.lin = nn.Linear(bins, dim)
        self.soft = nn.Linear(dim, 3)
        self.leaf = nn.Parameter(torch.randn(8, 2))

    def forward(self, num, cat):
        lo, hi = self.edges[:-1], self.edges[1:]
        ple = ((num.unsqueeze(-1) - lo) / (hi - lo)).clamp(0, 1)
        e = F.relu(self.lin(ple)) + self.bin_emb(torch.bucketize(num, self.edges))
        h = (cat * 40503 + 12345) % 65536 % self.buckets
        z = e.mean(1) + self.cat(h).mean(1)
        g = torch.sigmoid(self.soft(z))  # a soft decision tree of depth three
        p = torch.ones_like(g[:, :1])
        for i in range(3):
            p = torch.cat([p * g[:, i : i + 1], p * (1 - g[:, i : i + 1])], 1)
        return p @ self.leaf


class DomainAdversary(nn.Module):
    """DANN with gradient reversal by detach; straight-through sign code in the middle."""

    @staticmethod
    def reverse(x, alpha):  # value x, gradient -alpha
        return (x * (1 + alpha)).detach() - alpha * x

    def __init__(self, fin=6, dim=12):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(fin, dim), nn.Tanh(), nn.Linear(dim, dim))
        self.code = nn.Linear(dim, dim)
        self.task, self.dom = nn.Linear(dim, 3), nn.Linear(dim, 2)

    def forward(self, x):
        z = self.enc(x)
        s = torch.tanh(self.code(z))
        code = (s > 0).to(s.dtype) * 2 - 1
        code = s + (code - s).detach()
        rev = self.reverse(z, 0.7)
        pooled = code.amax(1) + z.mean(1)
        return self.task(pooled), self.dom(rev)


class CouplingFlowPrior(nn.Module):
    """RealNVP on a set: affine couplings, inverse by the known number of layers, log density."""

    def __init__(self, dim=4, layers=3):
        super().__init__()
        self.half = dim // 2
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(self.half, 12), nn.Tanh(), nn.Linear(12, dim)) for _ in range(layers)
        )

    def forward(self, z):
        x, logdet = z, torch.zeros_like(z[..., 0])
        for net in reversed(self.nets):
            a, b = x[..., : self.half], x[..., self.half :]
            s, t = net(a).chunk(2, -1)
            s = torch.tanh(s)
            b = (b - t) * torch.exp(-s)
            logdet = logdet - s.sum(-1)
            x = torch.cat([b, a], -1)
        return x, logdet - 0.5 * z.pow(2).sum(-1)


class LearnedOptimizer(nn.Module):
    """A coordinate-wise learned optimiser unrolled for four steps on least squares."""

    def __init__(self, hidden=6, steps=4):
        super().__init__()
        self.steps = steps
        self.net = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2))

    def forward(self, A, b):
        x, mom = torch.zeros_like(A[0]), torch.zeros_like(A[0])
        losses = []
        for _ in range(self.steps):
            r = A @ x - b
            g = (A * r.unsqueeze(1)).mean(0)
            g = g / torch.clamp(g.norm(), min=1.0)
            upd, decay = self.net(torch.stack([g, mom, x], -1)).unbind(-1)
            mom = torch.sigmoid(decay) * mom + 0.5 * g
            x = x - 0.5 * mom - 0.05 * torch.tanh(upd)
            losses.append(r.pow(2).mean())
        return x, torch.stack(losses)


def cases():
    def g(seed, n, e):
        return {"x": rn(seed, n, 4), "edge_index": ri(seed + 1, 0, n, 2, e), "edge_attr": rn(seed + 2, e, 3)}

    def b(seed, n):
        return {"num": rn(seed, n, 4), "cat": ri(seed + 1, 0, 5000, n, 3)}

    def q(seed, m, n):
        return {"A": rn(seed, m, n, scale=0.5), "b": rn(seed + 1, m)}

    def x(name, seed, *shape):
        return {name: rn(seed, *shape)}

    return {
        "MessagePassingNet": (
            build(MessagePassingNet, seed=221),
            g(1, 6, 11),
            [g(2, 9, 20), g(3, 4, 7)],
            [g(4, 12, 25), g(5, 5, 13), g(6, 8, 6), g(7, 7, 18)],
        ),
        "EdgeConvCloud": (
            build(EdgeConvCloud, seed=222),
            x("points", 1, 2, 10, 3),
            [x("points", 2, 1, 17, 3), x("points", 3, 3, 8, 3)],
            [x("points", 4, 2, 14, 3), x("points", 5, 4, 9, 3), x("points", 6, 1, 21, 3), x("points", 7, 3, 12, 3)],
        ),
        "SparsemaxTabNet": (
            build(SparsemaxTabNet, seed=223),
            x("rows", 1, 4, 7),
            [x("rows", 2, 1, 7), x("rows", 3, 9, 7)],
            [x("rows", 4, 6, 7), x("rows", 5, 13, 7), x("rows", 6, 2, 7), x("rows", 7, 8, 7)],
        ),
        "PiecewiseLinearBins": (
            build(PiecewiseLinearBins, seed=224),
            b(1, 5),
            [b(2, 1), b(3, 11)],
            [b(4, 8), b(5, 3), b(6, 14), b(7, 2)],
        ),
        "CouplingFlowPrior": (
            build(CouplingFlowPrior, seed=226),
            x("z", 1, 2, 5, 4),
            [x("z", 2, 1, 8, 4), x("z", 3, 4, 3, 4)],
            [x("z", 4, 3, 6, 4), x("z", 5, 2, 11, 4), x("z", 6, 5, 2, 4), x("z", 7, 1, 7, 4)],
        ),
        "DomainAdversary": (
            build(DomainAdversary, seed=225),
            x("x", 1, 2, 5, 6),
            [x("x", 2, 1, 9, 6), x("x", 3, 4, 3, 6)],
            [x("x", 4, 3, 7, 6), x("x", 5, 2, 12, 6), x("x", 6, 5, 4, 6), x("x", 7, 1, 6, 6)],
        ),
        "LearnedOptimizer": (
            build(LearnedOptimizer, seed=227),
            q(1, 6, 4),
            [q(2, 10, 7), q(3, 4, 3)],
            [q(4, 8, 5), q(5, 5, 9), q(6, 12, 4), q(7, 7, 7)],
        ),
    }
