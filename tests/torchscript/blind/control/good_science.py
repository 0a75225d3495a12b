"""Recommendation, robotics and science models with dynamic sizes."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from tests.torchscript.blind.control._helpers import FeedForward, build, rand, randint, randn


class DeepFM(nn.Module):
    """Factorisation machine and a deep tower over categorical fields and dense features."""

    def __init__(self, sizes=(12, 8, 20), dim=6, dense=4):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, dim) for n in sizes)
        self.linear = nn.ModuleList(nn.Embedding(n, 1) for n in sizes)
        self.deep = FeedForward(dim * len(sizes) + dense, 20, 1, nn.ReLU)

    def forward(self, fields, dense):
        e = torch.stack([t(fields[:, i]) for i, t in enumerate(self.tables)], dim=1)
        pair = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(1, keepdim=True)
        first = sum(t(fields[:, i]) for i, t in enumerate(self.linear))
        return torch.sigmoid(first + pair + self.deep(torch.cat([e.flatten(1), dense], 1)))


class PointRegister(nn.Module):
    """PointNet with an input transform; global and local features per point."""

    def __init__(self, width=12):
        super().__init__()
        self.tnet = FeedForward(3, 10, 9)
        self.local = FeedForward(3, 16, width)
        self.out = nn.Linear(2 * width, 4)

    def forward(self, cloud):
        eye = torch.eye(3, dtype=cloud.dtype)
        t = self.tnet(cloud).amax(1).reshape(-1, 3, 3) * 0.1 + eye
        f = self.local(torch.bmm(cloud, t))
        top = f.amax(dim=1, keepdim=True)
        return self.out(torch.cat([f, top.expand_as(f)], dim=-1))


class MessagePasser(nn.Module):
    """Edge-list graph network: two rounds of messages, mean by in-degree."""

    def __init__(self, dim=5, hidden=10, rounds=2):
        super().__init__()
        self.rounds = rounds
        self.embed = nn.Linear(dim, hidden)
        self.message = FeedForward(2 * hidden + 1, 16, hidden)
        self.update = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, atoms, edges, lengths):
        h = torch.tanh(self.embed(atoms))
        source, target = edges[0], edges[1]
        ones = torch.ones_like(lengths)
        degree = torch.zeros_like(h[:, 0]).scatter_add(0, target, ones).clamp(min=1.0)
        where = target.unsqueeze(1).expand(-1, h.shape[1])
        for _ in range(self.rounds):
            m = self.message(torch.cat([h[source], h[target], lengths.unsqueeze(1)], dim=1))
            total = torch.zeros_like(h).scatter_add(0, where, m)
            h = torch.tanh(self.update(torch.cat([h, total / degree.unsqueeze(1)], 1)))
        return self.out(h).squeeze(1), h.mean(dim=0)


class QuaternionChain(nn.Module):
    """Learned joint offsets, then forward kinematics over a trajectory."""

    def __init__(self, joints=4):
        super().__init__()
        self.bias = FeedForward(joints, 12, joints, nn.Tanh)
        self.axes = nn.Parameter(F.normalize(torch.randn(joints, 3), dim=-1))
        self.bones = nn.Parameter(torch.rand(joints, 3) * 0.5)

    @staticmethod
    def multiply(a, b):
        aw, av = a[..., :1], a[..., 1:]
        bw, bv = b[..., :1], b[..., 1:]
        w = aw * bw - (av * bv).sum(-1, keepdim=True)
        v = aw * bv + bw * av + torch.cross(av, bv.expand_as(av), dim=-1)
        return torch.cat([w, v], -1)

    @staticmethod
    def turn(q, p):
        w, v = q[..., :1], q[..., 1:]
        t = 2 * torch.cross(v, p.expand_as(v), dim=-1)
        return p + w * t + torch.cross(v, t, dim=-1)

    def forward(self, joints):
        angle = joints + 0.2 * self.bias(joints)
        half = angle.unsqueeze(-1) * 0.5
        local = torch.cat([half.cos(), half.sin() * self.axes], dim=-1)
        q, p, places = local[..., 0, :], 0.0, []
        for j in range(self.bones.shape[0]):
            if j > 0:
                q = self.multiply(q, local[..., j, :])
            p = p + self.turn(q, self.bones[j])
            places.append(p)
        return torch.stack(places, dim=-2)


class AttentiveProcess(nn.Module):
    """Neural process: predicts a field at query places from context samples."""

    def __init__(self, dim=12):
        super().__init__()
        self.key = FeedForward(2, 16, dim, nn.Tanh)
        self.value = FeedForward(3, 16, dim, nn.Tanh)
        self.width = nn.Parameter(torch.tensor(1.3))
        self.out = FeedForward(dim + 2, 16, 2)

    def forward(self, places, samples, queries):
        k, q = self.key(places), self.key(queries)
        v = self.value(torch.cat([places, samples], dim=-1))
        d = (q.unsqueeze(2) - k.unsqueeze(1)).pow(2).sum(-1)
        r = (-d * self.width).softmax(-1) @ v
        mean, scale = self.out(torch.cat([r, queries], -1)).split(1, dim=-1)
        return mean, 0.1 + 0.9 * F.softplus(scale)


def cases():
    out = {}

    def f(s, b):
        cols = [randint(s + i, 0, n, b) for i, n in enumerate((12, 8, 20))]
        return {"fields": torch.stack(cols, 1), "dense": randn(s + 5, b, 4)}

    out["DeepFM"] = (
        build(DeepFM, 81),
        f(1, 4),
        [f(11, 1), f(21, 7)],
        [f(31, 3), f(41, 6), f(51, 2), f(61, 5), f(71, 8)],
    )

    c = lambda s, b, n: {"cloud": randn(s, b, n, 3)}
    out["PointRegister"] = (
        build(PointRegister, 82),
        c(1, 2, 20),
        [c(2, 1, 33), c(3, 3, 14)],
        [c(4, 2, 25), c(5, 3, 17), c(6, 1, 30), c(7, 2, 22)],
    )

    g = lambda s, n, e: {
        "atoms": randn(s, n, 5),
        "edges": randint(s + 1, 0, n, 2, e),
        "lengths": rand(s + 2, e, lo=0.5, hi=2.0),
    }
    out["MessagePasser"] = (
        build(MessagePasser, 83),
        g(1, 7, 16),
        [g(11, 12, 30), g(21, 5, 9)],
        [g(31, 9, 22), g(41, 6, 12), g(51, 11, 27), g(61, 8, 18)],
    )

    j = lambda s, b, n: {"joints": randn(s, b, n, 4)}
    out["QuaternionChain"] = (
        build(QuaternionChain, 84),
        j(1, 2, 6),
        [j(2, 3, 11), j(3, 1, 4)],
        [j(4, 2, 9), j(5, 1, 7), j(6, 3, 5), j(7, 4, 10)],
    )

    p = lambda s, b, n, m: {
        "places": randn(s, b, n, 2),
        "samples": randn(s + 1, b, n, 1),
        "queries": randn(s + 2, b, m, 2),
    }
    out["AttentiveProcess"] = (
        build(AttentiveProcess, 85),
        p(1, 2, 8, 5),
        [p(11, 1, 13, 9), p(21, 3, 6, 12)],
        [p(31, 2, 10, 7), p(41, 1, 7, 11), p(51, 3, 12, 6), p(61, 4, 9, 10)],
    )
    return out
