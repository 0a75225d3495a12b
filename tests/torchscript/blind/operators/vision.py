import numpy as np
import torch
from torch import nn
import torch.nn.functional as F

from tests.torchscript.blind.operators._helpers import assemble, rand, randn, shift_mask, window_join, window_split
from tests.torchscript.blind.operators._nputil import dilate_erode


class SpatialTransformer(nn.Module):
    """Predicts an affine warp and resamples the image with it."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()
        )
        self.theta = nn.Linear(8, 6)
        self.theta.bias.data = torch.tensor([1.0, 0.1, 0.0, -0.1, 0.9, 0.05])
        self.cls = nn.Conv2d(3, 10, 3, padding=1)

    def forward(self, image):
        feats = self.loc(image).mean(dim=(2, 3))
        theta = self.theta(feats).view(-1, 2, 3)
        grid = F.affine_grid(theta, image.size(), align_corners=False)
        warped = F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)
        return {"warped": warped, "logits": self.cls(warped).mean(dim=(2, 3))}


class PatchMedianInpaint(nn.Module):
    """Fill holes from neighbours, overlap-add with a learned window, median residue."""

    def __init__(self):
        super().__init__()
        self.window = nn.Parameter(torch.rand(9) + 0.2)

    def forward(self, image, mask):
        b, c, h, w = image.shape
        cols = F.unfold(image, 3, padding=1).view(b, c, 9, h * w)
        valid = F.unfold(mask.to(image.dtype), 3, padding=1).view(b, 1, 9, h * w)
        mean = (cols * valid).sum(2) / valid.sum(2).clamp_min(1.0)
        fill = torch.where(mask, image, mean.view(b, c, h, w))
        patches = F.unfold(fill, 3, padding=1).view(b, c, 9, h * w)
        patches = patches * self.window[None, None, :, None]
        total = F.fold(patches.view(b, c * 9, h * w), (h, w), 3, padding=1)
        norm = self.window[None, None, :, None].expand(b, c, 9, h * w)
        norm = F.fold(norm.reshape(b, c * 9, h * w), (h, w), 3, padding=1)
        med = cols.median(dim=2).values.view(b, c, h, w)
        return total / norm + 0.25 * (fill - med)


class AreaPyramid(nn.Module):
    """Restoration net: pad to a multiple of four, unshuffle, pyramid, shuffle, crop."""

    R = 4

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(16, 16, 3, padding=1)
        self.low = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image):
        h, w = image.shape[-2:]
        ph, pw = (self.R - h % self.R) % self.R, (self.R - w % self.R) % self.R
        x = image
        if ph or pw:
            x = F.pad(x, (0, pw, 0, ph), mode="reflect")
        z = F.pixel_unshuffle(x, self.R)
        z = z + torch.roll(F.gelu(self.mix(z)), shifts=3, dims=1)
        y = F.pixel_shuffle(z, self.R)[..., :h, :w]
        half = F.interpolate(image, size=(h // 2, w // 2), mode="bicubic", antialias=True, align_corners=False)
        area = F.interpolate(image, size=(h // 3, w // 3), mode="area")
        up = F.interpolate(self.low(area), size=(h, w), mode="nearest-exact")
        return y + up, half


class HueShift(nn.Module):
    """RGB -> HSV -> shifted hue -> RGB, written by masks in place, then a colour matrix."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(3) + 0.1 * torch.randn(3, 3))

    def forward(self, image, shift):
        r, g, b = image.unbind(dim=1)
        top, which = image.max(dim=1)
        d = top - image.min(dim=1).values
        hue = torch.zeros_like(top)
        live = d > 1e-4
        for k, (p, q) in enumerate(((g, b), (b, r), (r, g))):
            m = live & (which == k)
            hue[m] = (p[m] - q[m]) / d[m] + 2 * k
        hue = torch.remainder(hue, 6) / 6
        sat = torch.where(top > 0, d / top.clamp_min(1e-6), 0.0)
        h6 = ((hue + shift[:, None, None]) % 1.0) * 6
        sector = h6.floor()
        f = h6 - sector
        lo, down, up = top * (1 - sat), top * (1 - sat * f), top * (1 - sat * (1 - f))
        plan = ((top, up, lo), (down, top, lo), (lo, top, up), (lo, down, top), (up, lo, top), (top, lo, down))
        out = torch.empty_like(image)
        for k, planes in enumerate(plan):
            m = sector.long() % 6 == k
            for ch, plane in enumerate(planes):
                out[:, ch][m] = plane[m]
        out[:, 0] += 0.05
        out.clamp_(0, 1)
        return torch.einsum("oc,bchw->bohw", self.matrix, out)


