"""Graphs and point clouds."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import build, ri, rn, ru


class EdgeSoftmaxGNN(nn.Module):
    """GAT with self loops, edge softmax by scatter, per-graph readout in a loop."""

    def __init__(self, fin=5, dim=12, heads=2):
        super().__init__()
        self.heads, self.dh = heads, dim // heads
        self.lin = nn.ModuleList([nn.Linear(fin, dim), nn.Linear(dim, dim)])
        self.att_src = nn.Parameter(torch.randn(2, heads, dim // heads))
        self.att_dst = nn.Parameter(torch.randn(2, heads, dim // heads))
        self.read = nn.Linear(2 * dim, 3)

    def gat(self, x, src, dst, l):
        n = x.shape[0]
        h = self.lin[l](x).view(n, self.heads, self.dh)
        a = (h * self.att_src[l]).sum(-1)[src] + (h * self.att_dst[l]).sum(-1)[dst]
        a = F.leaky_relu(a, 0.2)
        top = torch.full((n, self.heads), float("-inf"))
        top = top.scatter_reduce(0, dst[:, None].expand_as(a), a, "amax")
        e = (a - top[dst]).exp()
        z = torch.zeros(n, self.heads).index_add(0, dst, e)
        msg = h[src] * (e / z[dst]).unsqueeze(-1)
        return torch.zeros_like(h).index_add(0, dst, msg).flatten(1)

    def forward(self, x, edge_index, batch):
        keep = edge_index[0] != edge_index[1]
        edge_index = edge_index[:, keep]
        loops = torch.arange(x.size(0)).repeat(2, 1)
        src, dst = torch.cat([edge_index, loops], 1)
        x = F.elu(self.gat(x, src, dst, 0))
        x = self.gat(x, src, dst, 1)
        num_graphs = int(batch.max()) + 1
        out = []
        for g in range(num_graphs):
            nodes = x[batch == g]
            out.append(torch.cat([nodes.mean(0), nodes.max(0).values]))
        return self.read(torch.stack(out)), x


class FPSBallQuery(nn.Module):
    """PointNet++ set abstraction: a quarter of the points, ball query, shared MLP."""

    def __init__(self, radius=0.35, nsample=6):
        super().__init__()
        self.radius, self.nsample = radius, nsample
        self.mlp = nn.Sequential(nn.Linear(3 + 4, 16), nn.ReLU(), nn.Linear(16, 16))
        self.head = nn.Linear(16, 5)

    @staticmethod
    def fps(xyz, npoint):
        B, N, _ = xyz.shape
        idx = torch.zeros(B, npoint, dtype=torch.long)
        dist = torch.ones(B, N) * 1e10
        far = torch.zeros(B, dtype=torch.long)
        rows = torch.arange(B)
        for i in range(npoint):
            idx[:, i] = far
            c = xyz[rows, far].unsqueeze(1)
            d = ((xyz - c) ** 2).sum(-1)
            mask = d < dist
            dist[mask] = d[mask]
            far = dist.max(-1)[1]
        return idx

    def ball(self, xyz, new):
        B, N, _ = xyz.shape
        S = new.shape[1]
        g = torch.arange(N).view(1, 1, N).repeat([B, S, 1])
        d = ((new.unsqueeze(2) - xyz.unsqueeze(1)) ** 2).sum(-1)
        g[d > self.radius**2] = N
        g = g.sort(-1)[0][:, :, : self.nsample]
        first = g[:, :, :1].repeat([1, 1, self.nsample])
        mask = g == N
        g[mask] = first[mask]
        return g

    @staticmethod
    def gather(p, idx):
        shape = [idx.shape[0]] + [1] * (idx.dim() - 1)
        return p[torch.arange(idx.shape[0]).view(shape).expand_as(idx), idx]

    def forward(self, xyz, feats):
        n = xyz.shape[1] // 4
        c = self.fps(xyz, n)
        new = self.gather(xyz, c)
        g = self.ball(xyz, new)
        local = torch.cat([self.gather(xyz, g) - new.unsqueeze(2), self.gather(feats, g)], -1)
        f = self.mlp(local).max(2)[0]
        return new, f, self.head(f.max(1)[0])


def _graph(seed, sizes, edges_per):
    batch = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
    es, off = [], 0
    for i, n in enumerate(sizes):
        es.append(ri(seed * 10 + i, 0, n, 2, edges_per * n // 2 + 1) + off)
        off += n
    return {"x": rn(seed, off, 5), "edge_index": torch.cat(es, 1), "batch": batch}


def cases():
    def p(seed, b, n):
        return {"xyz": ru(seed, b, n, 3), "feats": rn(seed + 9, b, n, 4)}

    return {
        "EdgeSoftmaxGNN": (
            build(EdgeSoftmaxGNN, seed=61),
            _graph(1, [5, 4], 3),
            [_graph(2, [7], 2), _graph(3, [3, 8, 6], 4), _graph(4, [8, 2], 3)],
            [_graph(5, [6, 6], 3), _graph(6, [4, 5, 3, 7], 2), _graph(7, [10], 4), _graph(8, [5, 3, 9], 3)],
        ),
        "FPSBallQuery": (
            build(FPSBallQuery, seed=62),
            p(1, 2, 24),
            [p(2, 1, 33), p(3, 3, 18)],
            [p(4, 2, 40), p(5, 1, 21), p(6, 4, 28), p(7, 3, 30)],
        ),
    }
