import torch
from torch import nn
import torch.nn.functional as F
from torch.nn.utils import parametrizations

from tests.torchscript.blind.operators._helpers import assemble, randn

HALF = torch.float16


class ForgottenEvalStyle(nn.Module):
    """Style encoder used with batch statistics: the owner never calls eval()."""

    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1)
        self.b1 = nn.BatchNorm2d(8)
        self.c2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.b2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(16, 6)

    def forward(self, image):
        x = F.relu(self.b1(self.c1(image)))
        x = self.b2(self.c2(x))
        style = torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)
        return self.fc(style)


class ScratchHistory(nn.Module):
    """Sensor window copied into a preallocated buffer, decimated views edited in place."""

    CAP = 64

    def __init__(self, ch=6):
        super().__init__()
        self.register_buffer("hist", torch.zeros(1, ch, self.CAP))
        self.register_buffer("tmp", torch.zeros(1, ch, self.CAP))
        self.conv = nn.Conv1d(ch, 8, 5, padding=4, dilation=2)
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, window):
        t = window.shape[-1]
        self.hist.zero_()
        self.hist[..., :t].copy_(window)
        torch.mul(self.hist, self.hist, out=self.tmp)
        scale = self.tmp.sum(-1, keepdim=True).div(t).add(1e-3).sqrt()
        x = self.hist / scale
        even = x[..., ::2]
        even *= self.gain
        y = self.conv(x)[..., :t]
        y[:, 0] += x[:, 0, :t]
        flat = y.reshape(8, -1)
        flat[1:3].mul_(2.0)
        return y, flat.amax(dim=1)


class SteBinarize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        return torch.where(x > 0, 1.0, -1.0) * scale

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 1), None


class BinaryHalfNet(nn.Module):
    """Binarised weights (straight-through Function), half-precision tables, bfloat16 input."""

    def __init__(self, dim=10, hidden=16):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(hidden, dim))
        self.table = nn.Parameter(torch.randn(4, hidden).to(HALF), requires_grad=False)
        self.out = nn.Linear(hidden, 3)

    def forward(self, x):
        spread = x.std().item()
        x = x.to(torch.bfloat16).float() / max(spread, 0.5)
        w = SteBinarize.apply(self.w1, self.w1.abs().mean(1, keepdim=True))
        h = torch.tanh(F.linear(x, w))
        h = h + self.table[x.shape[0] % 4]
        return self.out(h).float(), h.to(HALF).float().abs().amax(1)


class OrthogonalRnn(nn.Module):
    """Recurrent net with orthogonal, weight-normed and spectral-normed parametrizations."""

    def __init__(self, dim=4, hidden=12):
        super().__init__()
        self.inp = parametrizations.weight_norm(nn.Linear(dim, hidden))
        self.rec = parametrizations.orthogonal(nn.Linear(hidden, hidden, bias=False), orthogonal_map="matrix_exp")
        self.out = parametrizations.spectral_norm(nn.Linear(hidden, 3))
        self.bias = nn.Parameter(0.1 * torch.randn(hidden))

    def forward(self, seq):
        h = seq.new_zeros(seq.shape[0], self.rec.in_features)
        outs = []
        for x in seq.unbind(1):
            z = self.inp(x) + self.rec(h)
            h = torch.sign(z) * F.relu(z.abs() + self.bias)
            outs.append(self.out(h))
        return torch.stack(outs, dim=1), h


IMPOSSIBLE = set()


def cases():
    return {
        "ForgottenEvalStyle": assemble(
            ForgottenEvalStyle,
            lambda s, b, h, w: {"image": 2 * randn(s, b, 3, h, w) + 0.5},
            (3, 10, 12),
            [(2, 13, 9), (5, 8, 11)],
            [(4, 12, 10), (2, 9, 15), (6, 11, 8), (3, 14, 13)],
            701,
            train=True,
        ),
        "ScratchHistory": assemble(
            ScratchHistory,
            lambda s, t, k: {"window": k * randn(s, 1, 6, t)},
            (20, 1.0),
            [(33, 2.0), (14, 0.5), (50, 1.0)],
            [(27, 1.5), (18, 3.0), (41, 0.8), (60, 1.0), (11, 1.0)],
            702,
        ),
        "BinaryHalfNet": assemble(
            BinaryHalfNet,
            lambda s, b, k: {"x": k * randn(s, b, 10)},
            (4, 1.0),
            [(3, 0.2), (6, 3.0), (9, 1.5)],
            [(5, 2.0), (7, 0.3), (10, 1.2), (8, 4.0), (2, 0.9)],
            703,
        ),
        "OrthogonalRnn": assemble(
            OrthogonalRnn,
            lambda s, b, t: {"seq": randn(s, b, t, 4)},
            (2, 6),
            [(3, 9), (1, 4), (4, 7)],
            [(5, 8), (2, 12), (3, 5), (1, 10)],
            704,
        ),
    }
