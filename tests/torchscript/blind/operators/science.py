import math

import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from tests.torchscript.blind.operators._helpers import Mlp, assemble, rand, randn
from tests.torchscript.blind.operators._nputil import rolling_mean


class ZcaWhitener(nn.Module):
    """Whiten a sample by the eigenvectors of its covariance (ZCA: no sign ambiguity)."""

    def __init__(self, dim=6):
        super().__init__()
        self.mix = nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        z = self.mix(x)
        z = z - z.mean(0)
        cov = z.T @ z / (len(z) - 1)
        lam, vec = torch.linalg.eigh(cov)
        root = vec @ torch.diag((lam + 0.05).rsqrt()) @ vec.T
        white = z @ root
        energy = ((z @ torch.linalg.pinv(cov, hermitian=True)) * z).sum(1)
        return white, energy, (lam + 0.05).log().sum()


class SurvivalCurve(nn.Module):
    """Cox model: partial likelihood by logcumsumexp and a Breslow survival curve."""

    def __init__(self, dim=5):
        super().__init__()
        self.risk = Mlp(dim, 8, 1)

    def forward(self, feats, times, events):
        risk = self.risk(feats).squeeze(1)
        order = torch.argsort(times, descending=True)
        lse = torch.logcumsumexp(risk[order], dim=0)
        ev = events[order]
        like = ((risk[order] - lse) * ev).sum() / ev.sum().clamp(min=1)
        hazard = torch.where(ev, torch.exp(-lse), 0.0).flip(0)
        surv = torch.cumprod(torch.exp(-hazard), dim=0)
        worst, at = torch.cummax(risk[order], dim=0)
        return {"like": like, "surv": surv, "worst": worst, "at": at, "time": times[order].flip(0)}


class PointCloudKnn(nn.Module):
    """Edge convolution on the min(8, n - 1) nearest neighbours of each point."""

    def __init__(self):
        super().__init__()
        self.edge = Mlp(6, 16, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, points):
        b, n, _ = points.shape
        k = min(8, n - 1)
        dist = torch.cdist(points, points)
        near = dist.topk(k + 1, dim=-1, largest=False).indices[..., 1:]
        neigh = points[torch.arange(b)[:, None, None], near]
        centre = points[:, :, None].expand(-1, -1, k, -1)
        h = self.edge(torch.cat([centre, neigh - centre], dim=-1))
        return self.head(F.relu(h.amax(2)).mean(1))


class SensorImputer(nn.Module):
    """Fill missing readings, clip by quantiles over time, learn from both and the gaps."""

    def __init__(self, dim=5):
        super().__init__()
        self.net = Mlp(2 * dim, 16, 3)

    def forward(self, series):
        gone = torch.isnan(series)
        mid = torch.nanmedian(series, dim=1, keepdim=True).values
        fill = 0.5 * (mid + torch.nanmean(series, dim=1, keepdim=True))
        x = torch.where(gone, fill, series)
        cuts = torch.quantile(x, torch.tensor([0.1, 0.9]), dim=1, keepdim=True)
        x = x.clamp(cuts[0], cuts[1])
        third = x.kthvalue(max(1, int(0.75 * x.shape[1])), dim=1, keepdim=True).values
        x = (x - mid) / (third - mid + 1.0)
        feats = torch.cat([x, ~gone * torch.where(gone.any(), 1.0, 0.5)], dim=-1)
        return self.net(feats), gone.sum(1) / series.shape[1]


class NumpyBaseline(nn.Module):
    """Chemometrics: NumPy baseline removal and wavelength axis, then a 1-D convnet."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 8, 5, padding=2)
        self.out = nn.Linear(8, 2)

    def forward(self, spectra):
        y = spectra.detach().numpy()
        base = np.minimum(y, rolling_mean(y, 9))
        flat = y - rolling_mean(base, 9)
        flat = flat / (np.std(flat) + 1e-6) - np.mean(flat)
        axis = np.linspace(-1.0, 1.0, y.shape[-1], dtype=np.float32)
        x = torch.stack([torch.from_numpy(flat.astype(np.float32)), torch.as_tensor(axis).expand(len(y), -1)], dim=1)
        h = F.elu(self.conv(x))
        return self.out(h.mean(-1))


class KeplerSolver(nn.Module):
    """Fixed-point iterations in float64 until converged, then a learned correction in float32."""

    def __init__(self):
        super().__init__()
        self.residue = Mlp(3, 12, 2, act=nn.Tanh)
        self.mu = torch.tensor(2.0, dtype=torch.float64)

    def forward(self, anomaly, ecc):
        m = torch.remainder(anomaly.double(), 2 * math.pi)
        e = ecc.double()
        big = m
        for _ in range(200):
            nxt = m + e * torch.sin(big)
            gap = (nxt - big).abs().max()
            big = nxt
            if gap < 1e-6:
                break
        a = self.mu.pow(1 / 3)
        pos = torch.stack([a * (big.cos() - e), a * (1 - e * e).sqrt() * big.sin()], dim=-1)
        feats = torch.stack([pos[..., 0], pos[..., 1], e], dim=-1).float()
        return pos.float() + 0.1 * self.residue(feats), big


IMPOSSIBLE = set()


def _surv(s, n):
    return {"feats": randn(s, n, 5), "times": 10 * rand(s + 1, n), "events": rand(s + 2, n) > 0.4}


def _gappy(s, b, t, rate=0.25):
    x = randn(s, b, t, 5) * 2 + 1
    m = rand(s + 1, b, t, 5) < rate
    m[:, :2] = False
    return {"series": x.masked_fill(m, float("nan"))}


def _spectra(s, b, n):
    x = torch.linspace(0, 3, n)
    return {"spectra": torch.exp(-((x - 3 * rand(s, b, 1)) ** 2) * 8) + 0.2 * x + 0.05 * randn(s + 1, b, n)}


def cases():
    return {
        "ZcaWhitener": assemble(
            ZcaWhitener,
            lambda s, n: {"x": randn(s, n, 6) * torch.arange(1.0, 7.0)},
            (12,),
            [(20,), (9,), (31,)],
            [(15,), (11,), (26,), (40,)],
            601,
        ),
        "SurvivalCurve": assemble(SurvivalCurve, _surv, (9,), [(14,), (6,), (21,)], [(12,), (8,), (25,), (17,)], 602),
        "PointCloudKnn": assemble(
            PointCloudKnn,
            lambda s, b, n: {"points": randn(s, b, n, 3)},
            (2, 16),
            [(1, 6), (3, 24), (4, 8)],
            [(2, 20), (5, 5), (1, 30), (3, 7), (4, 12)],
            603,
        ),
        "SensorImputer": assemble(
            SensorImputer,
            _gappy,
            (2, 10),
            [(3, 14, 0.0), (1, 7), (4, 17, 0.4)],
            [(5, 12), (2, 8, 0.0), (3, 20), (1, 9, 0.4), (4, 15)],
            604,
        ),
        "NumpyBaseline": assemble(
            NumpyBaseline, _spectra, (2, 30), [(3, 41), (1, 25)], [(4, 36), (2, 50), (5, 28), (3, 33)], 605
        ),
        "KeplerSolver": assemble(
            KeplerSolver,
            lambda s, n, e: {"anomaly": 8 * randn(s, n), "ecc": e * rand(s + 1, n)},
            (6, 0.02),
            [(10, 0.3), (4, 0.7), (13, 0.5)],
            [(8, 0.2), (5, 0.68), (15, 0.01), (11, 0.6)],
            606,
        ),
    }
