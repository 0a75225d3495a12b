import torch
from torch import nn
import torch.nn.functional as F

from tests.torchscript.blind.operators._helpers import Mlp, assemble, rand, randint, randn


class DeepFm(nn.Module):
    """Factorisation machine and MLP on four categorical fields."""

    def __init__(self, sizes=(12, 7, 20, 5), dim=6):
        super().__init__()
        self.register_buffer("base", torch.tensor([0, 12, 19, 39]))
        self.first = nn.Embedding(sum(sizes), 1)
        self.emb = nn.Embedding(sum(sizes), dim)
        self.deep = Mlp(4 * dim, 16, 1)

    def forward(self, fields):
        ids = fields + self.base
        e = self.emb(ids)
        fm = 0.5 * (e.sum(1).square() - e.square().sum(1)).sum(1)
        return torch.sigmoid(fm + self.first(ids).sum((1, 2)) + self.deep(e.flatten(1)).squeeze(1))


class PointMax(nn.Module):
    def __init__(self):
        super().__init__()
        self.local = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU())
        self.seg = nn.Conv1d(32, 4, 1)

    def forward(self, cloud):
        f = self.local(cloud.transpose(1, 2))
        top = f.max(dim=2, keepdim=True).values
        return self.seg(torch.cat([f, top.expand(-1, -1, f.shape[2])], dim=1)).transpose(1, 2)


class DenseGcn(nn.Module):
    """Graph convolution on a dense adjacency, symmetrically normalised."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2 = nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, nodes, adj):
        a = adj + torch.eye(adj.shape[0])
        d = a.sum(1).rsqrt()
        a = d[:, None] * a * d[None, :]
        return F.log_softmax(a @ self.w2(F.relu(a @ self.w1(nodes))), dim=-1)


class KernelDensity(nn.Module):
    """Log density of queries under Gaussians at the support points, learned metric."""

    def __init__(self):
        super().__init__()
        self.metric = nn.Linear(4, 4, bias=False)
        self.width = nn.Parameter(torch.tensor(-0.2))

    def forward(self, query, support):
        q, s = self.metric(query), self.metric(support)
        d2 = q.square().sum(1, keepdim=True) + s.square().sum(1) - 2 * q @ s.t()
        logp = -0.5 * d2 * torch.exp(-2 * self.width)
        return torch.logsumexp(logp, dim=1), torch.softmax(logp, dim=1) @ s


class GapMixture(nn.Module):
    """Missing values replaced by learned ones; two of four experts per row."""

    def __init__(self):
        super().__init__()
        self.default = nn.Parameter(torch.randn(6))
        self.gate = nn.Linear(12, 4)
        self.experts = nn.Linear(12, 4 * 3)

    def forward(self, rows):
        gone = torch.isnan(rows)
        x = torch.cat([torch.where(gone, self.default, rows), gone.float()], dim=1)
        w, idx = self.gate(x).softmax(-1).topk(2, dim=-1)
        y = self.experts(x).view(-1, 4, 3)
        y = y.gather(1, idx.unsqueeze(-1).expand(-1, -1, 3))
        return (y * (w / w.sum(-1, keepdim=True)).unsqueeze(-1)).sum(1)


def _graph(s, n):
    a = (rand(s, n, n) < 0.3).float()
    return {"nodes": randn(s + 1, n, 5), "adj": torch.maximum(a, a.t())}


def _gaps(s, n):
    return {"rows": randn(s, n, 6).masked_fill(rand(s + 1, n, 6) < 0.2, float("nan"))}


def cases():
    return {
        "DeepFm": assemble(
            DeepFm,
            lambda s, b: {"fields": torch.stack([randint(s + i, 0, n, (b,)) for i, n in enumerate((12, 7, 20, 5))], 1)},
            (6,),
            [(3,), (11,)],
            [(8,), (15,), (5,), (2,)],
            1001,
        ),
        "PointMax": assemble(
            PointMax,
            lambda s, b, n: {"cloud": randn(s, b, n, 3)},
            (2, 16),
            [(3, 25), (1, 10)],
            [(4, 20), (2, 33), (5, 12), (1, 18)],
            1002,
        ),
        "DenseGcn": assemble(DenseGcn, _graph, (8,), [(12,), (6,)], [(10,), (16,), (7,), (13,)], 1003),
        "KernelDensity": assemble(
            KernelDensity,
            lambda s, q, n: {"query": randn(s, q, 4), "support": randn(s + 1, n, 4)},
            (5, 9),
            [(8, 6), (3, 14)],
            [(7, 11), (4, 18), (10, 5), (6, 8)],
            1004,
        ),
        "GapMixture": assemble(GapMixture, _gaps, (6,), [(9,), (4,)], [(12,), (7,), (5,), (15,)], 1005),
    }