class ShiftedWindow(nn.Module):
    """Swin block with rolled windows; the mask comes from a global memo by size."""

    def __init__(self, dim=16, heads=2, win=4):
        super().__init__()
        self.win, self.shift, self.heads = win, win // 2, heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.bias = nn.Parameter(0.2 * torch.randn(heads, win * win, win * win))

    def forward(self, feat):
        b, h, w, c = feat.shape
        x = torch.roll(self.norm(feat), (-self.shift, -self.shift), dims=(1, 2))
        win = window_split(x, self.win)
        n = win.shape[1]
        qkv = self.qkv(win).view(-1, n, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        att = q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5 + self.bias
        mask = shift_mask(h, w, self.win, self.shift)
        nw = mask.shape[0]
        att = att.view(b, nw, self.heads, n, n) + mask[None, :, None]
        att = att.view(-1, self.heads, n, n).softmax(-1)
        y = self.proj((att @ v).transpose(1, 2).reshape(-1, n, c))
        y = window_join(y, self.win, h, w)
        return feat + torch.roll(y, (self.shift, self.shift), dims=(1, 2))


class MorphGradientNumpy(nn.Module):
    """Edge map by NumPy morphology, percentile stretch, then a convnet."""

    def __init__(self):
        super().__init__()
        self.pre = nn.Conv2d(1, 1, 3, padding=1)
        self.net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def forward(self, image):
        smooth = self.pre(image).squeeze(1)
        hi, lo = dilate_erode(smooth.detach().cpu().numpy(), radius=1)
        edge = hi - lo
        p5, p95 = np.percentile(edge, [5, 95])
        edge = np.clip((edge - p5) / (p95 - p5 + 1e-6), 0, 1)
        edge = torch.from_numpy(edge.astype(np.float32)).to(image.device)
        x = torch.stack([smooth, edge], dim=1)
        return self.net(x).flatten(2).logsumexp(-1), edge


IMPOSSIBLE = set()


def _img(s, b, h, w, c=3):
    return {"image": rand(s, b, c, h, w)}


def _inpaint(s, b, h, w):
    return {"image": rand(s, b, 3, h, w), "mask": rand(s + 1, b, 1, h, w) > 0.3}


def _hue(s, b, h, w):
    img = rand(s, b, 3, h, w)
    img[:, :, :2, :2] = img[:, :1, :2, :2]
    return {"image": img, "shift": randn(s + 1, b)}


def cases():
    return {
        "SpatialTransformer": assemble(
            SpatialTransformer,
            _img,
            (2, 20, 24),
            [(1, 17, 31), (3, 28, 22)],
            [(2, 33, 18), (4, 21, 27), (1, 26, 40), (3, 19, 23)],
            201,
        ),
        "PatchMedianInpaint": assemble(
            PatchMedianInpaint,
            _inpaint,
            (2, 10, 12),
            [(1, 9, 15), (3, 13, 8)],
            [(2, 14, 11), (4, 7, 9), (1, 16, 10), (3, 12, 17), (2, 8, 8)],
            202,
        ),
        "AreaPyramid": assemble(
            AreaPyramid,
            lambda s, b, h, w: _img(s, b, h, w, 1),
            (2, 16, 24),
            [(1, 18, 21), (3, 15, 28), (2, 24, 17)],
            [(1, 20, 32), (2, 19, 23), (4, 27, 16), (3, 22, 25), (1, 28, 13)],
            203,
        ),
        "HueShift": assemble(
            HueShift, _hue, (2, 8, 10), [(1, 7, 12), (3, 9, 6)], [(2, 11, 7), (4, 6, 9), (1, 12, 13), (3, 10, 8)], 204
        ),
        "ShiftedWindow": assemble(
            ShiftedWindow,
            lambda s, b, h, w: {"feat": randn(s, b, h, w, 16)},
            (2, 8, 12),
            [(1, 12, 8), (3, 16, 20), (2, 8, 8)],
            [(1, 16, 12), (4, 8, 16), (2, 20, 12), (3, 12, 24), (2, 16, 16)],
            205,
        ),
        "MorphGradientNumpy": assemble(
            MorphGradientNumpy,
            lambda s, b, h, w: _img(s, b, h, w, 1),
            (2, 12, 14),
            [(1, 10, 17), (3, 15, 11)],
            [(2, 13, 9), (4, 11, 16), (1, 18, 12), (3, 9, 13)],
            206,
        ),
    }
