"""tolist(), item(), masks and lists whose length comes from the data."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.torchscript.blind.control._helpers import ConvBlock, FeedForward, build, rand, randint, randn


class GreedyCTC(nn.Module):
    """Acoustic frames to collapsed label ids, with the path's score."""

    blank = 0

    def __init__(self, feats=8, labels=6):
        super().__init__()
        self.context = nn.Conv1d(feats, 16, 5, padding=2)
        self.rnn = nn.GRU(16, 10, batch_first=True, bidirectional=True)
        self.label = nn.Linear(20, labels)

    def forward(self, frames):
        h = torch.tanh(self.context(frames.t().unsqueeze(0)))
        h, _ = self.rnn(h.transpose(1, 2))
        logp = (self.label(h).squeeze(0) * 8).log_softmax(-1)
        best, path = logp.max(-1)
        ids, previous = [], self.blank
        for label in path.tolist():
            if label != previous and label != self.blank:
                ids.append(label)
            previous = label
        return torch.tensor(ids, dtype=torch.long), best.sum()


class GreedyTranslator(nn.Module):
    """Encoder-decoder that writes tokens one at a time until it writes </s>."""

    def __init__(self, vocab=14, dim=16, eos=1):
        super().__init__()
        self.eos = eos
        self.embed = nn.Embedding(vocab, dim)
        self.encoder = nn.GRU(dim, dim, batch_first=True)
        self.decoder = nn.GRUCell(2 * dim, dim)
        self.project = nn.Linear(dim, vocab, bias=False)
        self.project.weight = self.embed.weight

    def forward(self, source):
        memory, state = self.encoder(self.embed(source).unsqueeze(0))
        memory, state = memory[0], state[0]
        token = source[-1]
        written, states = [], []
        while len(written) < len(source) + 3:
            weights = (memory @ state[0]).softmax(0)
            context = weights @ memory
            state = self.decoder(torch.cat([self.embed(token), context])[None], state)
            logits = self.project(state[0]) * 4
            if written:
                logits[written[-1]] -= 20.0
            token = logits.argmax()
            written.append(token.item())
            states.append(state[0])
            if written[-1] == self.eos:
                break
        return torch.tensor(written), torch.stack(states)


class ExpertMixture(nn.Module):
    """Top-1 routed feed-forward layer with a shared fallback."""

    def __init__(self, dim=10, experts=4):
        super().__init__()
        self.gate = nn.Linear(dim, experts)
        self.experts = nn.ModuleList([FeedForward(dim, 12 + 4 * i) for i in range(experts)])

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        weight, choice = self.gate(flat).softmax(-1).max(-1)
        out = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            rows = (choice == index).nonzero().flatten()
            if rows.numel() == 0:
                continue
            out[rows] = weight[rows, None] * expert(flat[rows])
        return x + out.view_as(x)


class TrimmedPooler(nn.Module):
    """Padded batch of sentences: trims, packs, and pools each by its own length."""

    def __init__(self, vocab=30, dim=12):
        super().__init__()
        self.embed = nn.Embedding(vocab, dim, padding_idx=0)
        self.rnn = nn.LSTM(dim, dim, batch_first=True)
        self.score = nn.Linear(2 * dim, 3)

    def forward(self, tokens, lengths):
        longest = int(lengths.max())
        x = self.embed(tokens[:, :longest])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        h, (last, _) = self.rnn(packed)
        h, _ = pad_packed_sequence(h, batch_first=True)
        pooled = torch.stack([h[i, :n].max(dim=0).values for i, n in enumerate(lengths.tolist())])
        return self.score(torch.cat([pooled, last[0]], dim=1)), h


class BoxPooler(nn.Module):
    """Crops a feature map at each box (pixels), pools each crop to 2x2, classifies it."""

    def __init__(self, channels=8, stride=4):
        super().__init__()
        self.stride = stride
        self.backbone = nn.Sequential(ConvBlock(3, channels, 2), ConvBlock(channels, channels, 2))
        self.head = nn.Linear(channels * 4, 5)

    def crop(self, fmap, box):
        x0, y0, x1, y1 = (v / self.stride for v in box)
        left, top = int(x0), int(y0)
        right, bottom = max(left + 1, int(x1 + 0.5)), max(top + 1, int(y1 + 0.5))
        return F.adaptive_avg_pool2d(fmap[:, top:bottom, left:right], (2, 2))

    def forward(self, image, boxes):
        fmap = self.backbone(image)[0]
        crops = [self.crop(fmap, box) for box in boxes.tolist()]
        return self.head(torch.stack(crops).flatten(1)).sigmoid()


