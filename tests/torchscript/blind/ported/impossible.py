"""What no static capture can do honestly: sampling, memory between calls, pure Python search."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.torchscript.blind.ported._helpers import build, ri, rn, ru

IMPOSSIBLE = {"NucleusSampler", "StreamingDenoiser", "UnionFindInstances", "HungarianMatcher"}


class NucleusSampler(nn.Module):
    """Character model that samples with top-p."""

    def __init__(self, vocab=20, dim=16, steps=5, top_p=0.9):
        super().__init__()
        self.steps, self.top_p = steps, top_p
        self.emb, self.rnn = nn.Embedding(vocab, dim), nn.GRU(dim, dim, batch_first=True)
        self.out = nn.Linear(dim, vocab)

    def forward(self, prompt):
        y, h = self.rnn(self.emb(prompt))
        seq = prompt
        for _ in range(self.steps):
            p = self.out(y[:, -1]).softmax(-1)
            sp, si = p.sort(-1, descending=True)
            sp = sp.masked_fill(sp.cumsum(-1) - sp > self.top_p, 0.0)
            tok = si.gather(-1, torch.multinomial(sp / sp.sum(-1, keepdim=True), 1))
            seq = torch.cat([seq, tok], 1)
            y, h = self.rnn(self.emb(tok), h)
        return seq


class StreamingDenoiser(nn.Module):
    """Chunks of one endless stream: convolution context and running level survive the call."""

    def __init__(self, ch=6, k=5):
        super().__init__()
        self.k = k
        self.conv, self.out = nn.Conv1d(1, ch, k), nn.Conv1d(ch, 1, 1)
        self.register_buffer("level", torch.tensor(1.0))
        self.context = None

    def forward(self, chunk):
        if self.context is None or self.context.shape[0] != chunk.shape[0]:
            self.context = chunk.new_zeros(chunk.shape[0], 1, self.k - 1)
        x = torch.cat([self.context, chunk.unsqueeze(1)], -1)
        self.context = x[..., -(self.k - 1) :].detach()
        self.level = 0.9 * self.level + 0.1 * chunk.abs().mean().detach()
        return self.out(torch.tanh(self.conv(x / self.level))).squeeze(1)


class UnionFindInstances(nn.Module):
    """Pixel affinities joined by union-find in plain Python; labels by first appearance."""

    def __init__(self):
        super().__init__()
        self.aff = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 2, 3, padding=1))

    def forward(self, image):
        a = self.aff(image)[0]
        h, w = a.shape[1:]
        right, down = (a[0] > 0.05).tolist(), (a[1] > 0.05).tolist()
        parent = {(y, x): (y, x) for y in range(h) for x in range(w)}

        def find(p):
            while parent[p] != p:
                parent[p] = parent[parent[p]]
                p = parent[p]
            return p

        for y in range(h):
            for x in range(w):
                if x + 1 < w and right[y][x]:
                    parent[find((y, x + 1))] = find((y, x))
                if y + 1 < h and down[y][x]:
                    parent[find((y + 1, x))] = find((y, x))
        names = {}
        labels = [[names.setdefault(find((y, x)), len(names)) for x in range(w)] for y in range(h)]
        return torch.tensor(labels), torch.tensor(len(names))


class HungarianMatcher(nn.Module):
    """DETR matching: the cost is a tensor, the assignment an O(n^3) Python algorithm."""

    def __init__(self, dim=6, classes=4):
        super().__init__()
        self.cls, self.box = nn.Linear(dim, classes), nn.Linear(dim, 4)

    @staticmethod
    def assign(cost):  # rows <= columns
        n, m, inf = len(cost), len(cost[0]), float("inf")
        u, v, p, way = [0.0] * (n + 1), [0.0] * (m + 1), [0] * (m + 1), [0] * (m + 1)
        for i in range(1, n + 1):
            p[0], j0 = i, 0
            minv, used = [inf] * (m + 1), [False] * (m + 1)
            while True:
                used[j0] = True
                i0, delta, j1 = p[j0], inf, 0
                for j in range(1, m + 1):
                    if not used[j]:
                        cur = cost[i0 - 1][j - 1] - u[i0] - v[j]
                        if cur < minv[j]:
                            minv[j], way[j] = cur, j0
                        if minv[j] < delta:
                            delta, j1 = minv[j], j
                for j in range(m + 1):
                    if used[j]:
                        u[p[j]] += delta
                        v[j] -= delta
                    else:
                        minv[j] -= delta
                j0 = j1
                if p[j0] == 0:
                    break
            while j0:
                p[j0] = p[way[j0]]
                j0 = way[j0]
        out = [0] * n
        for j in range(1, m + 1):
            if p[j]:
                out[p[j] - 1] = j - 1
        return out

    @torch.no_grad()
    def forward(self, queries, labels, boxes):
        prob = self.cls(queries).softmax(-1)
        b = self.box(queries).sigmoid()
        cost = 5 * torch.cdist(boxes, b, p=1) - prob[:, labels].t()
        match = torch.tensor(self.assign(cost.tolist()))
        return match, cost.gather(1, match[:, None]).sum(), F.l1_loss(b[match], boxes)


def cases():
    def p(seed, b, t):
        return {"prompt": ri(seed, 0, 20, b, t)}

    def s(seed, b, t):
        return {"chunk": rn(seed, b, t)}

    def i(seed, h, w):
        return {"image": rn(seed, 1, 1, h, w)}

    def m(seed, nq, nt):
        return {"queries": rn(seed, nq, 6, scale=2.0), "labels": ri(seed, 0, 4, nt), "boxes": ru(seed, nt, 4)}

    return {
        "NucleusSampler": (
            build(NucleusSampler, seed=101),
            p(1, 2, 4),
            [p(2, 1, 7), p(3, 3, 5)],
            [p(4, 2, 6), p(5, 4, 3), p(6, 1, 9), p(7, 3, 8)],
        ),
        "StreamingDenoiser": (
            build(StreamingDenoiser, seed=102),
            s(1, 2, 20),
            [s(2, 2, 31), s(3, 2, 16)],
            [s(4, 2, 24), s(5, 2, 40), s(6, 2, 18), s(7, 2, 27)],
        ),
        "UnionFindInstances": (
            build(UnionFindInstances, seed=103),
            i(1, 6, 8),
            [i(2, 9, 7), i(3, 5, 10)],
            [i(4, 7, 9), i(5, 10, 6), i(6, 8, 8), i(7, 6, 11)],
        ),
        "HungarianMatcher": (
            build(HungarianMatcher, seed=104),
            m(1, 8, 3),
            [m(2, 10, 5), m(3, 7, 4)],
            [m(4, 9, 6), m(5, 12, 4), m(6, 6, 5), m(7, 11, 2)],
        ),
    }
