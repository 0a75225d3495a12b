import torch
from torch import nn
import torch.nn.functional as F

from tests.torchscript.blind.operators._helpers import Mlp, assemble, rand, randint, randn

PRICE_EDGES = torch.tensor([1.0, 5.0, 10.0, 20.0, 50.0, 100.0])
CROSS = 50


class BagRanker(nn.Module):
    """EmbeddingBag over ragged histories (int32); unknown ids are rewritten in the input."""

    def __init__(self, vocab=40, dim=8):
        super().__init__()
        self.vocab = vocab
        self.hist = nn.EmbeddingBag(vocab, dim, mode="sum")
        self.tags = nn.EmbeddingBag(vocab, dim, mode="max")
        self.score = Mlp(2 * dim, 16, 1)

    def forward(self, ids, weights, offsets):
        ids[ids >= self.vocab] = 0
        a = self.hist(ids, offsets, per_sample_weights=weights)
        b = self.tags(ids, offsets)
        return self.score(torch.cat([a, b], dim=1)).squeeze(-1)


class SessionUnique(nn.Module):
    """One row per distinct item of a session: counts, mean and best rating, score."""

    def __init__(self, items=30, dim=6):
        super().__init__()
        self.emb = nn.Embedding(items, dim)
        self.mlp = Mlp(dim + 3, 12, 1)

    def forward(self, items, ratings):
        uniq, inverse, counts = torch.unique(items, return_inverse=True, return_counts=True)
        blank = torch.zeros(uniq.numel(), dtype=ratings.dtype)
        mean = blank.scatter_reduce(0, inverse, ratings, reduce="mean", include_self=False)
        best = blank.scatter_reduce(0, inverse, ratings, reduce="amax", include_self=False)
        liked = ratings[ratings > 0].mean()
        x = torch.stack([counts.log1p(), mean, best - liked], dim=1)
        score = self.mlp(torch.cat([self.emb(uniq), x], dim=1)).squeeze(1)
        return {"item": uniq, "score": score, "share": counts / items.numel()}


class IntBucketWideDeep(nn.Module):
    """Wide-and-deep on int32 calendar arithmetic with negative days, crosses and buckets."""

    def __init__(self):
        super().__init__()
        self.price = nn.Embedding(len(PRICE_EDGES) + 1, 4)
        self.dow = nn.Embedding(7, 3)
        self.cross = nn.Embedding(CROSS, 4)
        self.deep = Mlp(4 + 3 + 4 + 4, 16, 1)

    def forward(self, price, day, clicks):
        bucket = torch.bucketize(price, PRICE_EDGES)
        week = day // 7
        dow = day % 7
        cross = (week * 31 + dow * 7) % CROSS
        signed = torch.fmod(day, 7)
        toward_zero = torch.div(day, 7, rounding_mode="trunc")
        past = day < 0
        boost = torch.where(past, 0.5, 1.0)
        rate = clicks / (day.abs() + 1)
        flags = past.int() + (clicks > 10) * 2
        dense = torch.stack([signed / 7, toward_zero * 0.1, torch.log1p(rate), flags / 3], dim=1)
        x = torch.cat([self.price(bucket), self.dow(dow), self.cross(cross), dense], dim=1)
        return self.deep(x).squeeze(1) * boost


class LazyNormTwoTower(nn.Module):
    """Item matrix normalised on the first call; returns the best min(5, n) candidates."""

    def __init__(self, items=25, dim=8):
        super().__init__()
        self.user = Mlp(6, 16, dim)
        self.items = nn.Parameter(3 * torch.randn(items, dim))
        self.ready = False

    def forward(self, user, candidates):
        if not self.ready:
            self.items.data = F.normalize(self.items.data, dim=1)
            self.ready = True
        with torch.no_grad():
            u = F.normalize(self.user(user), dim=1)
        table = self.items.detach()[candidates]
        score = u @ table.t()
        k = min(5, candidates.numel())
        top, where = score.topk(k, dim=1)
        return top, candidates[where], score.mean(0)


IMPOSSIBLE = set()


def _bag(s, n, b):
    cuts = randint(s, 0, n + 1, (b,), torch.int32).sort().values
    cuts[0] = 0
    return {"ids": randint(s + 1, 0, 46, (n,), torch.int32), "weights": rand(s + 2, n) + 0.1, "offsets": cuts}


def _session(s, n):
    return {"items": randint(s, 0, 30, (n,)), "ratings": randn(s + 1, n)}


def _wide(s, n):
    return {
        "price": 120 * rand(s, n),
        "day": randint(s + 1, -60, 60, (n,), torch.int32),
        "clicks": randint(s + 2, 0, 25, (n,), torch.int32),
    }


def _tower(s, b, n):
    cand = torch.randperm(25, generator=torch.Generator().manual_seed(s))[:n]
    return {"user": randn(s + 1, b, 6), "candidates": cand}


def cases():
    return {
        "BagRanker": assemble(
            BagRanker, _bag, (12, 3), [(20, 5), (9, 4), (15, 2)], [(18, 4), (25, 7), (10, 3), (14, 6), (30, 5)], 401
        ),
        "SessionUnique": assemble(
            SessionUnique, _session, (12,), [(20,), (7,), (35,)], [(16,), (9,), (28,), (40,), (22,)], 402
        ),
        "IntBucketWideDeep": assemble(
            IntBucketWideDeep, _wide, (10,), [(16,), (7,), (24,)], [(12,), (31,), (9,), (20,)], 403
        ),
        "LazyNormTwoTower": assemble(
            LazyNormTwoTower, _tower, (2, 9), [(3, 4), (1, 15), (4, 3)], [(5, 12), (2, 3), (3, 20), (1, 4), (4, 7)], 404
        ),
    }
