import math

import torch
from torch import nn

from tests.torchscript.blind.operators._helpers import Mlp, assemble, rand, randn
from tests.torchscript.blind.operators._nputil import hungarian


class KalmanSmoother(nn.Module):
    """Constant-velocity Kalman filter over time with learned noise; skips missing fixes."""

    def __init__(self):
        super().__init__()
        dt = 0.2
        f = torch.eye(4)
        f[0, 2] = f[1, 3] = dt
        self.register_buffer("f", f)
        self.register_buffer("h", torch.eye(2, 4))
        self.log_q = nn.Parameter(torch.tensor([-3.0, -3.0, -1.5, -1.5]))
        self.log_r = nn.Parameter(torch.tensor([-1.0, -1.2]))

    def forward(self, fixes, valid):
        b, t, _ = fixes.shape
        q, r = torch.diag(self.log_q.exp()), torch.diag(self.log_r.exp())
        x = torch.zeros(b, 4, device="cpu")
        p = torch.eye(4, device="cpu").repeat(b, 1, 1)
        track = torch.zeros(b, t, 4, device="cpu")
        loss = torch.zeros(b)
        for i in range(t):
            x = x @ self.f.T
            p = self.f @ p @ self.f.T + q
            innov = fixes[:, i] - x @ self.h.T
            s = self.h @ p @ self.h.T + r
            low = torch.linalg.cholesky(s)
            gain = torch.cholesky_solve(self.h @ p, low).transpose(1, 2)
            seen = valid[:, i]
            xn = x + (gain @ innov.unsqueeze(-1)).squeeze(-1)
            pn = p - gain @ self.h @ p
            x = torch.where(seen[:, None], xn, x)
            p = torch.where(seen[:, None, None], pn, p)
            loss += seen * low.diagonal(dim1=1, dim2=2).log().sum(-1)
            track[:, i] = x
        return track, loss


class ProcrustesAligner(nn.Module):
    """Weighted rigid registration by SVD with the reflection fixed through det."""

    def __init__(self):
        super().__init__()
        self.weigh = Mlp(6, 8, 1)

    def forward(self, src, dst):
        w = torch.sigmoid(self.weigh(torch.cat([src, dst], dim=-1)))
        w = w / w.sum(dim=1, keepdim=True)
        cs, cd = (w * src).sum(1, keepdim=True), (w * dst).sum(1, keepdim=True)
        cov = ((src - cs) * w).transpose(1, 2) @ (dst - cd)
        u, _, vh = torch.linalg.svd(cov)
        fix = torch.eye(3).repeat(src.shape[0], 1, 1)
        fix[:, 2, 2] = torch.where(torch.det(u @ vh) < 0, -1.0, 1.0)
        rot = vh.transpose(1, 2) @ fix @ u.transpose(1, 2)
        shift = cd.squeeze(1) - (rot @ cs.transpose(1, 2)).squeeze(-1)
        res = (src @ rot.transpose(1, 2) + shift[:, None] - dst).norm(dim=-1)
        return {"rot": rot, "shift": shift, "rmse": (w.squeeze(-1) * res**2).sum(1).sqrt()}


class LidarBinner(nn.Module):
    """Nearest return per sector of one scan, far points dropped; steering from the profile."""

    SECTORS = 24
    REACH = 8.0

    def __init__(self):
        super().__init__()
        self.steer = Mlp(3 * self.SECTORS, 24, 2, act=nn.Tanh)

    def forward(self, points, intensity):
        dist = points.norm(dim=1)
        keep = dist < self.REACH
        points, dist, intensity = points[keep], dist[keep], intensity[keep]
        angle = torch.atan2(points[:, 1], points[:, 0]) % (2 * math.pi)
        sector = torch.div(angle, 2 * math.pi / self.SECTORS, rounding_mode="floor").long()
        near = torch.full((self.SECTORS,), self.REACH)
        near.scatter_reduce_(0, sector, dist, reduce="amin")
        bright = torch.zeros(self.SECTORS)
        bright.index_put_((sector,), intensity, accumulate=True)
        hits = torch.bincount(sector, minlength=self.SECTORS)
        bright /= hits.clamp(min=1)
        profile = torch.cat([near / self.REACH, bright, hits / len(dist)])
        return self.steer(profile), near