class GreedyNMS(nn.Module):
    """Decodes anchors with a small head and keeps non-overlapping boxes."""

    def __init__(self, dim=6, iou=0.4):
        super().__init__()
        self.iou = iou
        self.rescore = nn.Linear(dim, 1)
        self.shift = nn.Linear(dim, 4)

    @staticmethod
    def overlap(one, many):
        lt = torch.maximum(one[:2], many[:, :2])
        rb = torch.minimum(one[2:], many[:, 2:])
        inter = (rb - lt).clamp(min=0).prod(1)
        area = lambda b: (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
        return inter / (area(one) + area(many) - inter)

    def forward(self, anchors, features):
        scores = self.rescore(features).squeeze(1).sigmoid()
        boxes = anchors + 0.5 * torch.tanh(self.shift(features))
        order = scores.argsort(descending=True)
        kept = []
        while order.numel() > 0:
            first = order[0]
            kept.append(first)
            rest = order[1:]
            order = rest[self.overlap(boxes[first], boxes[rest]) <= self.iou]
        kept = torch.stack(kept)
        return boxes[kept], scores[kept]


class BagRecommender(nn.Module):
    """Ragged histories as a flat id list and offsets; empty histories get a default."""

    def __init__(self, items=50, dim=8):
        super().__init__()
        self.items = nn.Embedding(items, dim)
        self.cold = nn.Parameter(torch.randn(2 * dim))
        self.tower = FeedForward(2 * dim, 16, dim, nn.ReLU)

    def forward(self, history, offsets, candidates):
        starts = offsets.tolist()
        ends = starts[1:] + [history.shape[0]]
        users = []
        for start, end in zip(starts, ends):
            if start == end:
                users.append(self.cold)
                continue
            bag = self.items(history[start:end])
            users.append(torch.cat((bag.mean(0), bag.amax(0))))
        return self.tower(torch.stack(users)) @ self.items(candidates).t()


def _frames(seed, n, smooth=3):
    x = randn(seed, n + smooth, 8, scale=1.8)
    return {"frames": x.unfold(0, smooth + 1, 1).mean(-1)}


def _padded(seed, lengths, width):
    tokens = randint(seed, 1, 30, len(lengths), width)
    lens = torch.tensor(lengths)
    tokens = tokens * (torch.arange(width)[None] < lens[:, None])
    return {"tokens": tokens, "lengths": lens}


def _boxes(seed, n, h, w):
    x0, y0 = rand(seed, n) * (w - 12), rand(seed + 100, n) * (h - 12)
    bw, bh = rand(seed + 200, n, lo=3, hi=20), rand(seed + 300, n, lo=3, hi=20)
    box = torch.stack([x0, y0, (x0 + bw).clamp(max=w), (y0 + bh).clamp(max=h)], 1)
    box = box.floor() + 0.3
    return {"image": randn(seed, 1, 3, h, w), "boxes": box}


def _anchors(seed, n, spread):
    xy = rand(seed, n, 2, hi=spread)
    wh = rand(seed + 50, n, 2, lo=3, hi=6)
    return {"anchors": torch.cat([xy, xy + wh], 1), "features": randn(seed + 90, n, 6)}


def _bags(seed, counts, n):
    ends = torch.tensor(counts).cumsum(0)
    return {
        "history": randint(seed, 0, 50, int(ends[-1])),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.long), ends[:-1]]),
        "candidates": randint(seed + 1, 0, 50, n),
    }


def cases():
    out = {}
    f = _frames
    out["GreedyCTC"] = (
        build(GreedyCTC, 11),
        f(1, 30),
        [f(2, 18), f(3, 41), f(4, 25)],
        [f(5, 22), f(6, 37), f(7, 29), f(8, 33), f(9, 20)],
    )

    s = lambda k, n: {"source": randint(k, 2, 14, n)}
    out["GreedyTranslator"] = (
        build(GreedyTranslator, 12),
        s(1, 7),
        [s(2, 5), s(3, 10), s(4, 8)],
        [s(5, 6), s(6, 9), s(7, 7), s(8, 10), s(9, 5), s(10, 8)],
    )

    x = lambda k, b, n, m=0.0: {"x": randn(k, b, n, 10) + m * randn(k + 40, 10)}
    out["ExpertMixture"] = (
        build(ExpertMixture, 13),
        x(1, 2, 9),
        [x(2, 1, 4, 3.0), x(3, 3, 6), x(4, 2, 5, 4.0)],
        [x(5, 1, 7), x(6, 3, 4, 3.0), x(7, 2, 8), x(8, 3, 9, 4.0), x(9, 1, 5, 2.0)],
    )

    p = _padded
    out["TrimmedPooler"] = (
        build(TrimmedPooler, 14),
        p(1, [5, 8, 3], 10),
        [p(2, [7, 2], 7), p(3, [4, 9, 1, 6], 12), p(4, [3, 6], 9)],
        [p(5, [2, 5, 7], 8), p(6, [9, 4], 11), p(7, [6, 1, 8, 3], 10), p(8, [3, 11, 2], 12), p(9, [4, 4, 5, 2], 9)],
    )

    b = _boxes
    out["BoxPooler"] = (
        build(BoxPooler, 15),
        b(1, 4, 40, 48),
        [b(2, 2, 32, 56), b(3, 7, 48, 36)],
        [b(4, 3, 36, 40), b(5, 6, 44, 52), b(6, 5, 33, 47), b(7, 2, 46, 38)],
    )

    n = _anchors
    out["GreedyNMS"] = (
        build(GreedyNMS, 16),
        n(1, 12, 12.0),
        [n(2, 6, 25.0), n(3, 18, 8.0), n(4, 9, 5.0)],
        [n(5, 10, 10.0), n(6, 15, 20.0), n(7, 7, 6.0), n(8, 17, 14.0), n(9, 8, 9.0)],
    )

    g = _bags
    out["BagRecommender"] = (
        build(BagRecommender, 17),
        g(1, [3, 0, 5], 6),
        [g(2, [2, 4], 9), g(3, [0, 1, 6, 2], 4)],
        [g(4, [4, 1, 3], 5), g(5, [5, 0], 8), g(6, [1, 2, 0, 4], 7), g(7, [0, 6, 5], 4), g(8, [2, 2, 3, 3], 9)],
    )
    return out
