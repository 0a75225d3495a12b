"""Decoders: greedy, beam, CTC, packed LSTM, pointer tours and CRF Viterbi."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from tests.torchscript.blind.ported._helpers import ConvBNAct, build, ri, rn, ru


class GreedyCaptioner(nn.Module):
    """Show-and-tell with attention: greedy words until every caption has ended."""

    def __init__(self, vocab=18, dim=16, max_steps=12, bos=1, eos=2):
        super().__init__()
        self.max_steps, self.bos, self.eos = max_steps, bos, eos
        self.cnn = nn.Sequential(ConvBNAct(3, 8, 3, 2), nn.Conv2d(8, dim, 3, 2, 1))
        self.emb = nn.Embedding(vocab, dim)
        self.cell = nn.GRUCell(2 * dim, dim)
        self.att = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, vocab)
        with torch.no_grad():
            self.out.weight.mul_(6)
            self.emb.weight.mul_(0.9)
            self.cnn[1].weight.mul_(3)

    def forward(self, image):
        f = self.cnn(image).flatten(2).transpose(1, 2)
        B = f.size(0)
        h = f.mean(1)
        tok = torch.full((B,), self.bos, dtype=torch.long)
        done = torch.zeros(B, dtype=torch.bool)
        words, score = [], torch.zeros(B)
        for step in range(self.max_steps):
            a = (f @ self.att(h).unsqueeze(-1)).softmax(1)
            h = self.cell(torch.cat([self.emb(tok), (a * f).sum(1)], -1), h)
            logits = self.out(h)
            logits[:, self.eos] += 0.7 * step - 3.5  # longer captions end more readily
            lp, tok = logits.log_softmax(-1).max(-1)
            tok = tok.masked_fill(done, 0)
            score = score + lp.masked_fill(done, 0.0)
            words.append(tok)
            done = done | (tok == self.eos)
            if done.all():
                break
        return torch.stack(words, 1), score


class BeamTranslator(nn.Module):
    """One sentence, beam of three, length budget from the source, early stop."""

    def __init__(self, vocab=16, dim=16, beam=3, bos=1, eos=2):
        super().__init__()
        self.beam, self.bos, self.eos, self.vocab = beam, bos, eos, vocab
        self.src, self.tgt = nn.Embedding(vocab, dim), nn.Embedding(vocab, dim)
        self.enc = nn.GRU(dim, dim, batch_first=True)
        self.cell = nn.GRUCell(2 * dim, dim)
        self.q, self.out = nn.Linear(dim, dim), nn.Linear(dim, vocab)
        with torch.no_grad():
            self.out.weight.mul_(5)

    def forward(self, source):
        mem, h = self.enc(self.src(source))
        mem, K = mem[0], self.beam
        h = h[0].expand(K, -1).contiguous()
        seqs = torch.full((K, 1), self.bos, dtype=torch.long)
        scores = torch.tensor([0.0] + [-1e9] * (K - 1))
        alive = torch.ones(K, dtype=torch.bool)
        for step in range(2 * source.shape[1] + 2):
            a = (self.q(h) @ mem.t()).softmax(-1)
            hn = self.cell(torch.cat([self.tgt(seqs[:, -1]), a @ mem], -1), h)
            lp = self.out(hn)
            lp[:, self.eos] += 0.8 * step - 1.0
            lp = lp.log_softmax(-1)
            frozen = torch.full_like(lp, -1e9)
            frozen[:, 0] = 0.0  # a finished beam only takes padding
            lp = torch.where(alive[:, None], lp, frozen)
            scores, flat = (scores[:, None] + lp).view(-1).topk(K)
            src, tok = flat // self.vocab, flat % self.vocab
            seqs = torch.cat([seqs[src], tok[:, None]], 1)
            h = hn[src]
            alive = alive[src] & (tok != self.eos)
            if not alive.any():
                break
        n = (seqs > 0).sum(1).float()
        best = (scores / n**0.6).argmax()
        return seqs[best], scores[best] / n[best] ** 0.6


class CTCCollapse(nn.Module):
    """Acoustic net plus best-path decoding: collapse repeats, drop blanks, pad."""

    def __init__(self, mels=8, vocab=6):
        super().__init__()
        self.conv = nn.Conv1d(mels, 16, 5, 2, 2)
        self.rnn = nn.GRU(16, 8, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(16, vocab)
        with torch.no_grad():
            self.fc.weight.mul_(8)

    def forward(self, feats, feat_lengths):
        x = F.relu(self.conv(feats.transpose(1, 2))).transpose(1, 2)
        lens = torch.div(feat_lengths - 1, 2, rounding_mode="floor") + 1
        lp = self.fc(self.rnn(x)[0]).log_softmax(-1)
        path = lp.argmax(-1)
        hyps = []
        for p, n in zip(path, lens):
            ids = torch.unique_consecutive(p[:n])
            hyps.append(ids[ids != 0])
        sizes = torch.tensor([len(h) for h in hyps])
        return pad_sequence(hyps, batch_first=True, padding_value=-1), sizes, lp


class PackedTagger(nn.Module):
    def __init__(self, vocab=20, dim=8, tags=5):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim, padding_idx=0)
        self.lstm = nn.LSTM(dim, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(16, tags)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.emb(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, (h, _) = self.lstm(packed)
        out, _ = pad_packed_sequence(out, batch_first=True)
        return self.fc(out), torch.cat([h[-2], h[-1]], -1)


class PointerTour(nn.Module):
    """Pointer network that visits every city once; in-place visited mask, tour length."""

    def __init__(self, dim=16):
        super().__init__()
        self.embed = nn.Linear(2, dim)
        self.enc = nn.TransformerEncoderLayer(dim, 2, 32, 0.0, batch_first=True)
        self.dec = nn.LSTMCell(dim, dim)
        self.w1, self.w2, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 1)
        self.start = nn.Parameter(torch.randn(dim))
        with torch.no_grad():
            self.v.weight.mul_(6)

    def forward(self, cities):
        B, N, _ = cities.shape
        e = self.enc(self.embed(cities))
        h, c = e.mean(1), torch.zeros(B, e.size(-1))
        x = self.start.expand(B, -1)
        visited = torch.zeros(B, N, dtype=torch.bool)
        rows, tour, logp = torch.arange(B), [], 0
        for _ in range(N):
            h, c = self.dec(x, (h, c))
            u = self.v(torch.tanh(self.w1(e) + self.w2(h).unsqueeze(1))).squeeze(-1)
            u[visited] = float("-inf")
            p, i = u.log_softmax(-1).max(-1)
            visited[rows, i] = True
            tour.append(i)
            logp = logp + p
            x = e[rows, i]
        tour = torch.stack(tour, 1)
        path = cities.gather(1, tour.unsqueeze(-1).expand(-1, -1, 2))
        return tour, (path - path.roll(-1, 1)).norm(dim=-1).sum(1), logp


class CRFTagger(nn.Module):
    """pytorch-crf Viterbi: forward over time, backtracking per sentence in Python."""

    def __init__(self, vocab=20, dim=12, tags=5):
        super().__init__()
        self.emb = nn.Embedding(vocab, dim)
        self.conv = nn.Conv1d(dim, tags, 3, padding=1)
        self.start = nn.Parameter(torch.randn(tags))
        self.end = nn.Parameter(torch.randn(tags))
        self.trans = nn.Parameter(torch.randn(tags, tags))

    def forward(self, ids, mask):
        em = self.conv(self.emb(ids).transpose(1, 2)).permute(2, 0, 1) * 2
        m = mask.t().bool()
        T, B, _ = em.shape
        score = self.start + em[0]
        history = []
        for t in range(1, T):
            nxt, idx = (score.unsqueeze(2) + self.trans + em[t].unsqueeze(1)).max(1)
            score = torch.where(m[t].unsqueeze(1), nxt, score)
            history.append(idx)
        score = score + self.end
        ends = mask.long().sum(1) - 1
        tags = torch.full((B, T), -1)
        best_scores = []
        for b in range(B):
            best, last = score[b].max(0)
            best_scores.append(best)
            seq = [last.item()]
            for hist in reversed(history[: ends[b]]):
                seq.append(hist[b][seq[-1]].item())
            seq.reverse()
            tags[b, : len(seq)] = torch.tensor(seq)
        return tags, torch.stack(best_scores)


def cases():
    def img(seed, b, h, w, s=1.0):
        return {"image": rn(seed, b, 3, h, w, scale=s)}

    def src(seed, n):
        return {"source": ri(seed, 3, 16, 1, n)}

    def ctc(seed, lens, T):
        return {"feats": rn(seed, len(lens), T, 8), "feat_lengths": torch.tensor(lens)}

    def pk(seed, lens, T):
        m = torch.arange(T)[None] < torch.tensor(lens)[:, None]
        return {"ids": ri(seed, 1, 20, len(lens), T) * m, "lengths": torch.tensor(lens)}

    def crf(seed, lens, T):
        m = torch.arange(T)[None] < torch.tensor(lens)[:, None]
        return {"ids": ri(seed, 0, 20, len(lens), T), "mask": m}

    def c(seed, b, n):
        return {"cities": ru(seed, b, n, 2)}

    return {
        "GreedyCaptioner": (
            build(GreedyCaptioner, seed=45),
            img(1, 2, 16, 20),
            [img(2, 1, 24, 16, 2.0), img(3, 3, 12, 28, 0.5), img(4, 1, 20, 24)],
            [
                img(5, 3, 20, 18),
                img(6, 1, 28, 14, 1.5),
                img(7, 2, 18, 26, 0.7),
                img(8, 4, 16, 16, 2.0),
                img(9, 1, 14, 22),
            ],
        ),
        "BeamTranslator": (
            build(BeamTranslator, seed=42),
            src(1, 5),
            [src(2, 8), src(3, 3), src(4, 11)],
            [src(5, 6), src(6, 9), src(7, 4), src(8, 13), src(9, 7)],
        ),
        "CTCCollapse": (
            build(CTCCollapse, seed=43),
            ctc(1, [20, 14], 20),
            [ctc(2, [9, 25, 18], 25), ctc(3, [17], 17), ctc(4, [30, 30], 30)],
            [ctc(5, [22, 11], 22), ctc(6, [28, 7, 16], 28), ctc(7, [13], 13), ctc(8, [19, 24, 10, 15], 24)],
        ),
        "PackedTagger": (
            build(PackedTagger, seed=44),
            pk(1, [5, 8, 3], 8),
            [pk(2, [6, 6], 6), pk(3, [2, 10, 7, 4], 11), pk(4, [9], 9)],
            [pk(5, [4, 7], 9), pk(6, [12, 5, 8], 12), pk(7, [3, 6, 6, 2, 1], 7), pk(8, [10], 10)],
        ),
        "PointerTour": (
            build(PointerTour, seed=45),
            c(1, 2, 6),
            [c(2, 1, 9), c(3, 3, 5)],
            [c(4, 3, 7), c(5, 1, 4), c(6, 2, 11), c(7, 4, 8)],
        ),
        "CRFTagger": (
            build(CRFTagger, seed=46),
            crf(1, [7, 4], 7),
            [crf(2, [3, 9, 6], 9), crf(3, [5], 5), crf(4, [11, 11], 11)],
            [crf(5, [8, 2, 5], 8), crf(6, [10], 10), crf(7, [6, 4, 3, 1], 6), crf(8, [13, 9], 13)],
        ),
    }