class Angle(torch.Tensor):
    """A tensor of radians whose differences wrap into [-pi, pi)."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        if func in (torch.Tensor.sub, torch.Tensor.__sub__, torch.sub):
            plain = out.as_subclass(torch.Tensor)
            out = (torch.remainder(plain + math.pi, 2 * math.pi) - math.pi).as_subclass(cls)
        return out


class HeadingFusion(nn.Module):
    """Fuses compass and gyro headings with a tensor subclass for the wrap-around."""

    def __init__(self):
        super().__init__()
        self.trust = Mlp(2, 8, 1)

    def forward(self, compass, gyro):
        c, g = compass.as_subclass(Angle), gyro.as_subclass(Angle)
        gap = (c - g).as_subclass(torch.Tensor)
        gap_sq = gap.square()
        a = torch.sigmoid(self.trust(torch.stack([gap, gap_sq], dim=-1))).squeeze(-1)
        heading = gyro + a * gap
        mean = torch.atan2(heading.sin().mean(-1), heading.cos().mean(-1))
        return heading, mean, gap_sq.mean(-1)


class RunningNormPolicy(nn.Module):
    """Policy that keeps updating its observation statistics, in eval mode too."""

    def __init__(self, obs=6, act=3):
        super().__init__()
        self.register_buffer("count", torch.tensor(1.0))
        self.register_buffer("mean", torch.zeros(obs))
        self.register_buffer("var", torch.ones(obs))
        self.pi = Mlp(obs, 24, act, act=nn.Tanh)

    def forward(self, obs):
        n = float(obs.shape[0])
        delta = obs.mean(0) - self.mean
        total = self.count + n
        self.mean += delta * n / total
        self.var.mul_(self.count / total).add_(obs.var(0, unbiased=False) * n / total)
        self.count.add_(n)
        return self.pi((obs - self.mean) / (self.var + 1e-5).sqrt())


class HungarianTracker(nn.Module):
    """Matches tracks to detections by a pure-Python Hungarian algorithm on learned costs."""

    def __init__(self):
        super().__init__()
        self.embed = Mlp(4, 16, 8)

    def forward(self, tracks, detections):
        cost = torch.cdist(self.embed(tracks), self.embed(detections))
        cols = hungarian(cost.tolist())
        moved = torch.stack([detections[j] - tracks[i] for i, j in enumerate(cols)])
        return torch.tensor(cols), moved


IMPOSSIBLE = {"RunningNormPolicy", "HungarianTracker"}


def _fixes(s, b, t):
    return {"fixes": randn(s, b, t, 2).cumsum(1) * 0.3, "valid": rand(s + 1, b, t) > 0.25}


def _clouds(s, b, n, flip=False):
    src = randn(s, b, n, 3)
    q = torch.linalg.qr(randn(s + 1, b, 3, 3)).Q
    if flip:
        q[..., 0] *= -torch.det(q)[:, None].sign()
    return {"src": src, "dst": src @ q + randn(s + 2, b, 1, 3) + 0.05 * randn(s + 3, b, n, 3)}


def _scan(s, n):
    return {"points": 5 * randn(s, n, 2), "intensity": rand(s + 1, n)}


def _headings(s, b, n):
    c = (rand(s, b, n) - 0.5) * 4 * math.pi
    return {"compass": c, "gyro": c + 0.8 * randn(s + 1, b, n).clamp(-3, 3)}


def cases():
    return {
        "KalmanSmoother": assemble(
            KalmanSmoother, _fixes, (2, 6), [(3, 9), (1, 4), (4, 7)], [(5, 8), (2, 11), (3, 5), (1, 10)], 501
        ),
        "ProcrustesAligner": assemble(
            ProcrustesAligner,
            _clouds,
            (2, 9),
            [(1, 14, True), (4, 7), (5, 11, True)],
            [(3, 12), (2, 16, True), (1, 8), (6, 10)],
            502,
        ),
        "LidarBinner": assemble(LidarBinner, _scan, (40,), [(64,), (25,), (90,)], [(50,), (33,), (120,), (75,)], 503),
        "HeadingFusion": assemble(
            HeadingFusion, _headings, (2, 7), [(3, 12), (1, 5)], [(4, 9), (2, 15), (5, 6), (3, 10)], 504
        ),
        "RunningNormPolicy": assemble(
            RunningNormPolicy,
            lambda s, n: {"obs": 2 * randn(s, n, 6) + 1},
            (4,),
            [(7,), (3,)],
            [(5,), (9,), (6,), (8,)],
            505,
        ),
        "HungarianTracker": assemble(
            HungarianTracker,
            lambda s, n, m: {"tracks": randn(s, n, 4), "detections": randn(s + 1, m, 4)},
            (3, 5),
            [(4, 4), (2, 6)],
            [(5, 7), (3, 4), (4, 8), (2, 5)],
            506,
        ),
    }
